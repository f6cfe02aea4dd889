"""Normalisations over the channels of each position of (batch, channels, positions...): all but what is normalised by.

The op's schema is ``foo(Tensor input, Tensor? weight, Tensor? bias, float eps) -> Tensor``, or the same without a bias;
its private ops' are as :mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/channel_norm.h``.
Weight and bias are of the type that the input is computed in, float32 beside half types.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._layout import empty_gradient
from handgrad._sharding import replicated_beside
from handgrad.arguments import (
    FLOAT_MAX,
    INT32_MAX,
    as_computed,
    check_bool,
    check_int,
    check_range,
    check_tensor,
    computed_dtype,
)
from handgrad.derivatives import BATCHED, WHOLE, Call, Derivatives, fold_batch, unfold_batch

__all__ = [
    "ChannelNorm",
    "ChannelNormModule",
    "NormWithParameters",
    "beside",
    "check_eps",
    "empty_gradient_of_norm",
    "like_bias",
]


class NormWithParameters(Derivatives):
    """An op of an input of (batch, channels, positions...) and of tensors of its channels, each of which may be None:
    what they are checked for, and the result's fake."""

    def checked(self, input: Tensor, given: Iterable[Tensor | None]) -> list[Tensor | None]:
        """The tensors of channels, of the type that ``input`` is computed in."""
        named = zip(self.op.tensors[1:], given, strict=True)
        return [None if tensor is None else self._checked(name, tensor, input) for name, tensor in named]

    def _checked(self, name: str, tensor: Tensor, input: Tensor) -> Tensor:
        check_tensor(self.title, name, tensor)
        if not input.is_floating_point():
            return tensor  # the kernel says what it wants of the input
        return replicated_beside(input, as_computed(self.title, name, tensor, f"an {self.op.tensors[0]}", input))

    def fake_norm(self, input: Tensor, *others: Any) -> Tensor:
        torch._check(
            2 <= input.dim() <= 5,
            lambda: (
                f"{self.title}: input must have 2 to 5 dimensions (batch, channels, positions...); got "
                f"{tuple(input.shape)}"
            ),
        )
        for name, tensor in zip(self.op.tensors[1:], others, strict=False):
            if tensor is not None:
                self.check_of_channels(name, tensor, input)
        return empty_gradient(input)

    def check_of_channels(self, name: str, tensor: Tensor, input: Tensor) -> None:
        def message() -> str:
            return (
                f"{self.title}: {name} must have shape (channels,), here ({input.shape[1]},), on {input.device}; got "
                f"{tuple(tensor.shape)} on {tensor.device}"
            )

        torch._check(tensor.dim() == 1 and tensor.device == input.device, message)
        torch._check(tensor.shape[0] == input.shape[1], message)


class ChannelNorm(NormWithParameters):
    """Registers a normalisation over channels and calls it, with the checks and conversions that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: the normalised input in plain PyTorch, without weight and bias, ``reference(input, eps)``; it gets
            float32 or float64.

    Example::

        >>> _norm = ChannelNorm("my_ops::my_norm", my_norm_reference)
        >>> _norm(input, weight, bias, eps)
    """

    def __init__(self, name: str, reference: Callable[[Tensor, float], Tensor]) -> None:
        self.normalised = reference
        super().__init__(
            name,
            reference=self._named_after(reference),
            fake=self.fake_norm,
            roles={"input": BATCHED, "weight": WHOLE, "bias": WHOLE, "output": BATCHED},
            gradient_like=empty_gradient_of_norm,
            autocast=torch.float32,
            omitted={"bias": like_bias} if self._has_bias(name) else {},
            splits=self.every_dimension_but_the_channels,
        )

    def __call__(self, input: Tensor, *others: Any) -> Tensor:
        """The normalised input, from ``input``, ``weight``, ``bias`` where there is one, and ``eps``."""
        check_tensor(self.title, "input", input)
        *given, eps = others
        return self.forward(input, *self.checked(input, given), check_eps(self.title, eps))

    @staticmethod
    def _has_bias(name: str) -> bool:
        from handgrad.registration import schema_of

        return any(argument.name == "bias" for argument in schema_of(name).arguments)

    def _named_after(self, reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # Whose it is: registration names the op's public function by its module.
        @functools.wraps(reference)
        def weighted(input: Tensor, *others: Any) -> Tensor:
            *of_channels, eps = others
            output = reference(input.to(computed_dtype(input)), eps)
            weight, bias = (*of_channels, None, None)[:2]
            output = output if weight is None else output * beside(weight, input)
            return (output if bias is None else output + beside(bias, input)).to(input.dtype)

        del weighted.__wrapped__
        return weighted

    def every_dimension_but_the_channels(self, input: Any, **_: Any) -> list[dict[str, int | None]]:
        dims = (dim for dim in range(len(input.shape)) if dim != 1)
        return [{"input": dim, "weight": None, "bias": None, "output": dim} for dim in dims]

    # ---- vmap: a weight for each sample, or a gradient of it, is a product beside the op without one -----------------

    def batched(self, call: Call) -> list[Tensor]:
        whole = [name for name in call.tensors if name in call.batched and self.role(name).whole]
        sums = [name for name in call.op.results if self.role(name).whole and call.asks_for(name)]
        if not whole and not sums:
            return super().batched(call)
        samples = _Samples(self, call)
        if call.op is self.op:
            return [samples.value()]
        return samples.gradients() if call.op is self.backward_op else samples.second_gradients()


class _Samples:
    """The three ops under vmap, with tensors of channels for each sample. z is the normalised input; what depends on
    the weight is linear in it."""

    def __init__(self, norm: ChannelNorm, call: Call) -> None:
        self.norm, self.call, self.eps = norm, call, call.others["eps"]
        input = call.tensors["input"]
        self.dtype, self.shape = input.dtype, input.shape
        self.input = input.to(computed_dtype(input))

    def value(self) -> Tensor:
        return self._sum(self._times(self.z(), "weight"), self._of_channels("bias")).to(self.dtype)

    def gradients(self) -> list[Tensor]:
        g = self._wide("grad_output")
        made = {}
        if self.call.asks_for("grad_input"):
            made["grad_input"] = self.projected(self._times(g, "weight")).to(self.dtype)
        if self.call.asks_for("grad_weight"):
            made["grad_weight"] = self._over_rows(g * self.z())
        if "grad_bias" in self.call.op.results and self.call.asks_for("grad_bias"):
            made["grad_bias"] = self._over_rows(g)
        return self._in_order(made)

    def second_gradients(self) -> list[Tensor]:
        g, v = self._wide("grad_output"), self._wide("grad_grad_input")
        v = torch.zeros_like(g) if v is None else v
        h, moved = self._times(g, "weight"), self._of_channels("grad_grad_weight")
        mask = [self.call.asks_for(name) for name in ("grad_grad_output", "grad_input", "grad_weight")]
        norm, made = self.norm, {}
        nothing = (None,) * (len(norm.differentiable) - 1)
        tensors = (self._fold(x) for x in (h, self.input))
        asked = [mask[0] or mask[2], mask[1], False]
        first, second, _ = norm.double_backward(self._fold(v), *nothing, *tensors, None, self.eps, asked)
        if mask[0]:
            along = self._times(self._unfold(first), "weight")
            along = along if moved is None else along + moved * self.z()
            made["grad_grad_output"] = self._sum(along, self._of_channels("grad_grad_bias")).to(self.dtype)
        if mask[1]:
            grad = self._unfold(second)
            made["grad_input"] = (grad if moved is None else grad + self.projected(moved * g)).to(self.dtype)
        if mask[2]:
            made["grad_weight"] = self._over_rows(g * self._unfold(first))
        return self._in_order(made)

    def z(self) -> Tensor:
        nothing = (None,) * (len(self.norm.op.tensors) - 1)
        return self._unfold(self.norm.forward(self._fold(self.input), *nothing, self.eps))

    def projected(self, h: Tensor) -> Tensor:
        """The Jacobian of z times ``h``."""
        mask = [True, False, False][: len(self.norm.backward_op.results)]
        grads = self.norm.backward(self._fold(h), self._fold(self.input), None, self.eps, mask)
        return self._unfold(grads[0])

    def _in_order(self, made: Mapping[str, Tensor]) -> list[Tensor]:
        nothing = self.input.new_empty(self.call.size, 0)
        return [made.get(name, nothing) for name in self.call.op.results]

    def _wide(self, name: str) -> Any:
        tensor = self.call.tensors[name]
        return None if tensor is None else tensor.to(self.input.dtype)

    def _of_channels(self, name: str) -> Tensor | None:
        """A tensor of channels beside the input: one for each sample, or one for all."""
        tensor = self.call.tensors.get(name)
        if tensor is None:
            return None
        size = self.call.size if name in self.call.batched else 1
        return tensor.reshape(size, 1, -1, *[1] * (self.input.dim() - 3))

    def _times(self, tensor: Tensor, name: str) -> Tensor:
        factor = self._of_channels(name)
        return tensor if factor is None else tensor * factor

    def _sum(self, tensor: Tensor, added: Tensor | None) -> Tensor:
        return tensor if added is None else tensor + added

    def _over_rows(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(2, 1).flatten(2).sum(2)

    def _fold(self, tensor: Tensor) -> Tensor:
        return fold_batch(tensor, self.call)

    def _unfold(self, tensor: Tensor) -> Tensor:
        return unfold_batch(tensor, self.call.size)


class ChannelNormModule(nn.Module):
    """A normalisation over channels as a module, with timm's parameters and state dict."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_channels: int,
        eps: float,
        affine: bool,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_channels = check_int(name, "num_channels", num_channels, 1, INT32_MAX)
        self.eps = check_eps(name, eps)
        self.affine = check_bool(name, "affine", affine)
        for parameter, there in (("weight", self.affine), ("bias", self.affine and bias)):
            made = nn.Parameter(torch.empty(self.num_channels, device=device, dtype=dtype)) if there else None
            self.register_parameter(parameter, made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, eps={self.eps}, affine={self.affine}"


def check_eps(op: str, eps: float) -> float:
    """``eps`` as a float: a finite number, at least 0."""
    check_range(op, "eps", eps, 0.0, FLOAT_MAX, "a finite number, at least 0")
    return float(eps)


def beside(tensor: Tensor, input: Tensor) -> Tensor:
    return tensor.view(-1, *[1] * (input.dim() - 2))


def like_bias(input: Tensor, **_: Tensor) -> Tensor:
    return input.new_zeros(input.shape[1], dtype=computed_dtype(input))


def empty_gradient_of_norm(tensor: Tensor) -> Tensor:
    """Of the input, in its memory order; or of what is of channels."""
    return empty_gradient(tensor) if tensor.dim() > 1 else tensor.new_empty(tensor.shape)
