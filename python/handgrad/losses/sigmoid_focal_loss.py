"""Sigmoid focal loss. Mathematics, derivatives and numerics: docs/losses/sigmoid_focal_loss.md."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad.arguments import check_like, check_range, check_tensor
from handgrad.reductions import (
    is_sharded_mean,
    reduce,
    reduce_samples,
    reduction_code,
    sample_scale,
    sharded_mean,
)
from handgrad.registration import batch_first, register, through_reference
from handgrad.tracing import traceable

_OP = "sigmoid_focal_loss"
_LARGEST = sys.float_info.max

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    r"""Focal loss for binary and multi-label classification (Lin et al., `Focal Loss for Dense Object Detection
    <https://arxiv.org/abs/1708.02002>`_, 2017, equations 4 and 5).

    With :math:`p` = sigmoid(inputs) and :math:`q = p (1 - t) + (1 - p) t`, the probability given to the wrong class:

    .. math:: loss = (\alpha t + (1 - \alpha)(1 - t)) \; q^\gamma \; (-t \log p - (1 - t) \log(1 - p))

    Signature and values of :func:`torchvision.ops.sigmoid_focal_loss`; beyond it: soft targets, gradients with respect
    to the targets, second derivatives, forward mode, and a fused mean and sum.

    Args:
        inputs: logits, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: for each element the probability of the positive class, in [0, 1]; 0 and 1 are the hard labels. Same
            shape; integer and bool targets are converted, floating-point ones promoted with ``inputs`` as torch does.
        alpha: weight of the positive class in [0, 1] (the negative class has 1 - alpha), or -1 for no weights.
        gamma: how strongly easy examples are discounted, at least 0. 0 is weighted binary cross entropy. 2 is fastest.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``alpha``, ``gamma`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> logits = torch.tensor([2.0, -1.0]); labels = torch.tensor([1.0, 0.0])
        >>> sigmoid_focal_loss(logits, labels, reduction="mean")
        tensor(0.0087)
    """
    check_tensor(_OP, "inputs", inputs)
    check_tensor(_OP, "targets", targets)
    check_range(_OP, "alpha", alpha, 0, 1, "in [0, 1], or -1 for no class weights", also=-1)
    check_range(_OP, "gamma", gamma, 0, _LARGEST, "a finite number, at least 0")
    if inputs.dtype != targets.dtype:
        inputs, targets = _promote(inputs, targets)
    code = reduction_code(_OP, reduction)
    if is_sharded_mean(inputs, code):
        return sharded_mean(_forward, inputs, targets, alpha, gamma)
    return _forward(inputs, targets, alpha, gamma, code)


def _promote(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if not inputs.is_floating_point() or targets.is_complex():
        return inputs, targets  # the kernel says what it wants
    dtype = torch.promote_types(inputs.dtype, targets.dtype)
    return inputs.to(dtype), targets.to(dtype)


# ---- module ----------------------------------------------------------------------------------------------------------


class SigmoidFocalLoss(nn.Module):
    """:func:`sigmoid_focal_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        alpha, gamma, reduction: see :func:`sigmoid_focal_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = SigmoidFocalLoss(alpha=0.25, gamma=2)
        >>> loss(torch.zeros(3), torch.ones(3))
        tensor(0.0433)
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2, reduction: str = "mean") -> None:
        super().__init__()
        sigmoid_focal_loss(torch.zeros(1), torch.zeros(1), alpha, gamma, reduction)
        self.alpha = alpha
        self.gamma = gamma
        self.reduction = reduction

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return sigmoid_focal_loss(inputs, targets, self.alpha, self.gamma, self.reduction)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, gamma={self.gamma}, reduction={self.reduction!r}"


# ---- reference: the definition, from torch's own log-sigmoid; derivatives by torch's autograd ------------------------


def sigmoid_focal_loss_reference(
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    reduction: int,
    log_sigmoid: Callable[[Tensor], Tensor] = F.logsigmoid,
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the paper's formula, term by term, over torch's stable log-sigmoid."""
    cross_entropy = -targets * log_sigmoid(inputs) - (1 - targets) * log_sigmoid(-inputs)
    wrong = torch.sigmoid(inputs) * (1 - targets) + torch.sigmoid(-inputs) * targets
    loss = wrong**gamma * cross_entropy
    if alpha >= 0:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return reduce(loss, reduction)


def _backward_reference(
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    reduction: int,
    need_inputs: bool = True,
    need_targets: bool = True,
) -> tuple[Tensor, Tensor]:
    def forward(x: Tensor, t: Tensor) -> Tensor:
        return sigmoid_focal_loss_reference(x, t, alpha, gamma, reduction)

    grad_inputs, grad_targets = torch.func.vjp(forward, inputs, targets)[1](grad_output)
    return grad_inputs if need_inputs else inputs.new_empty(0), grad_targets if need_targets else inputs.new_empty(0)


def _double_backward_reference(
    grad_grad_inputs: Tensor | None,
    grad_grad_targets: Tensor | None,
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor]:
    def backward(g: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _backward_reference(g, x, t, alpha, gamma, reduction)

    u = torch.zeros_like(inputs) if grad_grad_inputs is None else grad_grad_inputs
    v = torch.zeros_like(inputs) if grad_grad_targets is None else grad_grad_targets
    return torch.func.vjp(backward, grad_output, inputs, targets)[1]((u, v))


# ---- fake: shapes ----------------------------------------------------------------------------------------------------


def _fake(inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int) -> Tensor:
    check_like(_OP, "targets", targets, "inputs", inputs)
    return torch.empty_like(inputs) if reduction == 0 else inputs.new_empty(())


def _backward_fake(
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    reduction: int,
    need_inputs: bool,
    need_targets: bool,
) -> tuple[Tensor, Tensor]:
    check_like(_OP, "targets", targets, "inputs", inputs)
    return (
        torch.empty_like(inputs) if need_inputs else inputs.new_empty(0),
        torch.empty_like(targets) if need_targets else inputs.new_empty(0),
    )


def _double_backward_fake(
    grad_grad_inputs: Tensor | None,
    grad_grad_targets: Tensor | None,
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor]:
    check_like(_OP, "targets", targets, "inputs", inputs)
    return _fake(inputs, targets, alpha, gamma, reduction), torch.empty_like(inputs), torch.empty_like(targets)


# ---- autograd, vmap --------------------------------------------------------------------------------------------------


class _Forward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        logits, targets, *ctx.parameters = inputs
        ctx.save_for_backward(logits, targets)
        ctx.save_for_forward(logits, targets)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        need_inputs, need_targets = ctx.needs_input_grad[:2]
        grad_inputs, grad_targets = _backward(
            grad_output, *ctx.saved_tensors, *ctx.parameters, need_inputs, need_targets
        )
        # alpha, gamma and reduction are numbers
        return grad_inputs if need_inputs else None, grad_targets if need_targets else None, None, None, None

    @staticmethod
    def jvp(ctx: Any, inputs_tangent: Tensor | None, targets_tangent: Tensor | None, *_: None) -> Tensor:
        # The loss of an element depends on that element alone: its Jacobian is diagonal, so J v is what the backward
        # makes of v.
        alpha, gamma, reduction = ctx.parameters
        tangents = []
        if inputs_tangent is not None:
            tangents.append(_backward(inputs_tangent, *ctx.saved_tensors, alpha, gamma, 0, True, False)[0])
        if targets_tangent is not None:
            tangents.append(_backward(targets_tangent, *ctx.saved_tensors, alpha, gamma, 0, False, True)[1])
        return reduce(tangents[0] if len(tangents) == 1 else tangents[0] + tangents[1], reduction)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int
    ) -> Any:
        inputs, targets = (batch_first(x, d, info.batch_size) for x, d in zip((inputs, targets), in_dims, strict=False))
        return reduce_samples(_forward(inputs, targets, alpha, gamma, 0), reduction), 0


class _Backward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, alpha, gamma, reduction, need_inputs, need_targets = inputs
        ctx.parameters = alpha, gamma, reduction
        ctx.needs = need_inputs, need_targets
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor) -> Any:
        u, v = (grad if need else None for grad, need in zip(grad_grads, ctx.needs, strict=True))
        return *_double_backward(u, v, *ctx.saved_tensors, *ctx.parameters), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Any, inputs_tangent: Any, targets_tangent: Any, *_: None) -> Any:
        _, inputs, targets = ctx.saved_tensors
        # Linear in grad_output; and the Hessian is symmetric, so H v is what the double backward makes of v.
        by_grad = [torch.zeros_like(inputs), torch.zeros_like(targets)]
        if grad_tangent is not None:
            by_grad = _backward(grad_tangent, inputs, targets, *ctx.parameters, True, True)
        by_point = _double_backward(inputs_tangent, targets_tangent, *ctx.saved_tensors, *ctx.parameters)[1:]
        return tuple(
            a + b if need else inputs.new_zeros(0) for a, b, need in zip(by_grad, by_point, ctx.needs, strict=True)
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        *tensors, alpha, gamma, reduction, need_inputs, need_targets = args
        grad_output, inputs, targets = (
            batch_first(x, d, info.batch_size) for x, d in zip(tensors, in_dims, strict=False)
        )
        grad_output = sample_scale(grad_output, inputs, reduction)
        grads = _backward(grad_output, inputs, targets, alpha, gamma, 0, need_inputs, need_targets)
        placeholder = inputs.new_empty(info.batch_size, 0)
        return (grads[0] if need_inputs else placeholder, grads[1] if need_targets else placeholder), (0, 0)


def _double_backward_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    *tensors, alpha, gamma, reduction = args
    u, v, grad_output, inputs, targets = (
        batch_first(x, d, info.batch_size) for x, d in zip(tensors, in_dims, strict=False)
    )
    grad_output = sample_scale(grad_output, inputs, reduction)
    grad_grad_output, grad_inputs, grad_targets = _double_backward(u, v, grad_output, inputs, targets, alpha, gamma, 0)
    return (reduce_samples(grad_grad_output, reduction), grad_inputs, grad_targets), (0, 0, 0)


# ---- onnx: the reference, from a log-sigmoid that stays stable there -------------------------------------------------


def _onnx(inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int) -> Tensor:
    # torch exports its own log-sigmoid as log(sigmoid(x)): minus infinity for very negative logits, or whatever the
    # runtime's sigmoid ends at (-18 in onnxruntime).
    def log_sigmoid(x: Tensor) -> Tensor:
        return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs()))

    return sigmoid_focal_loss_reference(inputs, targets, alpha, gamma, reduction, log_sigmoid)


# ---- registration ----------------------------------------------------------------------------------------------------


def _sharding(inputs: Any, targets: Any, alpha: float, gamma: float, reduction: int) -> Any:
    from torch.distributed.tensor import Partial, Shard

    # Every dimension can be split. A sum over shards is a partial sum; the mean never gets here sharded, see the public
    # function.
    rules: list[Any] = []
    for placement in _placements(inputs, reduction):
        output = Partial() if reduction and isinstance(placement, Shard) else placement
        rules.append(([output], [placement, placement, *_NUMBERS[:3]]))
    return rules


def _backward_sharding(grad_output: Any, inputs: Any, targets: Any, alpha: float, gamma: float, *args: Any) -> Any:
    from torch.distributed.tensor import Replicate, Shard

    reduction, *needs = args
    rules: list[Any] = []
    for placement in _placements(inputs, reduction):
        grad = Replicate() if reduction else placement
        # What nobody needs is a tensor without elements, the same everywhere.
        grads = [placement if need and isinstance(placement, Shard) else Replicate() for need in needs]
        rules.append((grads, [grad, placement, placement, *_NUMBERS]))
    return rules


def _double_backward_sharding(u: Any, v: Any, grad_output: Any, inputs: Any, targets: Any, *args: Any) -> Any:
    from torch.distributed.tensor import Partial, Replicate, Shard

    reduction = args[2]
    rules: list[Any] = []
    for placement in _placements(inputs, reduction):
        sharded = isinstance(placement, Shard)
        grad = Replicate() if reduction else placement
        total = Partial() if reduction and sharded else grad
        directions = [None if direction is None else placement for direction in (u, v)]
        rules.append(([total, placement, placement], [*directions, grad, placement, placement, *_NUMBERS[:3]]))
    return rules


# Arguments without a placement.
_NUMBERS: list[Any] = [None] * 5


def _placements(inputs: Any, reduction: int) -> list[Any]:
    from torch.distributed.tensor import Replicate, Shard

    return [Replicate(), *(Shard(dim) for dim in range(len(inputs.shape) if reduction != 1 else 0))]


_forward = register(
    "handgrad::sigmoid_focal_loss",
    autograd=_Forward,
    fake=_fake,
    reference=sigmoid_focal_loss_reference,
    autocast=torch.float32,
    sharding=_sharding,
    onnx=_onnx,
)
_backward = register(
    "handgrad::_sigmoid_focal_loss_backward",
    autograd=_Backward,
    fake=_backward_fake,
    reference=_backward_reference,
    sharding=_backward_sharding,
)
_double_backward = register(
    "handgrad::_sigmoid_focal_loss_double_backward",
    autograd=through_reference(_double_backward_reference, _double_backward_vmap),
    fake=_double_backward_fake,
    reference=_double_backward_reference,
    sharding=_double_backward_sharding,
)
