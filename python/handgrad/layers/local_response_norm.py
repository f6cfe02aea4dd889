"""Local response normalisation, handgrad's teaching op: read this file beside csrc/layers/local_response_norm/.

Mathematics and both derivatives: docs/layers/local_response_norm.md. Every op's Python file has these parts in this
order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad.arguments import FLOAT_MAX, check_int, check_like, check_range, check_tensor
from handgrad.registration import batch_first, register, through_reference
from handgrad.tracing import traceable

_OP = "local_response_norm"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    r"""Divides each activation by the energy of its neighbours across channels (Krizhevsky et al., `ImageNet
    Classification with Deep Convolutional Neural Networks
    <https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks>`_, 2012, section
    3.3).

    .. math:: y_c = x_c \left(k + \frac{\alpha}{size}
        \sum_{j = c - \lfloor size / 2 \rfloor}^{c + \lfloor (size - 1) / 2 \rfloor} x_j^2\right)^{-\beta}

    Signature and values of :func:`torch.nn.functional.local_response_norm`; beyond it: channels_last is kept, second
    derivatives, forward mode, and no intermediate of the input's size, forward or backward.

    Args:
        input: (batch, channels, positions...), 3 to 5 dimensions; float32, float64, bfloat16 or float16, any strides.
        size: how many channels are in the window, at least 1. Channels beyond the ends count as zeros.
        alpha, beta, k: the formula's constants. beta = 0.75 is fastest.

    Returns:
        A tensor like ``input``: channels_last if ``input`` is, contiguous otherwise. Under autocast float32.
        Where the sum in brackets is 0 (k = 0 and a window of zeros) the result is NaN, as in torch.

    Raises:
        ValueError: ``size`` below 1, or ``alpha``, ``beta`` or ``k`` not finite.
        TypeError: an argument of another kind.
        RuntimeError: rank or dtype of ``input`` out of range.

    Example:
        >>> local_response_norm(torch.ones(1, 3, 1), size=3, alpha=3.0, beta=1.0).flatten()
        tensor([0.3333, 0.2500, 0.3333])
    """
    check_tensor(_OP, "input", input)
    return _forward(input, _checked_size(size, alpha, beta, k), alpha, beta, k)


def _checked_size(size: int, alpha: float, beta: float, k: float) -> int:
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        check_range(_OP, name, value, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    return check_int(_OP, "size", size, 1)


# ---- module ----------------------------------------------------------------------------------------------------------


class LocalResponseNorm(nn.Module):
    """:func:`local_response_norm` as a module, in place of :class:`torch.nn.LocalResponseNorm`.

    Args:
        size, alpha, beta, k: see :func:`local_response_norm`; checked here, so that a mistake shows at construction.

    Shape:
        (batch, channels, positions...) to the same.

    Example:
        >>> LocalResponseNorm(5)(torch.ones(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = _checked_size(size, alpha, beta, k)
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def local_response_norm_reference(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: squares, zeros beyond the ends, a sum over
    the window, a power."""
    channels = input.shape[1]
    before, after = min(size // 2, channels), min((size - 1) // 2, channels)
    squares = F.pad(input * input, [0, 0] * (input.dim() - 2) + [before, after])
    # A running window, not a difference of running totals: that one would lose small numbers after large ones.
    total = sum(squares.narrow(1, shift, channels) for shift in range(before + after + 1))
    return input * (k + alpha / size * total) ** -beta


def _backward_reference(
    grad_output: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float, output_mask: list[bool]
) -> Tensor:
    if not output_mask[0]:
        return input.new_empty(0)

    def forward(x: Tensor) -> Tensor:
        return local_response_norm_reference(x, size, alpha, beta, k)

    (grad_input,) = torch.func.vjp(forward, input)[1](grad_output)
    return grad_input


def _double_backward_reference(
    grad_grad_input: Tensor | None,
    grad_output: Tensor,
    input: Tensor,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor]:
    def backward(g: Tensor, x: Tensor) -> Tensor:
        return _backward_reference(g, x, size, alpha, beta, k, [True])

    direction = torch.zeros_like(input) if grad_grad_input is None else grad_grad_input
    grad_grad_output, grad_input = torch.func.vjp(backward, grad_output, input)[1](direction)
    nothing = input.new_empty(0)
    return grad_grad_output if output_mask[0] else nothing, grad_input if output_mask[1] else nothing


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    torch._check(
        3 <= input.dim() <= 5,
        lambda: f"{_OP}: input must have 3 to 5 dimensions (batch, channels, positions...); got {tuple(input.shape)}",
    )
    if input.is_contiguous() or input.movedim(1, -1).is_contiguous():
        return input.new_empty_strided(input.shape, input.stride())
    return input.new_empty(input.shape)


def _backward_fake(grad_output: Tensor, input: Tensor, *others: Any) -> Tensor:
    *numbers, (asked,) = others
    check_like(_OP, "grad_output", grad_output, "input", input)
    return _fake(input, *numbers) if asked else input.new_empty(0)


def _double_backward_fake(
    grad_grad_input: Tensor | None, grad_output: Tensor, input: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    *numbers, output_mask = others
    first, second = (_fake(input, *numbers) if asked else input.new_empty(0) for asked in output_mask)
    return first, second


# ---- autograd, vmap: what handgrad.derivatives derives for other ops, written out ------------------------------------


class _Forward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        input, *ctx.parameters = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        # size, alpha, beta and k are numbers
        return _backward(grad_output, *ctx.saved_tensors, *ctx.parameters, [True]), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor, *_: None) -> Tensor:
        # The backward is linear in grad_output, with the transposed Jacobian for its matrix; differentiated with
        # respect to grad_output it gives the Jacobian itself, whatever grad_output is.
        (input,) = ctx.saved_tensors
        no_matter = input.new_zeros(()).expand(input.shape)
        return _double_backward(input_tangent, no_matter, input, *ctx.parameters, [True, False])[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, *parameters: Any) -> Any:
        return _unfold(_forward(_fold(input, in_dims[0], info.batch_size), *parameters), info.batch_size), 0


class _Backward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        # output_mask is [True]: nobody asks for a gradient in order to leave it out.
        grad_output, input, *ctx.parameters, _ = inputs
        ctx.save_for_backward(grad_output, input)
        ctx.save_for_forward(grad_output, input)

    @staticmethod
    def backward(ctx: Any, grad_grad_input: Tensor) -> Any:
        output_mask = list(ctx.needs_input_grad[:2])
        grads = _double_backward(grad_grad_input, *ctx.saved_tensors, *ctx.parameters, output_mask)
        grad_grad_output, grad_input = (grad if asked else None for grad, asked in zip(grads, output_mask, strict=True))
        # size, alpha, beta, k and output_mask are no tensors
        return grad_grad_output, grad_input, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Tensor | None, input_tangent: Tensor | None, *_: None) -> Tensor:
        grad_output, input = ctx.saved_tensors
        # Linear in grad_output; and the Hessian of sum(grad_output * output) is symmetric, so H v is what the double
        # backward makes of v.
        tangent = None
        if grad_tangent is not None:
            tangent = _backward(grad_tangent, input, *ctx.parameters, [True])
        if input_tangent is not None:
            by_input = _double_backward(input_tangent, grad_output, input, *ctx.parameters, [False, True])[1]
            tangent = by_input if tangent is None else tangent + by_input
        return torch.zeros_like(input) if tangent is None else tangent

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad_output: Tensor, input: Tensor, *parameters: Any) -> Any:
        folded = (_fold(x, d, info.batch_size) for x, d in zip((grad_output, input), in_dims, strict=False))
        return _unfold(_backward(*folded, *parameters), info.batch_size), 0


def _double_backward_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = (_fold(x, d, info.batch_size) for x, d in zip(args[:3], in_dims, strict=False))
    outputs = _double_backward(*folded, *args[3:])
    unfolded = (
        _unfold(x, info.batch_size) if asked else x.expand(info.batch_size, 0)
        for x, asked in zip(outputs, args[-1], strict=True)
    )
    return tuple(unfolded), (0, 0)


def _fold(tensor: Tensor | None, dim: int | None, batch_size: int) -> Tensor | None:
    # The batch dimension is the op's own: what vmap adds goes into it.
    return None if tensor is None else batch_first(tensor, dim, batch_size).flatten(0, 1)


def _unfold(tensor: Tensor, batch_size: int) -> Tensor:
    return tensor.unflatten(0, (batch_size, tensor.shape[0] // max(1, batch_size)))


# ---- onnx: ONNX's own operator, where it means the same --------------------------------------------------------------


def _onnx(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Any:
    from handgrad.onnx import operator

    # ONNX's window begins (size - 1) // 2 channels before the middle one, ours size // 2. And onnxruntime runs this
    # operator for images in float32 and positive constants only.
    if size % 2 == 0 or input.dim() != 4 or input.dtype is not torch.float32 or alpha <= 0 or beta <= 0:
        return NotImplemented
    attributes = {"size": size, "alpha": float(alpha), "beta": float(beta), "bias": float(k)}
    return operator("LRN", [input], attributes, dtype=input.dtype, shape=input.shape)


# ---- registration ----------------------------------------------------------------------------------------------------


def _sharding(others: int) -> Callable[..., Any]:
    """The rule of an op whose tensors and results are all alike, beside so many other arguments."""

    def rule(*args: Any) -> Any:
        from torch.distributed.tensor import Replicate, Shard

        tensors, output_mask = args[:-others], args[-1] if isinstance(args[-1], (list, tuple)) else [True]
        # Channels talk to each other: every dimension but theirs can be split.
        ways: list[Any] = []
        for placement in (Replicate(), *(Shard(dim) for dim in range(len(tensors[-1].shape)) if dim != 1)):
            # What is not asked for has no elements, and is the same everywhere.
            results = [placement if asked else Replicate() for asked in output_mask]
            ways.append((results, [None if x is None else placement for x in tensors] + [None] * others))
        return ways

    return rule


_forward = register(
    "handgrad::local_response_norm",
    autograd=_Forward,
    fake=_fake,
    reference=local_response_norm_reference,
    autocast=torch.float32,
    sharding=_sharding(others=4),
    onnx=_onnx,
)
_backward = register(
    "handgrad::_local_response_norm_backward",
    autograd=_Backward,
    fake=_backward_fake,
    reference=_backward_reference,
    sharding=_sharding(others=5),
)
_double_backward = register(
    "handgrad::_local_response_norm_double_backward",
    autograd=through_reference(_double_backward_reference, _double_backward_vmap),
    fake=_double_backward_fake,
    reference=_double_backward_reference,
    sharding=_sharding(others=5),
)
