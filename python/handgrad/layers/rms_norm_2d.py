"""Root mean square normalisation over channels. Mathematics: docs/layers/rms_norm_2d.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.kinds.channel_norm import ChannelNorm, ChannelNormModule
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def rms_norm_2d(input: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    r"""Divides the channels of each position by their root mean square (Zhang and Sennrich, `Root Mean Square Layer
    Normalization <https://arxiv.org/abs/1910.07467>`_, 2019, for images as timm has it).

    .. math:: y_c = w_c\,\frac{x_c}{\sqrt{\frac{1}{C}\sum_j x_j^2 + \epsilon}}

    What :func:`torch.nn.functional.rms_norm` computes between two permutations; in NCHW without a copy, in
    channels_last kept so. Second derivatives, forward mode; nothing is kept for the backward but input and weight.

    Args:
        input: (batch, channels, positions...), 2 to 5 dimensions; float32, float64, bfloat16 or float16, any strides.
        weight: (channels,), or None for 1. Of any floating-point type that the one which ``input`` is computed in can
            hold: float64 beside a float64 ``input``, otherwise float32, bfloat16 or float16.
        eps: added to the mean square, at least 0. (torch's default depends on the type; timm's is this.)

    Returns:
        A tensor like ``input``: channels_last if ``input`` is, contiguous otherwise. Half types are computed in
        float32 and rounded once. Under autocast float32, as torch's layer norm. NaN and infinity stay in their
        position. With ``eps=0`` a position of zeros is NaN.

    Raises:
        ValueError: ``eps`` negative or not finite.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> rms_norm_2d(torch.tensor([1.0, 7.0]).view(1, 2, 1, 1)).flatten()
        tensor([0.2000, 1.4000])
    """
    return _norm(input, weight, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class RmsNorm2d(ChannelNormModule):
    """:func:`rms_norm_2d` as a module, in place of timm's ``RmsNorm2d``, whose state dict it loads.

    Args:
        num_channels: how many channels the input has.
        eps: see :func:`rms_norm_2d`.
        affine: with a weight, at first 1.
        device, dtype: of the weight.

    Shape:
        (batch, num_channels, positions...) to the same.

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> RmsNorm2d(96)(torch.rand(2, 96, 7, 7)).shape
        torch.Size([2, 96, 7, 7])
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        affine: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_channels, eps, affine, False, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return rms_norm_2d(input, self.weight, self.eps)


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def rms_norm_2d_reference(input: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, before the weight. To be trusted because it says what the formula says: the input by the root of
    the mean of its square."""
    return input / ((input * input).mean(1, keepdim=True) + eps).sqrt()


# ---- registration ----------------------------------------------------------------------------------------------------


_norm = ChannelNorm("handgrad::rms_norm_2d", rms_norm_2d_reference)
