"""Asymmetric loss. Mathematics, derivatives and numerics: docs/losses/asymmetric_loss.md."""

from __future__ import annotations

import sys
from typing import Any

import torch
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

_OP = "asymmetric_loss"
_LARGEST = sys.float_info.max

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def asymmetric_loss(
    inputs: Tensor,
    targets: Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    reduction: str = "none",
) -> Tensor:
    r"""Asymmetric loss for multi-label classification (Ridnik et al., `Asymmetric Loss for Multi-Label Classification
    <https://arxiv.org/abs/2009.14119>`_, 2021, equations 4 to 7), in which easy negatives count little or not at all.

    .. math:: loss = -t (1 - p)^{\gamma_+} \log p - (1 - t) s^{\gamma_-} \log(1 - s), \quad s = \max(p - clip, 0)

    with :math:`p` = sigmoid(inputs). The gradient is that of this formula, the weights included, which the authors'
    code may leave out (``disable_torch_grad_focal_loss``). The defaults are those of that code.

    Args:
        inputs: logits, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: 0, 1 or in between. Same shape; integer and bool targets are converted, floating-point ones promoted
            with ``inputs`` as torch does.
        gamma_neg, gamma_pos: how strongly easy examples of each class count less, at least 0; fast as integers to 7.
        clip: the probability below which a negative costs nothing, in [0, 1]; 0 for no shift.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``gamma_neg``, ``gamma_pos``, ``clip`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> asymmetric_loss(torch.tensor([4.0, 1.0]), torch.tensor([0.0, 1.0]), gamma_neg=3.0)
        tensor([2.1766, 0.0842])
    """
    check_tensor(_OP, "inputs", inputs)
    check_tensor(_OP, "targets", targets)
    check_range(_OP, "gamma_neg", gamma_neg, 0, _LARGEST, "a finite number, at least 0")
    check_range(_OP, "gamma_pos", gamma_pos, 0, _LARGEST, "a finite number, at least 0")
    check_range(_OP, "clip", clip, 0, 1, "in [0, 1]")
    if inputs.dtype != targets.dtype:
        inputs, targets = _promote(inputs, targets)
    code = reduction_code(_OP, reduction)
    if is_sharded_mean(inputs, code):
        return sharded_mean(_forward, inputs, targets, gamma_neg, gamma_pos, clip)
    return _forward(inputs, targets, gamma_neg, gamma_pos, clip, code)


def _promote(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if not inputs.is_floating_point() or targets.is_complex():
        return inputs, targets  # the kernel says what it wants
    dtype = torch.promote_types(inputs.dtype, targets.dtype)
    return inputs.to(dtype), targets.to(dtype)


# ---- module ----------------------------------------------------------------------------------------------------------


class AsymmetricLoss(nn.Module):
    """:func:`asymmetric_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        gamma_neg, gamma_pos, clip, reduction: see :func:`asymmetric_loss`; checked here, so that
            a mistake shows at construction.

    Example:
        >>> loss = AsymmetricLoss(gamma_neg=3.0)
        >>> loss(torch.tensor([4.0, 1.0]), torch.tensor([0.0, 1.0]))
        tensor(1.1304)
    """

    def __init__(
        self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05, reduction: str = "mean"
    ) -> None:
        super().__init__()
        asymmetric_loss(torch.zeros(1), torch.zeros(1), gamma_neg, gamma_pos, clip, reduction)
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.reduction = reduction

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return asymmetric_loss(inputs, targets, self.gamma_neg, self.gamma_pos, self.clip, self.reduction)

    def extra_repr(self) -> str:
        return f"gamma_neg={self.gamma_neg}, gamma_pos={self.gamma_pos}, clip={self.clip}, reduction={self.reduction!r}"


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def asymmetric_loss_reference(
    inputs: Tensor, targets: Tensor, gamma_neg: float, gamma_pos: float, clip: float, reduction: int
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the paper's formula, over torch's stable softplus(-x) = -log p."""
    p, not_p = torch.sigmoid(inputs), torch.sigmoid(-inputs)
    positive = not_p**gamma_pos * nn.functional.softplus(-inputs)
    # Easy negatives go another way before the power, whose slope at 0 may be infinite.
    hard = p > clip
    shifted = torch.where(hard, p - clip, 0.5)
    rest = nn.functional.softplus(inputs) if clip == 0 else -torch.log(torch.where(hard, not_p + clip, 0.5))
    loss = targets * positive + (1 - targets) * torch.where(hard, shifted**gamma_neg * rest, 0)
    return reduce(loss, reduction)


def _backward_reference(
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    reduction: int,
    need_inputs: bool = True,
    need_targets: bool = True,
) -> tuple[Tensor, Tensor]:
    def forward(x: Tensor, t: Tensor) -> Tensor:
        return asymmetric_loss_reference(x, t, gamma_neg, gamma_pos, clip, reduction)

    grad_inputs, grad_targets = torch.func.vjp(forward, inputs, targets)[1](grad_output)
    return grad_inputs if need_inputs else inputs.new_empty(0), grad_targets if need_targets else inputs.new_empty(0)


def _double_backward_reference(
    grad_grad_inputs: Tensor | None,
    grad_grad_targets: Tensor | None,
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor]:
    def backward(g: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _backward_reference(g, x, t, gamma_neg, gamma_pos, clip, reduction)

    u = torch.zeros_like(inputs) if grad_grad_inputs is None else grad_grad_inputs
    v = torch.zeros_like(inputs) if grad_grad_targets is None else grad_grad_targets
    return torch.func.vjp(backward, grad_output, inputs, targets)[1]((u, v))


# ---- fake: shapes ----------------------------------------------------------------------------------------------------


def _fake(inputs: Tensor, targets: Tensor, gamma_neg: float, gamma_pos: float, clip: float, reduction: int) -> Tensor:
    check_like(_OP, "targets", targets, "inputs", inputs)
    return torch.empty_like(inputs) if reduction == 0 else inputs.new_empty(())


def _backward_fake(
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
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
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor]:
    check_like(_OP, "targets", targets, "inputs", inputs)
    return (
        _fake(inputs, targets, gamma_neg, gamma_pos, clip, reduction),
        torch.empty_like(inputs),
        torch.empty_like(targets),
    )


# ---- autograd, vmap --------------------------------------------------------------------------------------------------


class _Forward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        predictions, targets, *ctx.parameters = inputs
        ctx.save_for_backward(predictions, targets)
        ctx.save_for_forward(predictions, targets)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        need_inputs, need_targets = ctx.needs_input_grad[:2]
        grad_inputs, grad_targets = _backward(
            grad_output, *ctx.saved_tensors, *ctx.parameters, need_inputs, need_targets
        )
        # gamma_neg, gamma_pos, clip, reduction are numbers
        return grad_inputs if need_inputs else None, grad_targets if need_targets else None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, inputs_tangent: Tensor | None, targets_tangent: Tensor | None, *_: None) -> Tensor:
        # The loss of an element depends on that element alone: its Jacobian is diagonal, so J v is what the backward
        # makes of v.
        gamma_neg, gamma_pos, clip, reduction = ctx.parameters
        tangents = []
        if inputs_tangent is not None:
            tangents.append(
                _backward(inputs_tangent, *ctx.saved_tensors, gamma_neg, gamma_pos, clip, 0, True, False)[0]
            )
        if targets_tangent is not None:
            tangents.append(
                _backward(targets_tangent, *ctx.saved_tensors, gamma_neg, gamma_pos, clip, 0, False, True)[1]
            )
        return reduce(tangents[0] if len(tangents) == 1 else tangents[0] + tangents[1], reduction)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        inputs: Tensor,
        targets: Tensor,
        gamma_neg: float,
        gamma_pos: float,
        clip: float,
        reduction: int,
    ) -> Any:
        inputs, targets = (batch_first(x, d, info.batch_size) for x, d in zip((inputs, targets), in_dims, strict=False))
        return reduce_samples(_forward(inputs, targets, gamma_neg, gamma_pos, clip, 0), reduction), 0


class _Backward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, gamma_neg, gamma_pos, clip, reduction, need_inputs, need_targets = inputs
        ctx.parameters = gamma_neg, gamma_pos, clip, reduction
        ctx.needs = need_inputs, need_targets
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor) -> Any:
        u, v = (grad if need else None for grad, need in zip(grad_grads, ctx.needs, strict=True))
        return *_double_backward(u, v, *ctx.saved_tensors, *ctx.parameters), None, None, None, None, None, None

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
        *tensors, gamma_neg, gamma_pos, clip, reduction, need_inputs, need_targets = args
        grad_output, inputs, targets = (
            batch_first(x, d, info.batch_size) for x, d in zip(tensors, in_dims, strict=False)
        )
        grad_output = sample_scale(grad_output, inputs, reduction)
        grads = _backward(grad_output, inputs, targets, gamma_neg, gamma_pos, clip, 0, need_inputs, need_targets)
        placeholder = inputs.new_empty(info.batch_size, 0)
        return (grads[0] if need_inputs else placeholder, grads[1] if need_targets else placeholder), (0, 0)


def _double_backward_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    *tensors, gamma_neg, gamma_pos, clip, reduction = args
    u, v, grad_output, inputs, targets = (
        batch_first(x, d, info.batch_size) for x, d in zip(tensors, in_dims, strict=False)
    )
    grad_output = sample_scale(grad_output, inputs, reduction)
    grad_grad_output, grad_inputs, grad_targets = _double_backward(
        u, v, grad_output, inputs, targets, gamma_neg, gamma_pos, clip, 0
    )
    return (reduce_samples(grad_grad_output, reduction), grad_inputs, grad_targets), (0, 0, 0)


# ---- registration ----------------------------------------------------------------------------------------------------


def _sharding(inputs: Any, targets: Any, gamma_neg: float, gamma_pos: float, clip: float, reduction: int) -> Any:
    from torch.distributed.tensor import Partial, Shard

    # Every dimension can be split. A sum over shards is a partial sum; the mean never gets here sharded, see the public
    # function.
    rules: list[Any] = []
    for placement in _placements(inputs, reduction):
        output = Partial() if reduction and isinstance(placement, Shard) else placement
        rules.append(([output], [placement, placement, *_NUMBERS[:4]]))
    return rules


def _backward_sharding(
    grad_output: Any, inputs: Any, targets: Any, gamma_neg: float, gamma_pos: float, clip: float, *args: Any
) -> Any:
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

    reduction = args[3]
    rules: list[Any] = []
    for placement in _placements(inputs, reduction):
        sharded = isinstance(placement, Shard)
        grad = Replicate() if reduction else placement
        total = Partial() if reduction and sharded else grad
        directions = [None if direction is None else placement for direction in (u, v)]
        rules.append(([total, placement, placement], [*directions, grad, placement, placement, *_NUMBERS[:4]]))
    return rules


# Arguments without a placement.
_NUMBERS: list[Any] = [None] * 6


def _placements(inputs: Any, reduction: int) -> list[Any]:
    from torch.distributed.tensor import Replicate, Shard

    return [Replicate(), *(Shard(dim) for dim in range(len(inputs.shape) if reduction != 1 else 0))]


_forward = register(
    "handgrad::asymmetric_loss",
    autograd=_Forward,
    fake=_fake,
    reference=asymmetric_loss_reference,
    autocast=torch.float32,
    sharding=_sharding,
)
_backward = register(
    "handgrad::_asymmetric_loss_backward",
    autograd=_Backward,
    fake=_backward_fake,
    reference=_backward_reference,
    sharding=_backward_sharding,
)
_double_backward = register(
    "handgrad::_asymmetric_loss_double_backward",
    autograd=through_reference(_double_backward_reference, _double_backward_vmap),
    fake=_double_backward_fake,
    reference=_double_backward_reference,
    sharding=_double_backward_sharding,
)
