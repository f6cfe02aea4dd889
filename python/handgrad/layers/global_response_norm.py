"""Global response normalisation. Mathematics: docs/layers/global_response_norm.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from handgrad.arguments import INT32_MAX, check_bool, check_int, check_tensor, computed_dtype
from handgrad.kinds.channel_norm import beside, check_eps
from handgrad.kinds.spatial_norm import SpatialNorm, over_positions
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def global_response_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
    *,
    channels_last: bool = False,
) -> Tensor:
    r"""Weighs the channels of an image by their norms beside each other (Woo et al., `ConvNeXt V2
    <https://arxiv.org/abs/2301.00808>`_, 2023).

    .. math:: y_c = x_c + w_c\,\frac{G_c}{\overline G + \epsilon}\,x_c + b_c, \qquad G_c = \|x_c\|_2

    with the norm over all positions of a channel, and the mean over channels. NCHW and channels_last are read where
    they lie; second derivatives, forward mode; nothing is kept for the backward but input and weight.

    Args:
        input: (batch, channels, positions...), 2 to 5 dimensions; float32, float64, bfloat16 or float16, any strides.
        weight, bias: (channels,), or None for 1 and 0. Of any floating-point type that the one which ``input`` is
            computed in can hold: float64 beside a float64 ``input``, otherwise float32, bfloat16 or float16.
        eps: added to the mean norm, at least 0.
        channels_last: the input is (batch, positions..., channels) instead.

    Returns:
        A tensor like ``input``: channels_last if ``input`` is, contiguous otherwise. Half types are computed in
        float32 and rounded once. Under autocast float32, as torch's norms. The norm of a channel of zeros has the
        derivative 0. NaN spreads over its sample; with ``eps=0`` a sample of zeros is NaN.

    Raises:
        ValueError: ``eps`` negative or not finite.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> global_response_norm(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1), eps=0.0).flatten()
        tensor([1.5000, 7.5000])
    """
    check_tensor("global_response_norm", "input", input)
    if not check_bool("global_response_norm", "channels_last", channels_last):
        return _norm(input, weight, bias, eps)
    return _norm(input.movedim(-1, 1), weight, bias, eps).movedim(1, -1)


# ---- module ----------------------------------------------------------------------------------------------------------


class GlobalResponseNorm(nn.Module):
    """:func:`global_response_norm` as a module, in place of timm's ``GlobalResponseNorm``. It loads timm's state dicts,
    and those of ConvNeXt V2's own ``GRN`` and of Hugging Face's, whose parameters have dimensions of 1 in front.

    Args:
        dim: how many channels the input has.
        eps: see :func:`global_response_norm`.
        channels_last: the input is (batch, positions..., dim), as timm has it unless told; otherwise
            (batch, dim, positions...).
        device, dtype: of weight and bias, which are 0 at first: the module then changes nothing.

    Shape:
        (batch, positions..., dim) to the same.

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> GlobalResponseNorm(96)(torch.rand(2, 7, 7, 96)).shape
        torch.Size([2, 7, 7, 96])
    """

    def __init__(
        self,
        dim: int,
        eps: float = 1e-6,
        channels_last: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim = check_int("GlobalResponseNorm", "dim", dim, 1, INT32_MAX)
        self.eps = check_eps("GlobalResponseNorm", eps)
        self.channels_last = check_bool("GlobalResponseNorm", "channels_last", channels_last)
        self.weight = nn.Parameter(torch.empty(self.dim, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return global_response_norm(input, self.weight, self.bias, self.eps, channels_last=self.channels_last)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, other in (("weight", "gamma"), ("bias", "beta")):
            key = prefix + name
            if prefix + other in state_dict:
                state_dict[key] = state_dict.pop(prefix + other)
            if key in state_dict and state_dict[key].shape == (1, 1, 1, self.dim):
                state_dict[key] = state_dict[key].flatten()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}, channels_last={self.channels_last}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def global_response_norm_reference(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: the norm of each channel, by the mean of
    those that are in one group with it."""
    x = input.to(computed_dtype(input))
    squares = over_positions(x * x)
    # The root of 0 is made of no root, whose derivative would be infinite. NaN is not below anything.
    is_zero = squares < torch.finfo(squares.dtype).tiny
    norm = torch.where(
        is_zero, torch.zeros_like(squares), torch.where(is_zero, torch.ones_like(squares), squares).sqrt()
    )
    if groups == 1:
        response = norm / (norm.mean(1, keepdim=True) + eps)
    else:
        grouped = norm.unflatten(1, (groups, norm.shape[1] // groups))
        response = (grouped / (grouped.mean(2, keepdim=True) + eps)).flatten(1, 2)
    output = x * response
    output = x + (output if weight is None else beside(weight, input) * output)
    return (output if bias is None else output + beside(bias, input)).to(input.dtype)


# ---- registration ----------------------------------------------------------------------------------------------------


_norm = SpatialNorm("handgrad::global_response_norm", global_response_norm_reference, omitted=("bias",))
