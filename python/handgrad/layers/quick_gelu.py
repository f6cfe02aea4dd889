"""QuickGELU. Mathematics, derivatives and numerics: docs/layers/quick_gelu.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handgrad.arguments import check_range, check_tensor
from handgrad.derivatives import ELEMENTWISE, Derivatives
from handgrad.tracing import traceable

_OP = "quick_gelu"
# What float32, in which half types are computed too, can hold.
_LARGEST = torch.finfo(torch.float32).max

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def quick_gelu(input: Tensor, alpha: float = 1.702) -> Tensor:
    r"""The sigmoid approximation of the GELU, the activation of CLIP and of many vision transformers after it
    (Hendrycks and Gimpel, `Gaussian Error Linear Units <https://arxiv.org/abs/1606.08415>`_, 2016, section 2).

    .. math:: y = x \, \sigma(\alpha x)

    With ``alpha=1`` it is SiLU, with another one Swish. Named, with its parameter, as in onnxruntime; in PyTorch people
    write ``x * torch.sigmoid(1.702 * x)``, which reads and writes memory three times and keeps the sigmoid for the
    backward pass.

    Args:
        input: any shape; float32, float64, bfloat16 or float16 (computed in float32), any strides.
        alpha: how steep the sigmoid is, from 0 to the largest float32.

    Returns:
        A tensor with the shape, dtype and memory order of ``input``.

    Raises:
        ValueError: ``alpha`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: a dtype that the kernels do not take.

    Example:
        >>> quick_gelu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.1542,  0.0000,  1.9357])
    """
    check_tensor(_OP, "input", input)
    _check_numbers(alpha)
    return _quick_gelu(input, alpha)


def _check_numbers(alpha: float) -> None:
    check_range(_OP, "alpha", alpha, 0, _LARGEST, "a number from 0 to the largest float32")


# ---- module ----------------------------------------------------------------------------------------------------------


class QuickGELU(nn.Module):
    """:func:`quick_gelu` as a module, in place of the class of that name in CLIP, open_clip and timm.

    Args:
        alpha: see :func:`quick_gelu`; checked here, so that a mistake shows at construction.

    Example:
        >>> QuickGELU()(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.1542,  0.0000,  1.9357])
    """

    def __init__(self, alpha: float = 1.702) -> None:
        super().__init__()
        _check_numbers(alpha)
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        return quick_gelu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def quick_gelu_reference(input: Tensor, alpha: float) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition. Minus infinity is taken for the most negative number,
    for which the output is 0, the limit; its derivatives at plus infinity are NaN, where the kernels have 1 and 0."""
    input = input.clamp(min=torch.finfo(input.dtype).min)
    return input * torch.sigmoid(alpha * input)


# ---- registration: private references and fakes, autograd, vmap and sharding follow from these -----------------------

_quick_gelu = Derivatives(
    "handgrad::quick_gelu",
    reference=quick_gelu_reference,
    fake=lambda input, alpha: torch.empty_like(input),
    # Every element is by itself.
    roles=ELEMENTWISE,
)
