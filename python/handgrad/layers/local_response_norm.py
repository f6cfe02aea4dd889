"""Local response normalisation, handgrad's teaching op: read this file beside csrc/layers/local_response_norm/.

Mathematics and both derivatives: docs/layers/local_response_norm.md. Every op's Python file has these parts in this
order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad.arguments import check_int, check_like, check_range, check_tensor
from handgrad.registration import batch_first, register, through_reference
from handgrad.tracing import traceable

_OP = "local_response_norm"
_LARGEST = sys.float_info.max

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
    size = check_int(_OP, "size", size, 1)
    check_range(_OP, "alpha", alpha, -_LARGEST, _LARGEST, "a finite number")
    check_range(_OP, "beta", beta, -_LARGEST, _LARGEST, "a finite number")
    check_range(_OP, "k", k, -_LARGEST, _LARGEST, "a finite number")
    return _forward(input, size, alpha, beta, k)


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
        local_response_norm(torch.zeros(1, 1, 1), size, alpha, beta, k)
        self.size = size
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


def _backward_reference(grad_output: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    def forward(x: Tensor) -> Tensor:
        return local_response_norm_reference(x, size, alpha, beta, k)

    (grad_input,) = torch.func.vjp(forward, input)[1](grad_output)
    return grad_input


def _double_backward_reference(
    grad_grad_input: Tensor, grad_output: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float
) -> tuple[Tensor, Tensor]:
    def backward(g: Tensor, x: Tensor) -> Tensor:
        return _backward_reference(g, x, size, alpha, beta, k)

    return torch.func.vjp(backward, grad_output, input)[1](grad_grad_input)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    torch._check(
        3 <= input.dim() <= 5,
        lambda: f"{_OP}: input must have 3 to 5 dimensions (batch, channels, positions...); got {tuple(input.shape)}",
    )
    if input.is_contiguous() or input.movedim(1, -1).is_contiguous():
        return input.new_empty_strided(input.shape, input.stride())
    return input.new_empty(input.shape)


def _backward_fake(grad_output: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    check_like(_OP, "grad_output", grad_output, "input", input)
    return _fake(input, size, alpha, beta, k)


def _double_backward_fake(
    grad_grad_input: Tensor, grad_output: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float
) -> tuple[Tensor, Tensor]:
    return _fake(input, size, alpha, beta, k), _fake(input, size, alpha, beta, k)


# ---- autograd, vmap --------------------------------------------------------------------------------------------------


class _Forward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        input, *ctx.parameters = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        # size, alpha, beta and k are numbers
        return _backward(grad_output, *ctx.saved_tensors, *ctx.parameters), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor, *_: None) -> Tensor:
        # The backward is linear in grad_output, with the transposed Jacobian for its matrix; differentiated with
        # respect to grad_output it gives the Jacobian itself, whatever grad_output is.
        (input,) = ctx.saved_tensors
        return _double_backward(input_tangent, torch.zeros_like(input), input, *ctx.parameters)[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, *parameters: Any) -> Any:
        return _unfold(_forward(_fold(input, in_dims[0], info.batch_size), *parameters), info.batch_size), 0


class _Backward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        grad_output, input, *ctx.parameters = inputs
        ctx.save_for_backward(grad_output, input)
        ctx.save_for_forward(grad_output, input)

    @staticmethod
    def backward(ctx: Any, grad_grad_input: Tensor) -> Any:
        return *_double_backward(grad_grad_input, *ctx.saved_tensors, *ctx.parameters), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Tensor | None, input_tangent: Tensor | None, *_: None) -> Tensor:
        grad_output, input = ctx.saved_tensors
        # Linear in grad_output; and the Hessian of sum(grad_output * output) is symmetric, so H v is what the double
        # backward makes of v.
        tangent = None
        if grad_tangent is not None:
            tangent = _backward(grad_tangent, input, *ctx.parameters)
        if input_tangent is not None:
            by_input = _double_backward(input_tangent, grad_output, input, *ctx.parameters)[1]
            tangent = by_input if tangent is None else tangent + by_input
        return torch.zeros_like(input) if tangent is None else tangent

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad_output: Tensor, input: Tensor, *parameters: Any) -> Any:
        folded = (_fold(x, d, info.batch_size) for x, d in zip((grad_output, input), in_dims, strict=False))
        return _unfold(_backward(*folded, *parameters), info.batch_size), 0


def _double_backward_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = (_fold(x, d, info.batch_size) for x, d in zip(args[:3], in_dims, strict=False))
    outputs = _double_backward(*folded, *args[3:])
    return tuple(_unfold(x, info.batch_size) for x in outputs), (0, 0)


def _fold(tensor: Tensor, dim: int | None, batch_size: int) -> Tensor:
    # The batch dimension is the op's own: what vmap adds goes into it.
    return batch_first(tensor, dim, batch_size).flatten(0, 1)


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


def _sharding(tensors: int, outputs: int) -> Callable[..., Any]:
    """The rule of an op whose ``tensors`` arguments and ``outputs`` results are all alike."""

    def rule(*args: Any) -> Any:
        from torch.distributed.tensor import Replicate, Shard

        # Channels talk to each other: every dimension but theirs can be split.
        placements = [Replicate(), *(Shard(dim) for dim in range(len(args[0].shape)) if dim != 1)]
        return [([placement] * outputs, [placement] * tensors + [None] * 4) for placement in placements]

    return rule


_forward = register(
    "handgrad::local_response_norm",
    autograd=_Forward,
    fake=_fake,
    reference=local_response_norm_reference,
    autocast=torch.float32,
    sharding=_sharding(tensors=1, outputs=1),
    onnx=_onnx,
)
_backward = register(
    "handgrad::_local_response_norm_backward",
    autograd=_Backward,
    fake=_backward_fake,
    reference=_backward_reference,
    sharding=_sharding(tensors=2, outputs=1),
)
_double_backward = register(
    "handgrad::_local_response_norm_double_backward",
    autograd=through_reference(_double_backward_reference, _double_backward_vmap),
    fake=_double_backward_fake,
    reference=_double_backward_reference,
    sharding=_sharding(tensors=3, outputs=2),
)
