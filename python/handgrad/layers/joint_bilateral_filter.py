"""Bilateral filters. Derivatives, edge cases, numerics: docs/layers/joint_bilateral_filter.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._borders import checked_window, moved, padded
from handgrad._layout import empty_image
from handgrad.arguments import (
    FLOAT_MAX,
    as_computed,
    check_choice,
    check_device,
    check_range,
    check_tensor,
    computed_dtype,
    dtype_name,
)
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "joint_bilateral_filter"
# In the order of csrc.
_DISTANCES = ("l1", "l2")
# Beside a tensor nobody reads those of all images; of an empty list AOTInductor would make None.
_UNUSED = [0.0, 0.0, 0.0]

# ---- public functions ------------------------------------------------------------------------------------------------


@traceable
def joint_bilateral_filter(
    input: Tensor,
    guidance: Tensor,
    kernel_size: int | Sequence[int],
    sigma_color: float | Tensor,
    sigma_space: float | Sequence[float] | Tensor,
    border_type: str = "reflect",
    color_distance_type: str = "l1",
) -> Tensor:
    r"""Means of windows, in which pixels count that are near and whose ``guidance`` is alike (Tomasi and Manduchi,
    *Bilateral filtering for gray and color images*, 1998; Petschnigg et al., *Digital photography with flash and
    no-flash image pairs*, 2004).

    .. math:: y(p) = \frac{\sum_t w(p, t)\, x(p + t)}{\sum_t w(p, t)}, \qquad w(p, t) = \exp\left(
        -\frac{d(p, t)^2}{2 \sigma_c^2} - \frac{t_y^2}{2 \sigma_y^2} - \frac{t_x^2}{2 \sigma_x^2}\right)

    where :math:`d` is the distance of the guidance's colours. Signature and values of kornia's
    ``joint_bilateral_blur``; beyond it: no map of windows, right gradients of all four tensors by kernels, second
    derivatives, forward mode, any number of channels, half types computed in float32, channels_last.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        guidance: (batch, any number of channels, height, width). Of another floating-point type it is cast to that of
            ``input``, but never from float64.
        kernel_size: rows and columns of the window; one number for both. Odd.
        sigma_color: how far apart colours are that still count: a number greater than 0, or a tensor of one or of
            (batch,), which may require grad.
        sigma_space: the same of rows and of columns, in pixels: a number for both, two, or a tensor of two or of
            (batch, 2), which may require grad.
        border_type: what is around the image: "reflect" (without the border's own pixels once more), "replicate",
            "constant" (zeros, in ``guidance`` too) or "circular".
        color_distance_type: "l1", the sum of the channels' absolute differences, or "l2", the root of the sum of their
            squares.

    Returns:
        (batch, channels, height, width) in the type of ``input``, channels_last if ``input`` is.

    Raises:
        ValueError: a number out of range, or a word that is none of those above. (Sigmas in a tensor are not looked
            at, which would make the host wait for a device: 0 is the limit, in which only equal colours count, a
            negative one is as good as a positive one.)
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together, or an image too small for its border:
            "reflect" takes more rows and columns than ``kernel_size // 2``, "circular" as many.

    Example:
        >>> step = torch.tensor([0.0, 1.0, 0.0, 9.0, 8.0, 9.0]).view(1, 1, 1, 6)
        >>> joint_bilateral_filter(step, step, (1, 3), 1.0, 1.0).flatten().round(decimals=2)
        tensor([0.4200, 0.5800, 0.2700, 8.7300, 8.4200, 8.5800])
    """
    check_tensor(_OP, "guidance", guidance)
    numbers = _checked_numbers(_OP, kernel_size, border_type, color_distance_type)
    return _filtered(_OP, input, guidance, (sigma_color, sigma_space), *numbers)


@traceable
def bilateral_filter(
    input: Tensor,
    kernel_size: int | Sequence[int],
    sigma_color: float | Tensor,
    sigma_space: float | Sequence[float] | Tensor,
    border_type: str = "reflect",
    color_distance_type: str = "l1",
) -> Tensor:
    """:func:`joint_bilateral_filter` of an image that guides itself: noise goes, edges stay. Signature and values of
    kornia's ``bilateral_blur``.

    Args:
        input, kernel_size, sigma_color, sigma_space, border_type, color_distance_type: as there.

    Example:
        >>> bilateral_filter(torch.rand(2, 3, 16, 16), 5, 0.1, (1.5, 1.5)).shape
        torch.Size([2, 3, 16, 16])
    """
    numbers = _checked_numbers("bilateral_filter", kernel_size, border_type, color_distance_type)
    return _filtered("bilateral_filter", input, None, (sigma_color, sigma_space), *numbers)


def _filtered(
    op: str,
    input: Tensor,
    guidance: Tensor | None,
    sigmas: tuple[Any, Any],
    taps: list[int],
    border: int,
    distance: int,
) -> Tensor:
    check_tensor(op, "input", input)
    if input.dim() != 4:
        raise RuntimeError(
            f"{op}: input must have 4 dimensions (batch, channels, height, width); got {tuple(input.shape)}"
        )
    if guidance is not None and guidance.dtype is not input.dtype:
        guidance = as_computed(op, "guidance", guidance, "an input", input).to(input.dtype)
    sigma, shared = _checked_sigmas(op, sigmas[0], sigmas[1], input)
    return _joint_bilateral_filter(input, guidance, sigma, taps, shared, border, distance)


def _checked_numbers(op: str, kernel_size: Any, border_type: Any, distance_type: Any) -> tuple[list[int], int, int]:
    window = checked_window(op, kernel_size, border_type)
    return *window, _DISTANCES.index(check_choice(op, "color_distance_type", distance_type, _DISTANCES))


def _sigma_numbers(op: str, name: str, sigma: Any, most: int) -> list[float]:
    said = "a finite number greater than 0" + (", or two of them" if most == 2 else "")
    numbers = list(sigma) if most == 2 and isinstance(sigma, (list, tuple)) else [sigma] * most
    if len(numbers) != most:
        raise TypeError(f"{op}: {name} must be {said}; got {sigma!r}")
    if sigma is None:
        raise TypeError(f"{op}: {name} must be {said}; got NoneType")
    for number in numbers:
        check_range(op, name, number, 5e-324, FLOAT_MAX, said)
    return [float(number) for number in numbers]


def _sigma_columns(op: str, name: str, sigma: Any, most: int, input: Tensor) -> Tensor:
    """(batch, most) of numbers, or of a tensor."""
    batch = input.shape[0]
    if not isinstance(sigma, Tensor):
        numbers = _sigma_numbers(op, name, sigma, most)
        # Not from a list, which a capture of a CUDA graph would refuse.
        columns = [torch.full((batch, 1), number, dtype=torch.float64, device=input.device) for number in numbers]
        return torch.cat(columns, 1)
    check_tensor(op, name, sigma)
    check_device(op, name, sigma, "input", input)
    if not sigma.is_floating_point():
        kind = dtype_name(sigma.dtype)
        raise TypeError(f"{op}: {name} must be a number or a tensor of floating-point ones; got {kind}")
    ranks = (0, 1) if most == 1 else (1, 2)
    shape = "one number or of (batch,)" if most == 1 else "two numbers or of (batch, 2)"
    # Traces have no sizes to ask; the op asks them again.
    is_asked = not torch.jit.is_tracing()
    if sigma.dim() not in ranks or (most == 2 and is_asked and sigma.shape[-1] != 2):
        raise RuntimeError(f"{op}: {name} must be a tensor of {shape}; got {tuple(sigma.shape)}")
    rows = sigma.reshape(1, most) if sigma.dim() == ranks[0] else sigma[:, None] if most == 1 else sigma
    # Not `in`: some Dynamos do not find a size among others there.
    if is_asked and rows.shape[0] != 1 and rows.shape[0] != batch:
        raise RuntimeError(
            f"{op}: {name} must be a tensor of {shape}; got {tuple(sigma.shape)} beside an input of "
            f"{tuple(input.shape)}"
        )
    return rows.double().expand(batch, most)


def _checked_sigmas(op: str, color: Any, space: Any, input: Tensor) -> tuple[Tensor | None, list[float]]:
    """Those of each image, or those of all."""
    if isinstance(color, Tensor) or isinstance(space, Tensor):
        column = _sigma_columns(op, "sigma_color", color, 1, input)
        return torch.cat((column, _sigma_columns(op, "sigma_space", space, 2, input)), 1), _UNUSED
    return None, _sigma_numbers(op, "sigma_color", color, 1) + _sigma_numbers(op, "sigma_space", space, 2)


# ---- module ----------------------------------------------------------------------------------------------------------


class _Filter(nn.Module):
    sigma_color: Any
    sigma_space: Any

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        sigma_color: float | Tensor,
        sigma_space: float | Sequence[float] | Tensor,
        border_type: str = "reflect",
        color_distance_type: str = "l1",
        learnable: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = tuple(_checked_numbers(name, kernel_size, border_type, color_distance_type)[0])
        for title, sigma, most in (("sigma_color", sigma_color, 1), ("sigma_space", sigma_space, 2)):
            if not isinstance(sigma, Tensor):
                numbers = _sigma_numbers(name, title, sigma, most)
                sigma = torch.tensor(numbers) if learnable else numbers[0] if most == 1 else tuple(numbers)
            if learnable:
                self.register_parameter(title, nn.Parameter(torch.as_tensor(sigma).detach().clone()))
            elif isinstance(sigma, Tensor):
                self.register_buffer(title, sigma)
            else:
                setattr(self, title, sigma)
        self.border_type = border_type
        self.color_distance_type = color_distance_type
        self.learnable = learnable

    def extra_repr(self) -> str:
        sigmas = "".join(
            f", {name}={value}"
            for name in ("sigma_color", "sigma_space")
            if not isinstance(value := getattr(self, name), Tensor)
        )
        return (
            f"kernel_size={self.kernel_size}{sigmas}, border_type={self.border_type!r}, "
            f"color_distance_type={self.color_distance_type!r}, learnable={self.learnable}"
        )


class JointBilateralFilter(_Filter):
    """:func:`joint_bilateral_filter` as a module, in place of kornia's ``JointBilateralBlur``.

    Args:
        kernel_size, sigma_color, sigma_space, border_type, color_distance_type: as the function takes them.
        learnable: both sigmas are parameters, ``(1,)`` and ``(2,)``, or of the shapes of tensors. Tensors that are not
            to be learnt are buffers.

    Example:
        >>> layer = JointBilateralFilter(5, 0.2, 1.5, learnable=True)
        >>> layer(torch.rand(1, 2, 8, 8), torch.rand(1, 3, 8, 8)).sum().backward()
        >>> layer.sigma_space.grad.shape
        torch.Size([2])
    """

    def forward(self, input: Tensor, guidance: Tensor) -> Tensor:
        return joint_bilateral_filter(
            input, guidance, self.kernel_size, self.sigma_color, self.sigma_space, self.border_type,
            self.color_distance_type,
        )  # fmt: skip


class BilateralFilter(_Filter):
    """:func:`bilateral_filter` as a module, in place of kornia's ``BilateralBlur``.

    Args:
        kernel_size, sigma_color, sigma_space, border_type, color_distance_type, learnable: as
            :class:`JointBilateralFilter`'s.

    Example:
        >>> BilateralFilter(5, 0.1, (1.5, 1.5))(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    def forward(self, input: Tensor) -> Tensor:
        return bilateral_filter(
            input, self.kernel_size, self.sigma_color, self.sigma_space, self.border_type, self.color_distance_type
        )


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def joint_bilateral_filter_reference(
    input: Tensor,
    guidance: Tensor | None,
    sigma: Tensor | None,
    kernel_size: list[int],
    shared_sigma: list[float],
    border: int,
    distance: int,
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: both images with what is around them, moved by each
    tap, and weighed by how far they are from where they were."""
    computed = computed_dtype(input)
    reach = [size // 2 for size in kernel_size]
    pixels = input.to(computed)
    colors = pixels if guidance is None else guidance.to(computed)
    scales = _scales(sigma, shared_sigma, computed, input)
    around, around_colors = padded(pixels, reach, border), padded(colors, reach, border)
    total: Any = 0.0
    weighed: Any = 0.0
    for down in range(kernel_size[0]):
        for right in range(kernel_size[1]):
            difference = moved(around_colors, reach, down, right) - colors
            if distance == 0:
                squared = difference.abs().sum(1, keepdim=True).square()
            else:
                squared = difference.square().sum(1, keepdim=True)
            space = scales[1] * (down - reach[0]) ** 2 + scales[2] * (right - reach[1]) ** 2
            weight = torch.exp(-(scales[0] * squared + space))
            seen = weight * moved(around, reach, down, right)
            total, weighed = total + weight, weighed + seen
    output: Tensor = weighed / total
    return output.to(input.dtype)


def _scales(sigma: Tensor | None, shared: list[float], computed: torch.dtype, input: Tensor) -> list[Any]:
    """1 / (2 sigma^2), of each image or of all; kept finite, for where nothing differs."""
    most = torch.finfo(computed).max / 4
    if sigma is None:
        return [min(0.5 / number / number if number * number > 0 else most, most) for number in shared]
    narrow = sigma.abs() < 1e-150
    scale = 0.5 / torch.where(narrow, 1.0, sigma).square()
    scale = torch.where(narrow | (scale > most), most, scale).to(computed)
    return [column[:, None, None, None] for column in scale.unbind(1)]


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, guidance: Tensor | None, *_: Any) -> Tensor:
    if guidance is not None:
        if guidance.dim() != 4:
            raise RuntimeError(
                f"{_OP}: guidance must have 4 dimensions (batch, channels, height, width); got {tuple(guidance.shape)}"
            )
        message = f"{_OP}: guidance must have shape (batch, any, height, width) of input; got {tuple(guidance.shape)}"
        for dim in (0, 2, 3):
            torch._check(guidance.shape[dim] == input.shape[dim], lambda: message)
        check_device(_OP, "guidance", guidance, "input", input)
    return empty_image(input, input.shape, input)


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_joint_bilateral_filter = Derivatives(
    "handgrad::joint_bilateral_filter",
    reference=joint_bilateral_filter_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
