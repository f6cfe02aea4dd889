"""An activation behind a bias. Definition, derivatives, numerics: docs/layers/bias_act.md."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad._activations import cut_off
from handgrad._layout import empty_gradient
from handgrad._linear import along_grad_output
from handgrad.arguments import (
    FLOAT_MAX,
    INT32_MAX,
    check_bool,
    check_choice,
    check_int,
    check_range,
    check_tensor,
    computed_dtype,
)
from handgrad.derivatives import BATCHED, WHOLE
from handgrad.kinds.channel_norm import beside, empty_gradient_of_norm
from handgrad.kinds.separate_channels import SeparateChannels
from handgrad.tracing import traceable

_OP = "bias_act"
# In the order of csrc's enum.
_ACTS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
# Those whose second derivative is 0 almost everywhere.
_STRAIGHT = ("linear", "relu", "lrelu")
# Those that keep the variance of their input with this gain, as StyleGAN has it.
_ROOT_OF_TWO = ("relu", "lrelu", "swish")

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    r"""Adds a bias, applies an activation, multiplies by a gain and cuts off what is too large, in one pass: what
    follows every layer of StyleGAN's networks (Karras et al., `Analyzing and Improving the Image Quality of StyleGAN
    <https://arxiv.org/abs/1912.04958>`_, 2020, appendix B; the cut-off: `Training Generative Adversarial Networks with
    Limited Data <https://arxiv.org/abs/2006.06676>`_, 2020, appendix D).

    .. math:: y = \min(\max(gain \cdot act(x + b),\ -clamp),\ clamp)

    Arguments, their defaults and values of StyleGAN's function of this name; beyond it: derivatives of any order with
    respect to ``x`` and ``b``, forward mode, bfloat16, and nothing that is compiled at the first call.

    Args:
        x: any shape of at least one dimension; float32, float64, bfloat16 or float16, any strides.
        b: (x.shape[dim]), or None. Of any floating-point type that the one which ``x`` is computed in can hold:
            float64 beside a float64 ``x``, otherwise float32, bfloat16 or float16.
        dim: the dimension of ``x`` that ``b`` goes along; means nothing without ``b``.
        act: "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus" or "swish".
        alpha: the slope of "lrelu" below 0; None for 0.2. The others have no such number.
        gain: None for the square root of 2 of "relu", "lrelu" and "swish", 1 of the others.
        clamp: the largest size of a result, at least 0; None for none.

    Returns:
        A tensor with the shape and dtype of ``x``: channels_last if ``x`` is, contiguous otherwise. Half types are
        computed in float32 and rounded once. At kinks, on the border of ``clamp`` and of NaN, values and derivatives
        are those of torch's ops; of infinities they are limits.

    Raises:
        ValueError: a number out of range, an unknown activation.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> bias_act(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([0.0, 1.0, 0.0]), act="lrelu", gain=2.0)
        tensor([[-0.4000,  2.0000,  4.0000]])
    """
    check_tensor(_OP, "x", x)
    numbers = _checked_numbers(act, alpha, gain, clamp)
    if b is None:
        rows = x if x.dim() > 1 else x.reshape(1, -1)
        return _bias_act(rows, None, *numbers).reshape(x.shape) if rows is not x else _bias_act(x, None, *numbers)
    dim = _checked_dim(dim, x)
    (b,) = _bias_act.checked(x, [b])
    if dim == 1:
        return _bias_act(x, b, *numbers)
    if dim == 0:
        return _bias_act(x.unsqueeze(0), b, *numbers).squeeze(0)
    # What comes before the channels is the batch.
    return _bias_act(x.flatten(0, dim - 1), b, *numbers).unflatten(0, x.shape[:dim])


def _checked_dim(dim: Any, x: Tensor) -> int:
    rank = x.dim()
    # Without sizes, which are tensors while torch.jit traces.
    said = f"a dimension of x, from {-rank} to {rank - 1}"
    dim = check_int(_OP, "dim", dim, -rank, rank - 1, said)
    return dim + rank if dim < 0 else dim


def _checked_numbers(act: Any, alpha: Any, gain: Any, clamp: Any) -> tuple[int, float, float, float]:
    check_choice(_OP, "act", act, _ACTS)
    given: list[float] = []
    for name, value, low, default, said in (
        ("alpha", alpha, -FLOAT_MAX, 0.2, "a finite number, or None"),
        ("gain", gain, -FLOAT_MAX, math.sqrt(2) if act in _ROOT_OF_TWO else 1.0, "a finite number, or None"),
        ("clamp", clamp, 0.0, -1.0, "a finite number, at least 0, or None"),
    ):
        if value is not None:
            check_range(_OP, name, value, low, FLOAT_MAX, said)
        given.append(default if value is None else float(value))
    return _ACTS.index(act), given[0], given[1], given[2]


# ---- module ----------------------------------------------------------------------------------------------------------


class BiasAct(nn.Module):
    """:func:`bias_act` as a module with a bias of its own, in place of ``FusedLeakyReLU`` of StyleGAN 2 in PyTorch and
    ``FusedBiasLeakyReLU`` of mmcv, whose state dicts it loads.

    Args:
        num_features: how many channels the input has.
        act, dim, alpha, gain, clamp: see :func:`bias_act`; checked here, so that a mistake shows at construction.
        bias: whether there is one; 0 at first.
        device, dtype: of the bias.

    Shape:
        Any with ``num_features`` along ``dim``, to the same.

    Raises:
        ValueError, TypeError: a number out of range or of another kind.

    Example:
        >>> BiasAct(512)(torch.rand(4, 512, 8, 8)).shape
        torch.Size([4, 512, 8, 8])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        act: str = "lrelu",
        dim: int = 1,
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_int("BiasAct", "num_features", num_features, 1, INT32_MAX)
        _checked_numbers(act, alpha, gain, clamp)
        self.act, self.alpha, self.gain, self.clamp = act, alpha, gain, clamp
        self.dim = check_int("BiasAct", "dim", dim, -INT32_MAX, INT32_MAX, "a whole number")
        made = nn.Parameter(torch.empty(self.num_features, device=device, dtype=dtype))
        self.register_parameter("bias", made if check_bool("BiasAct", "bias", bias) else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(x, self.bias, self.dim, self.act, self.alpha, self.gain, self.clamp)

    def extra_repr(self) -> str:
        numbers = f"alpha={self.alpha}, gain={self.gain}, clamp={self.clamp}"
        return f"{self.num_features}, act={self.act!r}, dim={self.dim}, {numbers}, bias={self.bias is not None}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def _swish(z: Tensor) -> Tensor:
    # Of minus infinity the limit, 0.
    return z.clamp(min=torch.finfo(z.dtype).min) * torch.sigmoid(z)


def bias_act_reference(x: Tensor, b: Tensor | None, act: int, alpha: float, gain: float, clamp: float) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition, in torch's own activations. At plus infinity the
    derivatives of swish are NaN, where the kernels have 1 and 0."""
    z = x.to(computed_dtype(x))
    z = z if b is None else z + beside(b, x)
    name = _ACTS[act]
    if name == "lrelu":
        y = F.leaky_relu(z, alpha)
    elif name == "swish":
        y = _swish(z)
    elif name != "linear":
        y = {
            "relu": torch.relu,
            "tanh": torch.tanh,
            "sigmoid": torch.sigmoid,
            "elu": F.elu,
            "selu": F.selu,
            "softplus": F.softplus,
        }[name](z)
    else:
        y = z
    y = y if gain == 1 else y * gain
    return (y if clamp < 0 else cut_off(y, clamp)).to(x.dtype)


# ---- registration: private references and fakes, autograd, vmap and sharding follow from these -----------------------


def _fake(x: Tensor, b: Tensor | None, *_: Any) -> Tensor:
    if x.dim() < 2:
        raise RuntimeError(
            f"{_OP}: x must have at least 2 dimensions (batch, channels, positions...); got {tuple(x.shape)}"
        )
    if b is not None:
        _bias_act.check_of_channels("b", b, x)
    return empty_gradient(x)


def _every_dimension(x: Any, **_: Any) -> list[dict[str, int | None]]:
    return [{"x": dim, "b": 0 if dim == 1 else None, "output": dim} for dim in range(len(x.shape))]


class _BiasAct(SeparateChannels):
    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if _ACTS[ctx.others[0]] in _STRAIGHT:
            return along_grad_output(self, ctx, grad_grads)
        return super().second_derivative(ctx, *grad_grads)


_bias_act = _BiasAct(
    "handgrad::bias_act",
    reference=bias_act_reference,
    fake=_fake,
    roles={"x": BATCHED, "b": WHOLE, "output": BATCHED},
    gradient_like=empty_gradient_of_norm,
    splits=_every_dimension,
)
