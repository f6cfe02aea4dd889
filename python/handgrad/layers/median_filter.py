"""A median filter. Ties, edge cases, cost: docs/layers/median_filter.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._borders import checked_window, moved, padded
from handgrad._layout import empty_image
from handgrad.arguments import check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "median_filter"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def median_filter(input: Tensor, kernel_size: int | Sequence[int], border_type: str = "reflect") -> Tensor:
    """The median of each pixel's window, channel by channel: impulses go, edges stay.

    Signature and values of kornia's ``median_blur``, and SciPy's ``median_filter`` with its ``mode="mirror"``; beyond
    it: no map of windows, a gradient that costs little more than the filter, second derivatives, forward mode, exact
    in every type, channels_last.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        kernel_size: rows and columns of the window; one number for both. Odd.
        border_type: what is around the image: "reflect" (without the border's own pixels once more), "replicate",
            "constant" (zeros) or "circular".

    Returns:
        (batch, channels, height, width) in the type of ``input``, channels_last if ``input`` is. NaN where a window
        holds NaN.

    Raises:
        ValueError: a number out of range, or another word.
        TypeError: an argument of another kind.
        RuntimeError: rank or dtype of ``input`` out of range, or an image too small for its border: "reflect" takes
            more rows and columns than ``kernel_size // 2``, "circular" as many.

    Example:
        >>> spike = torch.tensor([1.0, 1.0, 9.0, 2.0, 2.0]).view(1, 1, 1, 5)
        >>> median_filter(spike, (1, 3)).flatten()
        tensor([1., 1., 2., 2., 2.])
    """
    check_tensor(_OP, "input", input)
    return _median_filter(input, *checked_window(_OP, kernel_size, border_type))


# ---- module ----------------------------------------------------------------------------------------------------------


class MedianFilter(nn.Module):
    """:func:`median_filter` as a module, in place of kornia's ``MedianBlur``.

    Args:
        kernel_size, border_type: as the function takes them.

    Example:
        >>> MedianFilter(3)(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(self, kernel_size: int | Sequence[int], border_type: str = "reflect") -> None:
        super().__init__()
        checked_window(type(self).__name__, kernel_size, border_type)
        self.kernel_size = kernel_size
        self.border_type = border_type

    def forward(self, input: Tensor) -> Tensor:
        return median_filter(input, self.kernel_size, self.border_type)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, border_type={self.border_type!r}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def median_filter_reference(input: Tensor, kernel_size: list[int], border: int) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: all taps of a window beside each other, sorted, and
    the one in the middle. Stably, so that of equal ones the first is taken that is asked for below."""
    reach = [size // 2 for size in kernel_size]
    around = padded(input.to(computed_dtype(input)), reach, border)
    taps = [moved(around, reach, down, right) for down in range(kernel_size[0]) for right in range(kernel_size[1])]
    windows = torch.stack(taps, -1)
    middle = windows.detach().sort(-1).values[..., windows.shape[-1] // 2 :][..., :1]
    # The first tap that is the median; of a window with NaN the first that is.
    is_nan = windows.isnan()
    found = is_nan | ((windows == middle) & ~is_nan.any(-1, keepdim=True))
    index = found.to(torch.int32).argmax(-1, keepdim=True)
    return windows.gather(-1, index).squeeze(-1).to(input.dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, *_: Any) -> Tensor:
    if input.dim() != 4:
        raise RuntimeError(
            f"{_OP}: input must have 4 dimensions (batch, channels, height, width); got {tuple(input.shape)}"
        )
    return empty_image(input, input.shape, input)


# ---- registration ----------------------------------------------------------------------------------------------------


class _Selecting(Derivatives):
    """The gradient is linear in grad_output and constant in the input: no zeros are made for what that has not."""

    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        nones: list[Tensor | None] = [None] * (len(self.backward_op.tensors) + len(self.backward_op.others))
        if grad_grads[0] is not None:
            nones[0] = self.double_backward(grad_grads[0], *ctx.saved_tensors, *ctx.others, [True, False])[0]
        return tuple(nones)


_median_filter = _Selecting(
    "handgrad::median_filter",
    reference=median_filter_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=lambda tensor: empty_image(tensor, tensor.shape, tensor),
)
