"""A correlation of two feature maps. Mathematics: docs/layers/correlation.md."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad.arguments import check_bool, check_pair, check_tensor
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "correlation"
# So that the number of displacements, and of elements of an output, cannot overflow.
_FURTHEST = 4095

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def correlation(
    input1: Tensor,
    input2: Tensor,
    kernel_size: int | tuple[int, int] = 1,
    max_displacement: int | tuple[int, int] = 1,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    dilation_patch: int | tuple[int, int] = 1,
    *,
    normalize: bool = False,
) -> Tensor:
    r"""How alike each pixel's features are to those around it in another map: a local cost volume (Fischer et al.,
    `FlowNet <https://arxiv.org/abs/1504.06852>`_, 2015, equation 1).

    .. math:: y_{p q}(r) = \sum_{t} \sum_c a_c(r + t)\; b_c(r + t + d_{p q})

    over the taps :math:`t` of a window and the channels :math:`c` of both maps, for displacements :math:`d_{p q}` of
    ``dilation_patch`` times -max_displacement to max_displacement, along rows and columns. Beyond the edges of a map
    are zeros. Signature and values of mmcv's ``Correlation``; beyond it: a CPU kernel, second derivatives and forward
    mode, bfloat16 and float16 (computed in float32), channels_last, the same bits in every run.

    Args:
        input1, input2: (batch, channels, height, width) of one shape and dtype; float32, float64, bfloat16 or float16,
            any strides.
        kernel_size: taps of the window that is compared.
        max_displacement: the farthest displacement, in steps of ``dilation_patch`` pixels, at most 4095.
        stride: pixels of ``input1`` between outputs.
        padding: pixels beyond the edges of ``input1`` where outputs begin.
        dilation: pixels between taps.
        dilation_patch: pixels between displacements.
        normalize: divide by the number of products, channels * kernel_h * kernel_w, as FlowNet's and PWC-Net's do.

        Each number may be a pair, for rows and columns.

    Returns:
        (batch, 2 * max_displacement + 1, 2 * max_displacement + 1, out_h, out_w): vertical displacements, then
        horizontal ones; contiguous. Under autocast ``input2`` is taken in the type of ``input1``.

    Raises:
        ValueError: a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: maps whose shapes, dtypes or devices do not go together, or that are smaller than the window.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 1, 4)
        >>> correlation(image, image, max_displacement=(0, 1))[0, 0, :, 0]
        tensor([[0., 0., 2., 6.],
                [0., 1., 4., 9.],
                [0., 2., 6., 0.]])
    """
    check_tensor(_OP, "input1", input1)
    check_tensor(_OP, "input2", input2)
    numbers = _checked(_OP, kernel_size, max_displacement, stride, padding, dilation, dilation_patch)
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(input1.device.type):
        input2 = input2.to(input1.dtype)
    return _correlation(input1, input2, *numbers, check_bool(_OP, "normalize", normalize))


def _checked(
    op: str, kernel_size: Any, max_displacement: Any, stride: Any, padding: Any, dilation: Any, dilation_patch: Any
) -> list[list[int]]:
    return [
        list(check_pair(op, "kernel_size", kernel_size, 1)),
        list(check_pair(op, "max_displacement", max_displacement, 0, _FURTHEST)),
        list(check_pair(op, "stride", stride, 1)),
        list(check_pair(op, "padding", padding, 0)),
        list(check_pair(op, "dilation", dilation, 1)),
        list(check_pair(op, "dilation_patch", dilation_patch, 1)),
    ]


# ---- module ----------------------------------------------------------------------------------------------------------


class Correlation(nn.Module):
    """:func:`correlation` as a module, in place of mmcv's.

    Args:
        kernel_size, max_displacement, stride, padding, dilation, dilation_patch, normalize: see :func:`correlation`;
            checked here, so that a mistake shows at construction.

    Shape:
        ``forward(input1, input2)`` as in :func:`correlation`.

    Example:
        >>> Correlation(max_displacement=4)(torch.ones(2, 16, 8, 8), torch.ones(2, 16, 8, 8)).shape
        torch.Size([2, 9, 9, 8, 8])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int] = 1,
        max_displacement: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        dilation_patch: int | tuple[int, int] = 1,
        *,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        numbers = _checked(name, kernel_size, max_displacement, stride, padding, dilation, dilation_patch)
        self.kernel_size, self.max_displacement, self.stride, self.padding, self.dilation, self.dilation_patch = (
            (pair[0], pair[1]) for pair in numbers
        )
        self.normalize = check_bool(name, "normalize", normalize)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return correlation(
            input1,
            input2,
            self.kernel_size,
            self.max_displacement,
            self.stride,
            self.padding,
            self.dilation,
            self.dilation_patch,
            normalize=self.normalize,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, max_displacement={self.max_displacement}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, dilation_patch={self.dilation_patch}, "
            f"normalize={self.normalize}"
        )


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def correlation_reference(
    input1: Tensor,
    input2: Tensor,
    kernel_size: list[int],
    max_displacement: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    dilation_patch: list[int],
    normalize: bool,
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: the maps with zeros around them, moved, and
    the sum of their product, for each displacement and each tap."""
    out_h, out_w = _out_sizes(input1, kernel_size, stride, padding, dilation)
    far_h, far_w = (most * step for most, step in zip(max_displacement, dilation_patch, strict=True))
    one = F.pad(input1, [padding[1], padding[1], padding[0], padding[0]])
    other = F.pad(input2, [padding[1] + far_w, padding[1] + far_w, padding[0] + far_h, padding[0] + far_h])

    def seen(image: Tensor, row: int, column: int) -> Tensor:
        rows = slice(row, row + (out_h - 1) * stride[0] + 1, stride[0])
        return image[:, :, rows, column : column + (out_w - 1) * stride[1] + 1 : stride[1]]

    taps = [(i * dilation[0], j * dilation[1]) for i in range(kernel_size[0]) for j in range(kernel_size[1])]
    volume = [
        sum(
            ((seen(one, *tap) * seen(other, tap[0] + down, tap[1] + right)).sum(1) for tap in taps),
            start=input1.new_zeros(()),
        )
        for down in range(0, 2 * far_h + 1, dilation_patch[0])
        for right in range(0, 2 * far_w + 1, dilation_patch[1])
    ]
    output = torch.stack(volume, 1).unflatten(1, (2 * max_displacement[0] + 1, 2 * max_displacement[1] + 1))
    return output / max(1, input1.shape[1] * len(taps)) if normalize else output


def _out_sizes(image: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> Any:
    return [(image.shape[2 + k] + 2 * padding[k] - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1 for k in (0, 1)]


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(
    input1: Tensor,
    input2: Tensor,
    kernel_size: list[int],
    max_displacement: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    dilation_patch: list[int],
    normalize: bool,
) -> Tensor:
    if input1.dim() != 4:
        raise RuntimeError(
            f"{_OP}: input1 must have 4 dimensions (batch, channels, height, width); got {tuple(input1.shape)}"
        )
    if input2.dim() != 4 or input2.dtype != input1.dtype or input2.device != input1.device:
        raise RuntimeError(
            f"{_OP}: input2 must have the shape, dtype and device of input1, {tuple(input1.shape)}, {input1.dtype} on "
            f"{input1.device}; got {tuple(input2.shape)}, {input2.dtype} on {input2.device}"
        )
    message = f"{_OP}: input2 must have the shape of input1, {tuple(input1.shape)}; got {tuple(input2.shape)}"
    for size, due in zip(input2.shape, input1.shape, strict=True):
        torch._check(size == due, lambda: message)
    out = _out_sizes(input1, kernel_size, stride, padding, dilation)
    return input1.new_empty([input1.shape[0], *(2 * most + 1 for most in max_displacement), *out])


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_correlation = Derivatives(
    "handgrad::correlation",
    reference=correlation_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
