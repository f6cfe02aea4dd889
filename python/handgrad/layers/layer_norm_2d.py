"""Layer normalisation over channels. Mathematics: docs/layers/layer_norm_2d.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.kinds.channel_norm import ChannelNorm, ChannelNormModule
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def layer_norm_2d(input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    r"""Normalises the channels of each position by their mean and variance (Ba, Kiros and Hinton, `Layer Normalization
    <https://arxiv.org/abs/1607.06450>`_, 2016, for images as ConvNeXt has it).

    .. math:: y_c = w_c\,\frac{x_c - \mu}{\sqrt{\sigma^2 + \epsilon}} + b_c

    with the mean :math:`\mu` and the variance :math:`\sigma^2` (divided by the number of channels) of a position. What
    :func:`torch.nn.functional.layer_norm` computes between two permutations; in NCHW without a copy, in channels_last
    kept so. Second derivatives, forward mode; nothing is kept for the backward but input and weight.

    Args:
        input: (batch, channels, positions...), 2 to 5 dimensions; float32, float64, bfloat16 or float16, any strides.
        weight, bias: (channels,), or None for 1 and 0. Of any floating-point type that the one which ``input`` is
            computed in can hold: float64 beside a float64 ``input``, otherwise float32, bfloat16 or float16.
        eps: added to the variance, at least 0.

    Returns:
        A tensor like ``input``: channels_last if ``input`` is, contiguous otherwise. Half types are computed in
        float32 and rounded once. Under autocast float32, as torch's. NaN and infinity stay in their position. With
        ``eps=0`` a position of equal channels has no normalisation, and is NaN.

    Raises:
        ValueError: ``eps`` negative or not finite.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> layer_norm_2d(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)).flatten()
        tensor([-1.0000,  1.0000])
    """
    return _norm(input, weight, bias, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class LayerNorm2d(ChannelNormModule):
    """:func:`layer_norm_2d` as a module, in place of timm's and torchvision's ``LayerNorm2d`` and of ConvNeXt's
    ``LayerNorm(data_format="channels_first")``, whose state dicts it loads.

    Args:
        num_channels: how many channels the input has.
        eps: see :func:`layer_norm_2d`.
        affine: with weight and bias, at first 1 and 0.
        device, dtype: of the parameters.

    Shape:
        (batch, num_channels, positions...) to the same.

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> LayerNorm2d(96)(torch.rand(2, 96, 7, 7)).shape
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
        super().__init__(num_channels, eps, affine, True, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm_2d(input, self.weight, self.bias, self.eps)


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def layer_norm_2d_reference(input: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, before weight and bias. To be trusted because it says what the formula says: a mean over channels,
    what is left of the input, and the root of the mean of its square."""
    rest = input - input.mean(1, keepdim=True)
    return rest / ((rest * rest).mean(1, keepdim=True) + eps).sqrt()


# ---- registration ----------------------------------------------------------------------------------------------------


_norm = ChannelNorm("handgrad::layer_norm_2d", layer_norm_2d_reference)
