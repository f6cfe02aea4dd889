"""Scores of two images, window by window, of means and (co)variances in each: all but the formula.

The op's schema is ``foo(Tensor input, Tensor target, int window_size, float sigma, int padding, bool reduced,
<numbers>) -> Tensor``, a map of scores or their mean over each plane; its private ops' are as
:mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/window_score.h``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad._layout import empty_gradient
from handgrad.arguments import FLOAT_MAX, check_choice, check_int, check_like, check_range, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, Derivatives

__all__ = [
    "Moments",
    "Window",
    "WindowModule",
    "WindowScore",
    "as_images",
    "batch_and_channels",
    "check_images",
    "check_window",
    "checked_shape",
    "moments_of",
    "reduced",
    "stabilisers",
    "structural_similarity",
]

_PADDINGS = {"valid": 0, "reflect": 1, "zeros": 2}
_REDUCTIONS = ("none", "image", "mean")
#: Windows are odd, and their indices have 16 bits.
_MOST = 2**16 - 1


class Window(NamedTuple):
    """A window as the ops take it; sigma 0 is a uniform one."""

    size: int
    sigma: float
    padding: int


class Moments(NamedTuple):
    """Of each window; all have the shape of the map."""

    mean_x: Tensor
    mean_y: Tensor
    var_x: Tensor
    var_y: Tensor
    cov: Tensor


class WindowScore(Derivatives):
    """Registers a score of windows and calls it, with the checks and conversions that all of them share.

    Args:
        name: ``"namespace::op"``.
        formula: the score of each window in plain PyTorch, ``formula(moments, *numbers)``.

    Example::

        >>> _score = WindowScore("my_ops::my_score", my_formula)
        >>> _score(input, target, Window(11, 1.5, 0), True, eps)
    """

    def __init__(self, name: str, formula: Callable[..., Tensor]) -> None:
        super().__init__(
            name,
            reference=_reference_of(formula),
            fake=self.fake_scores,
            roles=BATCHED,
            gradient_like=empty_gradient,
            autocast=torch.float32,
            splits=batch_and_channels,
        )

    def __call__(self, input: Tensor, target: Tensor, window: Window, by_plane: bool, *numbers: Any) -> Tensor:
        """The scores, a map or the mean of each plane, (N, C); what a user typed is checked by the caller."""
        return self.forward(input, target, *window, by_plane, *numbers)

    def fake_scores(
        self, input: Tensor, target: Tensor, size: int, sigma: float, padding: int, by_plane: bool, *numbers: Any
    ) -> Tensor:
        shape = checked_shape(self.title, input, target)
        for extent in shape[2:]:
            if padding != _PADDINGS["zeros"]:
                least = size if padding == _PADDINGS["valid"] else size // 2 + 1
                torch._check(
                    extent >= least,
                    lambda: f"{self.title}: input must be at least as large as the window; got {shape}",
                )
        dtype = computed_dtype(input)
        if by_plane:
            return input.new_empty(shape[:2], dtype=dtype)
        less = size - 1 if padding == _PADDINGS["valid"] else 0
        shape = (*shape[:2], *(extent - less for extent in shape[2:]))
        if input.is_contiguous() or not input.movedim(1, -1).is_contiguous():
            return input.new_empty(shape, dtype=dtype)
        return input.new_empty((shape[0], *shape[2:], shape[1]), dtype=dtype).movedim(-1, 1)


def batch_and_channels(**_: Any) -> list[dict[str, int | None]]:
    """How a score of planes can be split over devices: every plane is by itself."""
    return [dict.fromkeys(("input", "target", "output"), dim) for dim in (0, 1)]


class WindowModule(nn.Module):
    """A function of two images and settings, ``_function``, as a module.

    Args:
        settings: the function's keyword arguments, which the caller has checked; they become attributes.
    """

    _function: Callable[..., Tensor]

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._function(input, target, **{name: getattr(self, name) for name in self._settings})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._settings)


# ---- what users typed ------------------------------------------------------------------------------------------------


def check_window(op: str, window_size: Any, sigma: Any, window: Any, padding: Any, reduction: Any) -> Window:
    """The window that these mean."""
    size = check_int(op, "window_size", window_size, 1, _MOST, "a whole number, odd, at least 1 and below 2^16")
    if size % 2 == 0:
        raise ValueError(f"{op}: window_size must be an odd number, at least 1 and below 2^16; got {window_size!r}")
    check_range(op, "sigma", sigma, 1e-3, FLOAT_MAX, "a finite number, at least 0.001")
    uniform = check_choice(op, "window", window, ("gaussian", "uniform")) == "uniform"
    code = _PADDINGS[check_choice(op, "padding", padding, _PADDINGS)]
    check_choice(op, "reduction", reduction, _REDUCTIONS)
    return Window(size, 0.0 if uniform else float(sigma), code)


def check_images(op: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both as tensors of one type, promoted as torch does where they are of several floating-point ones."""
    check_tensor(op, "input", input)
    check_tensor(op, "target", target)
    if input.dtype is target.dtype or not (input.is_floating_point() and target.is_floating_point()):
        return input, target
    dtype = torch.promote_types(input.dtype, target.dtype)
    return input.to(dtype), target.to(dtype)


def checked_shape(op: str, input: Tensor, target: Tensor) -> tuple[int, ...]:
    """That of both images, as a fake asks it."""
    shape = tuple(input.shape)
    torch._check(
        len(shape) in (4, 5), lambda: f"{op}: input must have shape (N, C, H, W) or (N, C, D, H, W); got {shape}"
    )
    check_like(op, "target", target, "input", input)
    return shape


def as_images(op: str, input: Tensor, target: Tensor, data_range: Any) -> tuple[Tensor, Tensor, Any]:
    """Images of bytes as float32, with their range if none is given; all others as they are."""
    input, target = check_images(op, input, target)
    if input.dtype is torch.uint8 and target.dtype is torch.uint8:
        return input.to(torch.float32), target.to(torch.float32), 255.0 if data_range is None else data_range
    return input, target, data_range


def stabilisers(op: str, data_range: Any, k1: Any, k2: Any) -> tuple[float, float]:
    """The constants of structural similarity, c1 and c2."""
    if data_range is None:
        raise ValueError(
            f"{op}: data_range must be given for images of floating-point numbers, 1.0 for those in [0, 1] and 255 for "
            f"those in [0, 255]; got None"
        )
    for name, value, high in (("data_range", data_range, 1e12), ("k1", k1, 1.0), ("k2", k2, 1.0)):
        # Squared, and then of float32, they are still numbers.
        low = 1e-12 if name == "data_range" else 1e-6
        check_range(op, name, value, low, high, f"a number from {low:g} to {high:g}")
    return (float(k1) * float(data_range)) ** 2, (float(k2) * float(data_range)) ** 2


def reduced(scores: Tensor, reduction: str) -> Tensor:
    """A map as it is; of the means of planes, (N, C), the mean of each image or of all. That of nothing is 0."""
    if reduction == "none":
        return scores
    if reduction == "image":
        return scores.sum(1) / _at_least_one(scores.shape[1])
    # In two steps, each of which torch takes in one order for any number of threads.
    return scores.sum(1).sum() / _at_least_one(scores.numel())


def _at_least_one(count: int) -> int:
    # A trace records sizes, and asks nothing of them.
    return count if torch.jit.is_tracing() else max(1, count)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def _reference_of(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reference(
        input: Tensor, target: Tensor, size: int, sigma: float, padding: int, by_plane: bool, *numbers: Any
    ) -> Tensor:
        scores = formula(moments_of(input, target, Window(size, sigma, padding)), *numbers)
        return scores.flatten(2).mean(2) if by_plane else scores

    # Whose it is: registration names the op's public function by its module.
    reference.__module__ = formula.__module__
    return reference


def structural_similarity(moments: Moments, c1: float, c2: float, with_luminance: bool = True) -> Tensor:
    """The index of each window, or its contrast alone. To be trusted because it is the definition."""
    x, y = moments.mean_x, moments.mean_y
    contrast = (2 * moments.cov + c2) / (moments.var_x + moments.var_y + c2)
    return (2 * x * y + c1) / (x**2 + y**2 + c1) * contrast if with_luminance else contrast


def moments_of(input: Tensor, target: Tensor, window: Window) -> Moments:
    """Window by window. To be trusted because each is an average over windows, taken by a convolution."""
    x, y = input.to(computed_dtype(input)), target.to(computed_dtype(input))
    # E[x^2] - E[x]^2 of bright images of low contrast would cancel.
    moved_x, moved_y = _level_of(x), _level_of(y)
    x, y = _padded(x, window) - moved_x, _padded(y, window) - moved_y
    mean_x, mean_y, xx, yy, xy = (_averaged(image, window) for image in (x, y, x * x, y * y, x * y))
    var_x, var_y = (xx - mean_x * mean_x).clamp(min=0), (yy - mean_y * mean_y).clamp(min=0)
    return Moments(mean_x + moved_x, mean_y + moved_y, var_x, var_y, xy - mean_x * mean_y)


def _level_of(image: Tensor) -> Tensor:
    """The mean of each plane, or 0 if that is not finite; not differentiated, since it changes nothing."""
    level = image.detach().mean(tuple(range(2, image.dim())), keepdim=True)
    return torch.where(level.abs() < math.inf, level, 0)


def _padded(image: Tensor, window: Window) -> Tensor:
    if window.padding == _PADDINGS["valid"] or window.size == 1:
        return image
    pads = [window.size // 2] * (2 * (image.dim() - 2))
    return F.pad(image, pads, mode="reflect" if window.padding == _PADDINGS["reflect"] else "constant")


def _averaged(image: Tensor, window: Window) -> Tensor:
    axes = image.dim() - 2
    distances = torch.arange(window.size, dtype=image.dtype, device=image.device) - window.size // 2
    weights = torch.exp(-0.5 * (distances / window.sigma) ** 2) if window.sigma else torch.ones_like(distances)
    taps = weights / weights.sum()
    planes = image.flatten(0, 1).unsqueeze(1)
    for axis in range(axes):
        kernel = taps.view(1, 1, *(window.size if axis == a else 1 for a in range(axes)))
        planes = (F.conv2d if axes == 2 else F.conv3d)(planes, kernel)
    return planes.reshape(image.shape[0], image.shape[1], *planes.shape[2:])
