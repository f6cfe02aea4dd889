"""Image processors of Hugging Face's transformers and loaders of timm whose last steps are one pass of a kernel."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from handgrad.transforms.resized_crop import resized_crop

#: The backend's methods that a fused pass stands for, with their parameters as transformers 5.24 has them.
_METHODS = {
    "_preprocess": (
        "images do_resize size resample do_center_crop crop_size do_rescale rescale_factor do_normalize image_mean "
        "image_std do_pad pad_size disable_grouping return_tensors kwargs"
    ),
    "resize": "image size resample antialias kwargs",
    "center_crop": "image size kwargs",
    "rescale_and_normalize": "images do_rescale rescale_factor do_normalize image_mean image_std",
    "rescale": "image scale kwargs",
    "normalize": "image mean std inplace kwargs",
}
#: The kernel's, of torchvision's filters.
_MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")
#: What timm's loader makes of a batch of levels.
_STATEMENT = "next_input.to(self.img_dtype).sub_(self.mean).div_(self.std)"


def swap_for(what: Any) -> tuple[str, Callable[[], None]] | None:
    """If ``what`` is such an object, lets it go by our kernels: what is answered now, and what undoes it.

    Raises:
        TypeError: a processor that has no tensors.
        RuntimeError: another version, or a class with steps of its own in their place.
    """
    bases = {f"{base.__module__}.{base.__qualname__}": base for base in type(what).__mro__}
    if "transformers.image_processing_backends.TorchvisionBackend" in bases:
        return _swap_processor(what, bases["transformers.image_processing_backends.TorchvisionBackend"])
    if "transformers.image_processing_backends.PilBackend" in bases:
        raise TypeError(
            f"accelerate: {type(what).__name__} computes with Pillow; the processor must be one of tensors: load it "
            f'with backend="torchvision"'
        )
    if "timm.data.loader.PrefetchLoader" in bases:
        return _swap_loader(what, bases["timm.data.loader.PrefetchLoader"])
    return None


# ---- transformers ----------------------------------------------------------------------------------------------------


def _swap_processor(processor: Any, backend: type) -> tuple[str, Callable[[], None]]:
    original = type(processor)
    if issubclass(original, (_Fused, _Resize, _Normalise)):
        raise RuntimeError(f"accelerate: this {original.__name__} has been accelerated before")
    for name, expected in _METHODS.items():
        if " ".join(list(inspect.signature(getattr(backend, name)).parameters)[1:]) != expected:
            import transformers

            raise RuntimeError(
                f"accelerate: of transformers {transformers.__version__} handgrad does not know the arguments of "
                f"TorchvisionBackend.{name}"
            )
    own = {name for name in _METHODS if getattr(original, name) is not getattr(backend, name)}
    parts = [part for part in (_Fused, _Resize, _Normalise) if not own & part.stands_for]
    if not parts:
        raise RuntimeError(
            f"accelerate: {original.__name__} has {', '.join(sorted(own))} of its own, which may not be what handgrad "
            f"computes"
        )
    # The first is all there is to do; of a class with an order of its own, its steps.
    parts = parts[:1] if parts[0] is _Fused else parts
    made = _class_of(original, *parts)
    processor.__class__ = made

    def undo() -> None:
        if type(processor) is made:
            processor.__class__ = original

    names = " and ".join(part.answers for part in parts)
    return f"{original.__module__}.{original.__qualname__}: {names}", undo


class _Part:
    """What comes before the class of a processor, in a class of the same name: so it is saved as before."""

    #: The methods that must be the backend's, and the one that changes.
    stands_for: frozenset[str]
    answers: str

    def __reduce__(self) -> Any:
        parts = tuple(base for base in type(self).__bases__ if issubclass(base, _Part))
        return _restored, (type(self).__bases__[-1], parts, self.__dict__)


class _Fused(_Part):
    """All of it in one pass for each image."""

    stands_for, answers = frozenset(_METHODS), "_preprocess"

    def _preprocess(
        self, images: list[Tensor], do_resize: bool, size: Any, resample: Any, do_center_crop: bool, crop_size: Any,
        do_rescale: bool, rescale_factor: float, do_normalize: bool, image_mean: Any, image_std: Any,
        do_pad: bool | None, pad_size: Any, disable_grouping: bool | None, return_tensors: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        finish = _finish(do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        plans: list[Any] = [
            self._plan(image, do_resize, size, resample, do_center_crop, crop_size) if finish else None
            for image in images
        ]
        if any(plan is None for plan in plans):
            return super()._preprocess(  # type: ignore[misc]
                images, do_resize=do_resize, size=size, resample=resample, do_center_crop=do_center_crop,
                crop_size=crop_size, do_rescale=do_rescale, rescale_factor=rescale_factor, do_normalize=do_normalize,
                image_mean=image_mean, image_std=image_std, do_pad=do_pad, pad_size=pad_size,
                disable_grouping=disable_grouping, return_tensors=return_tensors, **kwargs,
            )  # fmt: skip
        from transformers.image_processing_base import BatchFeature

        assert finish is not None
        made: Any = []
        for image, (resizing, window) in zip(images, plans, strict=True):
            height, width = image.shape[1:]
            made.append(resized_crop(image, 0, 0, height, width, *resizing, window=window, **finish))
        if do_pad:
            made = self.pad(made, pad_size=pad_size, disable_grouping=disable_grouping)  # type: ignore[attr-defined]
        return BatchFeature(data={"pixel_values": made}, tensor_type=return_tensors)

    def _plan(self, image: Any, do_resize: bool, size: Any, resample: Any, do_center_crop: bool, crop_size: Any) -> Any:
        """How an image is resized, and which window of that is kept; None where this is not for the kernel."""
        if not _is_image(image) or image.dim() != 3:
            return None
        height, width = image.shape[1:]
        resizing = _Resizing((height, width), "nearest", False)
        if do_resize:
            noted = _resizing(self, image, size, resample)
            if noted is None:
                return None
            resizing = noted
        if not do_center_crop:
            return resizing, None
        # One that is larger than its image is padded, and one without numbers is complained about, by transformers.
        (height, width), rows, columns = resizing.size, crop_size.height, crop_size.width
        if not rows or not columns or rows > height or columns > width:
            return None
        return resizing, (int((height - rows) / 2.0), int((width - columns) / 2.0), rows, columns)


class _Resize(_Part):
    stands_for, answers = frozenset({"resize"}), "resize"

    def resize(self, image: Tensor, size: Any, resample: Any = None, antialias: bool = True, **kwargs: Any) -> Tensor:
        resizing = _resizing(self, image, size, resample, antialias) if _is_image(image) else None
        if resizing is None:
            return super().resize(image, size, resample, antialias, **kwargs)  # type: ignore[misc]
        return resized_crop(image, 0, 0, image.shape[-2], image.shape[-1], *resizing)


class _Normalise(_Part):
    stands_for, answers = frozenset({"rescale_and_normalize", "rescale", "normalize"}), "rescale_and_normalize"

    def rescale_and_normalize(
        self, images: Tensor, do_rescale: bool, rescale_factor: float, do_normalize: bool, image_mean: Any,
        image_std: Any,
    ) -> Tensor:  # fmt: skip
        finish = _finish(do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        if not finish or not _is_image(images):
            theirs = super().rescale_and_normalize  # type: ignore[misc]
            return theirs(images, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        height, width = images.shape[-2:]
        return resized_crop(images, 0, 0, height, width, (height, width), "nearest", **finish)


def _is_image(image: Any) -> bool:
    return isinstance(image, Tensor) and image.dim() in (3, 4) and image.dtype in (torch.uint8, torch.float32)


_CLASSES: dict[tuple[type, ...], type] = {}


def _class_of(original: type, *parts: type) -> type:
    key = (original, *parts)
    if key not in _CLASSES:
        names = {"__module__": original.__module__, "__qualname__": original.__qualname__, "__doc__": original.__doc__}
        _CLASSES[key] = type(original.__name__, (*parts, original), names)
    return _CLASSES[key]


def _restored(original: type, parts: tuple[type, ...], state: dict[str, Any]) -> Any:
    processor: Any = object.__new__(_class_of(original, *parts))
    processor.__dict__.update(state)
    return processor


class _Resizing(NamedTuple):
    """What transformers would call torchvision's ``resize`` with."""

    size: tuple[int, int]
    interpolation: str
    antialias: bool


class _Functional:
    """torchvision's functionals, of which ``resize`` is told to no one else: it is only noted."""

    def __init__(self, functional: Any) -> None:
        self.functional = functional

    def __getattr__(self, name: str) -> Any:
        return getattr(self.functional, name)

    def resize(self, image: Tensor, size: Any, interpolation: Any, antialias: bool) -> _Resizing:
        return _Resizing((int(size[0]), int(size[1])), interpolation.value, antialias)


@functools.cache
def _noting(method: types.FunctionType) -> types.FunctionType:
    """The backend's ``resize`` among those functionals: its own choice of size and filter, and no picture."""
    names = {**method.__globals__, "tvF": _Functional(method.__globals__["tvF"])}
    noting = types.FunctionType(method.__code__, names, method.__name__, method.__defaults__, method.__closure__)
    noting.__kwdefaults__ = method.__kwdefaults__
    return noting


def _resizing(processor: Any, image: Tensor, size: Any, resample: Any, antialias: bool = True) -> _Resizing | None:
    """None where the kernel has no such filter, or transformers does something else."""
    backend = next(base for base in type(processor).__mro__ if base.__name__ == "TorchvisionBackend")
    noted = _noting(vars(backend)["resize"])(processor, image, size, resample, antialias)
    return noted if isinstance(noted, _Resizing) and noted.interpolation in _MODES else None


def _finish(rescales: bool, factor: float, normalises: bool, mean: Any, std: Any) -> dict[str, Any] | None:
    """What becomes of the levels, in transformers' order of operations; None where the kernel has another."""
    if not rescales and not normalises:
        return {"dtype": None}
    if not normalises:  # times a number that float32 has too
        return {"dtype": torch.float32, "scaling": "product"} if factor == 1 / 255 else None
    numbers = [torch.tensor(values) for values in (mean, std)]
    if rescales:
        numbers = [values * (1.0 / factor) for values in numbers]
    means, stds = ([float(number) for number in values.flatten()] for values in numbers)
    return {"dtype": torch.float32, "mean": means, "std": stds, "scaling": "none"} if all(stds) else None


# ---- timm ------------------------------------------------------------------------------------------------------------


def _swap_loader(loader: Any, base: type) -> tuple[str, Callable[[], None]]:
    if isinstance(loader.loader, _Batches):
        raise RuntimeError("accelerate: this PrefetchLoader has been accelerated before")
    goes_on = getattr(type(loader), "__iter__") is getattr(base, "__iter__")  # noqa: B009
    if not goes_on or _STATEMENT not in inspect.getsource(base):
        import timm

        raise RuntimeError(f"accelerate: of timm {timm.__version__} handgrad does not know how {base.__name__} goes on")
    original = loader.loader
    batches = loader.loader = _Batches(original, loader.mean, loader.std)

    def undo() -> None:
        if loader.loader is batches:
            loader.loader = original

    return "timm.data.loader.PrefetchLoader.__iter__", undo


class _Batches:
    """A loader whose batches of levels are normalised in one pass when timm has moved them to its device."""

    def __init__(self, loader: Any, mean: Tensor, std: Tensor) -> None:
        self.loader = loader
        self.mean, self.std = ([float(number) for number in values.flatten()] for values in (mean, std))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for images, target in self.loader:
            levels = isinstance(images, Tensor) and images.dtype is torch.uint8 and images.dim() == 4
            yield (_Levels(images, self) if levels else images), target

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet, while it is unpickled
            raise AttributeError(name)
        return getattr(self.loader, name)


class _Levels:
    """A batch in between: it goes to a device and to a type, and what is subtracted and divided by is known."""

    def __init__(self, images: Tensor, batches: _Batches) -> None:
        self.images, self.batches, self.dtype = images, batches, torch.float32

    def to(self, dtype: torch.dtype | None = None, **where: Any) -> _Levels:
        self.dtype = dtype or self.dtype
        self.images = self.images.to(**where) if where else self.images
        return self

    def sub_(self, mean: Tensor) -> _Levels:
        return self

    def div_(self, std: Tensor) -> Tensor:
        size = height, width = self.images.shape[2], self.images.shape[3]
        finish: dict[str, Any] = {"mean": self.batches.mean, "std": self.batches.std, "scaling": "none"}
        return resized_crop(self.images, 0, 0, height, width, size, "nearest", dtype=self.dtype, **finish)
