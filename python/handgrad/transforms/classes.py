"""torchvision's transforms over handgrad's kernels: the same names, arguments, draws and pictures (docs/transforms.md).

Each is a subclass of torchvision's class of its name, from :mod:`torchvision.transforms.v2`, which checks arguments,
draws the parameters and transforms boxes, masks, keypoints and PIL images. Overridden is what becomes of a tensor.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from handgrad.transforms import kernels
from handgrad.transforms._torchvision import v2


class Resize(v2.Resize):
    """torchvision's ``Resize``, with images and videos resized by :func:`handgrad.transforms.resized_crop`: uint8 to
    the bit as torchvision does on a CPU, on every device."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        theirs = partial(self._call_kernel, v2.functional.resize)
        return kernels.resize(theirs, inpt, self.size, self.interpolation, self.max_size, self.antialias)


class RandomResizedCrop(v2.RandomResizedCrop):
    """torchvision's ``RandomResizedCrop``, with images and videos cropped and resized in one pass by
    :func:`handgrad.transforms.resized_crop`: uint8 to the bit as torchvision does on a CPU, on every device."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        theirs = partial(self._call_kernel, v2.functional.resized_crop)
        return kernels.resized_crop(
            theirs, inpt, **params, size=self.size, interpolation=self.interpolation, antialias=self.antialias
        )


class CenterCrop(v2.CenterCrop):
    """torchvision's ``CenterCrop``, which is a view of memory already."""


class RandomCrop(v2.RandomCrop):
    """torchvision's ``RandomCrop``, which is a view of memory already."""


class RandomHorizontalFlip(v2.RandomHorizontalFlip):
    """torchvision's ``RandomHorizontalFlip``; alone it is one pass over memory already."""


class RandomVerticalFlip(v2.RandomVerticalFlip):
    """torchvision's ``RandomVerticalFlip``; alone it is one pass over memory already."""


class ToDtype(v2.ToDtype):
    """torchvision's ``ToDtype``; alone it is one pass over memory already."""


class Normalize(v2.Normalize):
    """torchvision's ``Normalize`` in one pass over memory in place of two. Mean and deviation are arguments of the
    kernel, so that a device is neither waited for nor copied to (vision#9576)."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        theirs = partial(self._call_kernel, v2.functional.normalize)
        return kernels.normalize(theirs, inpt, self.mean, self.std, self.inplace)


class ColorJitter(v2.ColorJitter):
    """torchvision's ``ColorJitter``, with the operations on an image or a video in one pass over memory, by
    :func:`handgrad.transforms.adjust_colors`: uint8 to the bit as torchvision does on a CPU, on every device."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        names, factors = kernels.jitter_steps(params)
        fits = all(kernels.can_adjust(name, factor) for name, factor in zip(names, factors, strict=True))
        if fits and kernels.has_colours(inpt):
            return kernels.coloured(inpt, names, factors)
        return super().transform(inpt, params)


class GaussianBlur(v2.GaussianBlur):
    """torchvision's ``GaussianBlur``, with images, videos and PIL's images by
    :func:`handgrad.transforms.gaussian_blur`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        theirs = partial(self._call_kernel, v2.functional.gaussian_blur)
        return kernels.gaussian_blur(theirs, inpt, self.kernel_size, **params)


class Grayscale(v2.Grayscale):
    """torchvision's ``Grayscale``, with images and videos by :func:`handgrad.transforms.rgb_to_grayscale`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        theirs = partial(self._call_kernel, v2.functional.rgb_to_grayscale)
        return kernels.rgb_to_grayscale(theirs, inpt, self.num_output_channels)


class RandomGrayscale(v2.RandomGrayscale):
    """torchvision's ``RandomGrayscale``, with images and videos by :func:`handgrad.transforms.rgb_to_grayscale`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        theirs = partial(self._call_kernel, v2.functional.rgb_to_grayscale)
        return kernels.rgb_to_grayscale(theirs, inpt, params["num_input_channels"])


class RandomAdjustSharpness(v2.RandomAdjustSharpness):
    """torchvision's ``RandomAdjustSharpness``, with images and videos by :func:`handgrad.transforms.adjust_sharpness`:
    uint8 to the bit as torchvision does on a CPU, on every device."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        theirs = partial(self._call_kernel, v2.functional.adjust_sharpness)
        return kernels.adjust_sharpness(theirs, inpt, self.sharpness_factor)


class RandomPosterize(v2.RandomPosterize):
    """torchvision's ``RandomPosterize``, with images and videos by :func:`handgrad.transforms.posterize`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return kernels.posterize(partial(self._call_kernel, v2.functional.posterize), inpt, self.bits)


class RandomSolarize(v2.RandomSolarize):
    """torchvision's ``RandomSolarize``, with images and videos by :func:`handgrad.transforms.solarize`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return kernels.solarize(partial(self._call_kernel, v2.functional.solarize), inpt, self.threshold)


class RandomInvert(v2.RandomInvert):
    """torchvision's ``RandomInvert``, with images and videos by :func:`handgrad.transforms.invert`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return kernels.invert(partial(self._call_kernel, v2.functional.invert), inpt)


class RandomAutocontrast(v2.RandomAutocontrast):
    """torchvision's ``RandomAutocontrast``, with images and videos by :func:`handgrad.transforms.autocontrast`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return kernels.autocontrast(partial(self._call_kernel, v2.functional.autocontrast), inpt)


class RandomEqualize(v2.RandomEqualize):
    """torchvision's ``RandomEqualize``, with images and videos by :func:`handgrad.transforms.equalize`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return kernels.equalize(partial(self._call_kernel, v2.functional.equalize), inpt)


class _Warps:
    """What torchvision's class calls for an image or a video becomes one call of handgrad's kernel."""

    def _call_kernel(self, functional: Any, inpt: Any, *args: Any, **kwargs: Any) -> Any:
        theirs = partial(super()._call_kernel, functional)  # type: ignore[misc]
        return kernels.KERNELS[functional.__name__](theirs, inpt, *args, **kwargs)


class RandomAffine(_Warps, v2.RandomAffine):
    """torchvision's ``RandomAffine``, with images and videos read by :func:`handgrad.transforms.affine`: uint8 to the
    bit as torchvision does on a CPU, on every device."""


class RandomRotation(_Warps, v2.RandomRotation):
    """torchvision's ``RandomRotation``, with images and videos read by :func:`handgrad.transforms.rotate`: uint8 to the
    bit as torchvision does on a CPU, on every device."""


class RandomPerspective(_Warps, v2.RandomPerspective):
    """torchvision's ``RandomPerspective``, with images and videos read by :func:`handgrad.transforms.perspective`:
    uint8 to the bit as torchvision does on a CPU, on every device."""


class ElasticTransform(_Warps, v2.ElasticTransform):
    """torchvision's ``ElasticTransform``, with the field blurred by :func:`handgrad.transforms.gaussian_blur`, along
    rows and then along columns (vision#9577), and images, videos, masks and PIL's images read by
    :func:`handgrad.transforms.elastic`. The field has the same draws and is torchvision's but for last bits."""


class RandomErasing(v2.RandomErasing):
    """torchvision's ``RandomErasing``, with images and videos erased by :func:`handgrad.transforms.erase` in one pass.
    Boxes, masks and keypoints stay as they are, without a warning: what is erased is hidden, and still there."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask

        if params["v"] is None or isinstance(inpt, (BoundingBoxes, KeyPoints, Mask)):
            return inpt
        theirs = partial(self._call_kernel, v2.functional.erase)
        return kernels.erase(theirs, inpt, **params, inplace=self.inplace)
