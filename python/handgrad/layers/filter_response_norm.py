"""Filter response normalisation. Mathematics: docs/layers/filter_response_norm.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handgrad.arguments import FLOAT_MAX, INT32_MAX, check_bool, check_int, check_range, computed_dtype
from handgrad.kinds.channel_norm import beside, check_eps
from handgrad.kinds.spatial_norm import SpatialNorm, over_positions
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def filter_response_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    tau: Tensor | None = None,
    learned_eps: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Divides each channel of an image by the root of its mean square, and cuts off what is below a threshold that is
    learnt (Singh and Krishnan, `Filter Response Normalization Layer <https://arxiv.org/abs/1911.09737>`_, 2020).

    .. math:: y_c = \max\Big(w_c\,\frac{x_c}{\sqrt{\nu_c^2 + \epsilon + |e_c|}} + b_c,\ \tau_c\Big)

    with the mean :math:`\nu_c^2` of the squares of a channel's positions in one sample. NCHW and channels_last are read
    where they lie; second derivatives, forward mode; nothing is kept for the backward but the inputs.

    Args:
        input: (batch, channels, positions...), 2 to 5 dimensions; float32, float64, bfloat16 or float16, any strides.
        weight, bias: (channels,), or None for 1 and 0. Of any floating-point type that the one which ``input`` is
            computed in can hold: float64 beside a float64 ``input``, otherwise float32, bfloat16 or float16.
        tau: (channels,), the thresholds of the paper's TLU; None cuts off nothing.
        learned_eps: (channels,), :math:`e` of the formula: what the paper has for maps of one position. None for 0.
        eps: added to the mean square, at least 0. timm's is this, the paper's 1e-6.

    Returns:
        A tensor like ``input``: channels_last if ``input`` is, contiguous otherwise. Half types are computed in
        float32 and rounded once. Under autocast float32, as torch's norms. Where a value equals its threshold each has
        half of the gradient, as in :func:`torch.maximum`. NaN spreads over its channel of its sample; with no eps at
        all a channel of zeros is NaN.

    Raises:
        ValueError: ``eps`` negative or not finite.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> filter_response_norm(torch.tensor([1.0, 7.0]).view(1, 1, 1, 2), eps=0.0).flatten()
        tensor([0.2000, 1.4000])
    """
    return _norm(input, weight, bias, tau, learned_eps, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class FilterResponseNormTlu2d(nn.Module):
    """:func:`filter_response_norm` as a module, in place of timm's ``FilterResponseNormTlu2d``, whose state dict it
    loads.

    Args:
        num_features: how many channels the input has.
        apply_act: with thresholds ``tau``, at first 0; else the module only normalises.
        eps: see :func:`filter_response_norm`.
        learned_eps: what the parameter ``learned_eps`` is at first, the paper's 1e-4 for one; None: there is none, as
            in timm.
        device, dtype: of the parameters. The weight is 1 at first, the bias 0.

    Shape:
        (batch, num_features, positions...) to the same.

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> FilterResponseNormTlu2d(96)(torch.rand(2, 96, 7, 7)).shape
        torch.Size([2, 96, 7, 7])
    """

    weight: nn.Parameter
    bias: nn.Parameter
    tau: nn.Parameter | None
    learned_eps: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        apply_act: bool = True,
        eps: float = 1e-5,
        *,
        learned_eps: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = "FilterResponseNormTlu2d"
        self.num_features = check_int(name, "num_features", num_features, 1, INT32_MAX)
        self.apply_act = check_bool(name, "apply_act", apply_act)
        self.eps = check_eps(name, eps)
        if learned_eps is not None:
            check_range(name, "learned_eps", learned_eps, -FLOAT_MAX, FLOAT_MAX, "a finite number, or None")
        self.first_eps = learned_eps
        there = {"weight": True, "bias": True, "tau": self.apply_act, "learned_eps": learned_eps is not None}
        for parameter, is_there in there.items():
            made = nn.Parameter(torch.empty(self.num_features, device=device, dtype=dtype)) if is_there else None
            self.register_parameter(parameter, made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if self.tau is not None:
            nn.init.zeros_(self.tau)
        if self.learned_eps is not None and self.first_eps is not None:
            nn.init.constant_(self.learned_eps, float(self.first_eps))

    def forward(self, input: Tensor) -> Tensor:
        return filter_response_norm(input, self.weight, self.bias, self.tau, self.learned_eps, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, apply_act={self.apply_act}, eps={self.eps}, learned_eps={self.first_eps}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def filter_response_norm_reference(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    tau: Tensor | None,
    learned_eps: Tensor | None,
    eps: float,
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: the input by the root of the mean of its
    square, and the larger of that and the threshold."""
    x = input.to(computed_dtype(input))
    square = over_positions(x * x, mean=True) + eps
    output = x / (square if learned_eps is None else square + beside(learned_eps.abs(), input)).sqrt()
    output = output if weight is None else output * beside(weight, input)
    output = output if bias is None else output + beside(bias, input)
    return (output if tau is None else torch.maximum(output, beside(tau, input))).to(input.dtype)


# ---- registration ----------------------------------------------------------------------------------------------------


_norm = SpatialNorm("handgrad::filter_response_norm", filter_response_norm_reference)
