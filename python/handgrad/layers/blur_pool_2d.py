"""A blur before a stride. Definition, derivatives, what others do: docs/layers/blur_pool_2d.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad._linear import Linear
from handgrad.arguments import FLOAT_MAX, check_choice, check_int, check_pair, check_range, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED
from handgrad.tracing import traceable

_OP = "blur_pool_2d"
# As in csrc.
_MOST_SAMPLES = 2**30 - 1
_MOST_TAPS = 64
# By their numbers in csrc; "constant" is F.pad's word for zeros.
_BORDERS = {"zeros": 0, "constant": 0, "reflect": 1, "replicate": 2}

# By their number: not computed at the call, where torch.compile may know the size by a symbol.
_BINOMIAL = [[math.comb(last, k) / 2**last for k in range(last + 1)] for last in range(_MOST_TAPS)]

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def blur_pool_2d(
    input: Tensor,
    filter_size: int | Sequence[float] = 3,
    stride: int = 2,
    padding_mode: str = "reflect",
    padding: int | Sequence[int] | None = None,
) -> Tensor:
    """Images blurred and then thinned out, so that what is dropped leaves no aliases behind (Zhang, `Making
    Convolutional Networks Shift-Invariant Again <https://arxiv.org/abs/1904.11486>`_, 2019): in place of a stride, or
    after a pooling of stride 1.

    Values of timm's ``BlurPool2d``; with ``padding`` those of the author's and of kornia's. One pass along rows and
    columns, without a padded image; derivatives of any order, forward mode.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        filter_size: taps along an axis, at most 64, binomial coefficients that add up to 1; or the taps themselves.
        stride: every which sample of either axis is kept.
        padding_mode: what lies beyond the border: ``"reflect"``, a mirror that shows border pixels once;
            ``"replicate"``, the nearest pixel; ``"zeros"`` or ``"constant"``.
        padding: how far around the image that is; two numbers are before and after, along both axes. None: timm's
            (stride + filter_size - 2) // 2.

    Returns:
        An image in the type of ``input``, channels_last if ``input`` is; of n rows (n + padding - filter_size) //
        stride + 1 are left, with the padding of both sides.

    Raises:
        ValueError: a number or a word out of range.
        TypeError: an argument of another kind.
        RuntimeError: rank or dtype of ``input`` out of range, an image too small for its border or for the filter.

    Example:
        >>> blur_pool_2d(torch.arange(16.0).view(1, 1, 4, 4))
        tensor([[[[ 2.5000,  4.0000],
                  [ 8.5000, 10.0000]]]])
    """
    check_tensor(_OP, "input", input)
    return _blur_pool_2d(input, *_checked(filter_size, stride, padding_mode, padding))


def _checked(filter_size: Any, stride: Any, padding_mode: Any, padding: Any) -> tuple[list[float], int, list[int], int]:
    if isinstance(filter_size, (list, tuple)):
        taps = list(filter_size)
        if not 1 <= len(taps) <= _MOST_TAPS:
            raise ValueError(f"{_OP}: filter_size must be 1 to {_MOST_TAPS} taps, or their number; got {filter_size!r}")
        for tap in taps:
            check_range(_OP, "filter_size", tap, -FLOAT_MAX, FLOAT_MAX, "a whole number, or finite taps")
        taps = [float(tap) for tap in taps]
    else:
        said = f"a whole number from 1 to {_MOST_TAPS}, or taps"
        size = check_int(_OP, "filter_size", filter_size, 1, _MOST_TAPS, said)
        taps = list(_BINOMIAL[size - 1])
    stride = check_int(_OP, "stride", stride, 1, _MOST_SAMPLES)
    border = _BORDERS[check_choice(_OP, "padding_mode", padding_mode, tuple(_BORDERS))]
    if padding is None:
        return taps, stride, [(stride + len(taps) - 2) // 2] * 2, border
    return taps, stride, list(check_pair(_OP, "padding", padding, 0, _MOST_SAMPLES)), border


# ---- module ----------------------------------------------------------------------------------------------------------


class BlurPool2d(nn.Module):
    """:func:`blur_pool_2d` as a module, in place of timm's class of this name, whose arguments it takes.

    Args:
        channels: None, or that many channels an input must have; the blur is the same for all.
        filt_size, stride, pad_mode, padding: ``filter_size``, ``stride``, ``padding_mode`` and ``padding`` of
            :func:`blur_pool_2d`; checked here, so that a mistake shows at construction.

    Example:
        >>> BlurPool2d(16)(torch.rand(1, 16, 9, 8)).shape
        torch.Size([1, 16, 5, 4])
    """

    def __init__(
        self,
        channels: int | None = None,
        filt_size: int | Sequence[float] = 3,
        stride: int = 2,
        pad_mode: str = "reflect",
        padding: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _checked(filt_size, stride, pad_mode, padding)
        self.channels = None if channels is None else check_int("BlurPool2d", "channels", channels, 1)
        self.filt_size, self.stride, self.pad_mode, self.padding = filt_size, stride, pad_mode, padding

    def forward(self, input: Tensor) -> Tensor:
        if self.channels is not None and input.dim() == 4 and input.shape[1] != self.channels:
            raise RuntimeError(f"BlurPool2d: input must have {self.channels} channels; got {tuple(input.shape)}")
        return blur_pool_2d(input, self.filt_size, self.stride, self.pad_mode, self.padding)

    def extra_repr(self) -> str:
        text = f"{self.channels}, filt_size={self.filt_size}, stride={self.stride}, pad_mode={self.pad_mode!r}"
        return text if self.padding is None else f"{text}, padding={self.padding}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def blur_pool_2d_reference(input: Tensor, taps: list[float], stride: int, padding: list[int], border: int) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: the padded image, moved by each tap and weighed, every
    stride-th sample of it, along one axis and then along the other."""
    output = input.to(computed_dtype(input))
    for dim in (2, 3):
        size = input.shape[dim]
        around = [0, 0, *padding] if dim == 2 else [*padding, 0, 0]
        if border == 0:
            output = F.pad(output, around)
        else:
            seen = torch.arange(size + sum(padding), device=input.device) - padding[0]
            mirrored = (size - 1) - ((size - 1) - seen.abs()).abs()
            output = output.index_select(dim, mirrored if border == 1 else seen.clamp(0, size - 1))
        count = (size + sum(padding) - len(taps)) // stride + 1
        parts = [slice(first, first + (count - 1) * stride + 1, stride) for first in range(len(taps))]
        moved = (output[:, :, part] if dim == 2 else output[:, :, :, part] for part in parts)
        output = sum(tap * part for tap, part in zip(taps, moved, strict=True))  # type: ignore[assignment]
    return output.to(input.dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, taps: list[float], stride: int, padding: list[int], border: int) -> Tensor:
    if input.dim() != 4:
        raise RuntimeError(
            f"{_OP}: input must have 4 dimensions (batch, channels, height, width); got {tuple(input.shape)}"
        )
    height = _size_after(input.shape[2], "rows", len(taps), stride, padding, border)
    width = _size_after(input.shape[3], "columns", len(taps), stride, padding, border)
    return empty_image(input, (input.shape[0], input.shape[1], height, width), input)


def _size_after(size: int, name: str, taps: int, stride: int, padding: list[int], border: int) -> int:
    # What the filter needs, and what a mirror and the nearest sample do.
    least = max(taps - sum(padding), (0, max(padding) + 1, 1)[border])
    torch._check(size >= least, lambda: f"{_OP}: input must have at least {least} {name}; got {size}")
    return (size + sum(padding) - taps) // stride + 1


# ---- onnx: a pad, and a convolution of each channel ------------------------------------------------------------------


def _onnx(input: Tensor, taps: list[float], stride: int, padding: list[int], border: int) -> Any:
    # Of float64 onnxruntime has no convolution.
    if input.dtype is torch.float64:
        return NotImplemented
    mode = ("constant", "reflect", "replicate")[border]
    samples = F.pad(input.float(), [*padding, *padding], mode=mode).flatten(0, 1).unsqueeze(1)
    weight = torch.cat([torch.full((1,), tap, device=input.device) for tap in taps])
    samples = F.conv2d(samples, weight.view(1, 1, 1, -1), stride=(1, stride))
    samples = F.conv2d(samples, weight.view(1, 1, -1, 1), stride=(stride, 1))
    return samples.squeeze(1).unflatten(0, input.shape[:2]).to(input.dtype)


# ---- registration ----------------------------------------------------------------------------------------------------

_blur_pool_2d = Linear(
    "handgrad::blur_pool_2d",
    reference=blur_pool_2d_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=lambda tensor: empty_image(tensor, tensor.shape, tensor),
    onnx=_onnx,
)
