"""What takes the place of torchvision's own kernels of tensors: each knows which images it computes as torchvision
does, and hands the others to the kernel that it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from handgrad._images import can_normalise
from handgrad.transforms import mixing
from handgrad.transforms._pictures import is_picture, wrapped
from handgrad.transforms._sizes import interpolation_name, resized_size
from handgrad.transforms._warps import affine, elastic, perspective, rotate
from handgrad.transforms.adjust_colors import adjust_colors
from handgrad.transforms.adjust_colors import rgb_to_grayscale as to_grayscale
from handgrad.transforms.adjust_sharpness import adjust_sharpness as to_sharpened
from handgrad.transforms.adjust_tones import adjust_tones
from handgrad.transforms.gaussian_blur import gaussian_blur as blur
from handgrad.transforms.resized_crop import resized_crop as crop_and_resize

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_Kernel = Callable[..., Any]


def resize(
    theirs: _Kernel,
    inpt: Any,
    size: Any,
    interpolation: Any = "bilinear",
    max_size: int | None = None,
    antialias: bool | None = True,
) -> Any:
    mode = interpolation_name(interpolation)
    if is_picture(inpt) and mode in _INTERPOLATIONS:
        height, width = inpt.shape[-2:]
        new = resized_size(size, max_size, height, width)
        if new == (height, width):
            return inpt
        if new and min(new) > 0:
            return _by_kernel(inpt, 0, 0, height, width, new, mode, bool(antialias))
    return theirs(inpt, size=size, interpolation=interpolation, max_size=max_size, antialias=antialias)


def resized_crop(
    theirs: _Kernel,
    inpt: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: Any,
    interpolation: Any = "bilinear",
    antialias: bool | None = True,
) -> Any:
    mode = interpolation_name(interpolation)
    if is_picture(inpt) and mode in _INTERPOLATIONS and height > 0 and width > 0:
        new = resized_size(size, None, height, width)
        # Beyond the image torchvision pads.
        inside = 0 <= top <= inpt.shape[-2] - height and 0 <= left <= inpt.shape[-1] - width
        if inside and new and min(new) > 0:
            return _by_kernel(inpt, top, left, height, width, new, mode, bool(antialias))
    box = {"top": top, "left": left, "height": height, "width": width}
    return theirs(inpt, **box, size=size, interpolation=interpolation, antialias=antialias)


def normalize(theirs: _Kernel, inpt: Any, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> Any:
    lists = isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple))
    if lists and not inplace and is_picture(inpt) and inpt.is_floating_point():
        channels, height, width = inpt.shape[-3:]
        means, stds = [float(x) for x in mean], [float(x) for x in std]
        fits = all(len(numbers) in (1, channels) for numbers in (means, stds))
        if fits and can_normalise(means, stds):
            return _by_kernel(inpt, 0, 0, height, width, (height, width), "nearest", mean=means, std=stds)
    return theirs(inpt, mean=mean, std=std, inplace=inplace)


def adjust_brightness(theirs: _Kernel, inpt: Any, brightness_factor: float) -> Any:
    fits = has_colours(inpt) and can_adjust("brightness", brightness_factor)
    return coloured(inpt, ["brightness"], [brightness_factor]) if fits else theirs(inpt, brightness_factor)


def adjust_contrast(theirs: _Kernel, inpt: Any, contrast_factor: float) -> Any:
    fits = has_colours(inpt) and can_adjust("contrast", contrast_factor)
    return coloured(inpt, ["contrast"], [contrast_factor]) if fits else theirs(inpt, contrast_factor)


def adjust_saturation(theirs: _Kernel, inpt: Any, saturation_factor: float) -> Any:
    fits = has_colours(inpt) and can_adjust("saturation", saturation_factor)
    return coloured(inpt, ["saturation"], [saturation_factor]) if fits else theirs(inpt, saturation_factor)


def adjust_hue(theirs: _Kernel, inpt: Any, hue_factor: float) -> Any:
    fits = has_colours(inpt) and can_adjust("hue", hue_factor)
    return coloured(inpt, ["hue"], [hue_factor]) if fits else theirs(inpt, hue_factor)


def adjust_sharpness(theirs: _Kernel, inpt: Any, sharpness_factor: float) -> Any:
    if has_colours(inpt) and can_adjust("sharpness", sharpness_factor):
        return wrapped(inpt, to_sharpened(inpt.as_subclass(Tensor), sharpness_factor))
    return theirs(inpt, sharpness_factor)


def rgb_to_grayscale(theirs: _Kernel, inpt: Any, num_output_channels: int = 1) -> Any:
    from torchvision.tv_tensors import Video

    # Videos torchvision leaves as they are.
    if has_colours(inpt) and type(inpt) is not Video and num_output_channels in (1, 3) and inpt.shape[-3] == 3:
        return wrapped(inpt, to_grayscale(inpt.as_subclass(Tensor), num_output_channels))
    return theirs(inpt, num_output_channels)


def gaussian_blur(theirs: _Kernel, inpt: Any, kernel_size: Any, sigma: Any = None) -> Any:
    from PIL.Image import Image as Picture

    if isinstance(inpt, Picture):  # which is a tensor in between for torchvision too
        from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

        image = pil_to_tensor(inpt)
        if _can_blur(image, kernel_size, sigma):
            return to_pil_image(blur(image, kernel_size, sigma), mode=inpt.mode)
    elif _can_blur(inpt, kernel_size, sigma):
        return wrapped(inpt, blur(inpt.as_subclass(Tensor), kernel_size, sigma))
    return theirs(inpt, kernel_size=kernel_size, sigma=sigma)


def _can_blur(inpt: Any, kernel_size: Any, sigma: Any) -> bool:
    """Of kernels that torchvision takes; it says what is wrong with another, or with an image smaller than one."""
    taps = [kernel_size] * 2 if type(kernel_size) is int else kernel_size
    numbers = sigma if isinstance(sigma, (list, tuple)) else [1.0 if sigma is None else sigma]
    fits = isinstance(taps, (list, tuple)) and len(taps) == 2 and len(numbers) in (1, 2)
    fits = fits and all(type(size) is int and size > 0 and size % 2 for size in taps)
    fits = fits and all(type(number) in (int, float) and 0 < number < 1e38 for number in numbers)
    return fits and is_picture(inpt) and taps[0] // 2 < inpt.shape[-1] and taps[1] // 2 < inpt.shape[-2]


def posterize(theirs: _Kernel, inpt: Any, bits: int) -> Any:
    fits = is_picture(inpt) and type(bits) is int and 0 <= bits <= 8
    return _toned(inpt, "posterize", bits) if fits else theirs(inpt, bits=bits)


def solarize(theirs: _Kernel, inpt: Any, threshold: float) -> Any:
    # A negative whole number torch takes for another level; what is beyond the range it says itself.
    fits = is_picture(inpt) and type(threshold) in (int, float)
    if fits and (0 if type(threshold) is int else -1e30) <= threshold <= (1 if inpt.is_floating_point() else 255):
        return _toned(inpt, "solarize", threshold)
    return theirs(inpt, threshold=threshold)


def invert(theirs: _Kernel, inpt: Any) -> Any:
    return _toned(inpt, "invert") if is_picture(inpt) else theirs(inpt)


def autocontrast(theirs: _Kernel, inpt: Any) -> Any:
    return _toned(inpt, "autocontrast") if has_colours(inpt) else theirs(inpt)


def equalize(theirs: _Kernel, inpt: Any) -> Any:
    return _toned(inpt, "equalize") if is_picture(inpt) else theirs(inpt)


def _toned(inpt: Tensor, operation: str, number: float = 0) -> Tensor:
    return _of_images(inpt, lambda image: adjust_tones(image, [operation], [number]))


def erase(theirs: _Kernel, inpt: Any, i: int, j: int, h: int, w: int, v: Any, inplace: bool = False) -> Any:
    box = all(type(number) is int for number in (i, j, h, w))
    takes = is_picture(inpt) and isinstance(v, Tensor) and not inplace and not mixing.is_small(inpt.as_subclass(Tensor))
    if takes and box and min(i, j) >= 0 and min(h, w) > 0:
        shape = (*inpt.shape[:-2], h, w)
        inside = i + h <= inpt.shape[-2] and j + w <= inpt.shape[-1]
        if inside and v.dim() <= len(shape) and all(a in (1, b) for a, b in zip(v.shape[::-1], shape[::-1])):  # noqa: B905
            value = v.as_subclass(Tensor)
            # One number a channel is an argument of the kernel, wherever the image is.
            few = value.is_cpu and value.numel() in (1, shape[-3]) and value.shape[-2:].numel() == 1
            value = value if few else value.to(inpt.device)
            return wrapped(inpt, mixing.erase(inpt.as_subclass(Tensor), i, j, h, w, value))
    return theirs(inpt, i=i, j=j, h=h, w=w, v=v, inplace=inplace)


#: By the name of torchvision's functional.
KERNELS: dict[str, _Kernel] = {
    kernel.__name__: kernel
    for kernel in (
        resize,
        resized_crop,
        normalize,
        adjust_brightness,
        adjust_contrast,
        adjust_saturation,
        adjust_hue,
        adjust_sharpness,
        rgb_to_grayscale,
        gaussian_blur,
        posterize,
        solarize,
        invert,
        autocontrast,
        equalize,
        affine,
        rotate,
        perspective,
        elastic,
        erase,
    )
}


#: Of which torchvision has no kernel for videos.
NOT_OF_VIDEOS = ("rgb_to_grayscale",)


def can_adjust(operation: str, factor: Any) -> bool:
    """Whether the kernel takes this factor; torchvision says what is wrong with another."""
    low, high = (-0.5, 0.5) if operation == "hue" else (0.0, 1e38)
    return type(factor) in (int, float) and low <= factor <= high


def jitter_steps(params: dict[str, Any]) -> tuple[list[str], list[float]]:
    """What torchvision's ``ColorJitter`` has drawn: its operations in their order, and their factors."""
    names = ("brightness", "contrast", "saturation", "hue")
    drawn = [(names[k], params[f"{names[k]}_factor"]) for k in params["fn_idx"].tolist()]
    return [name for name, factor in drawn if factor is not None], [x for _, x in drawn if x is not None]


def has_colours(inpt: Any) -> bool:
    return is_picture(inpt) and inpt.shape[-3] in (1, 3)


def coloured(inpt: Tensor, operations: list[str], factors: list[float]) -> Tensor:
    return _of_images(inpt, lambda image: adjust_colors(image, operations, factors))


def _by_kernel(inpt: Tensor, *numbers: Any, **others: Any) -> Tensor:
    return _of_images(inpt, lambda image: crop_and_resize(image, *numbers, **others))


def _of_images(inpt: Tensor, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """Of an image, a batch or a video, which stays what it is; kernels take a batch at most."""
    image = inpt.as_subclass(Tensor)
    if image.dim() <= 4:
        return wrapped(inpt, kernel(image))
    return wrapped(inpt, kernel(image.flatten(0, -4)).unflatten(0, image.shape[:-3]))
