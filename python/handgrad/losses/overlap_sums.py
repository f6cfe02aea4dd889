"""The sums that overlap losses are made of. Mathematics, derivatives and numerics: docs/losses/overlap_sums.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_gradient
from handgrad.arguments import INT64_MAX, check_bool, check_choice, check_int, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "overlap_sums"
_ACTIVATIONS = {"none": 0, "sigmoid": 1, "softmax": 2}
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def overlap_sums(
    inputs: Tensor, targets: Tensor, activation: str, ignore_index: int | None = None, squared: bool = False
) -> Tensor:
    r"""What every overlap loss is a formula of, in one pass over the logits: for each sample and class the sums over
    positions of :math:`p t`, of :math:`p` and of :math:`t`, p being the predictions and t the targets.

    .. math:: sums_{n c} = \left(\sum_i p_{n c i} t_{n c i}, \; \sum_i p_{n c i}, \; \sum_i t_{n c i}\right)

    The overlap losses call it; call it for a loss or a metric of your own. Nothing of the size of the inputs is made or
    kept; backward reads inputs and targets once.

    Args:
        inputs: logits, or predictions, (N, C, ...) with any number of positions; float32, float64, bfloat16 or
            float16, any strides.
        targets: the class at each position, (N, ...) or (N, 1, ...), integers; or a number for each input, (N, C, ...),
            one-hot, soft or multi-label: floating-point numbers, promoted with ``inputs`` as torch does, integers or
            bool. Of a single channel, (N, ...) too is taken for that: 1 is the foreground.
        activation: what makes predictions of inputs: ``"softmax"`` over the channels, ``"sigmoid"``, or ``"none"`` for
            inputs that are probabilities already.
        ignore_index: what is not counted: positions of this class, whatever their logits, or single elements whose
            target is this number. None: everything counts.
        squared: sums of :math:`p^2` and :math:`t^2` in place of p and t, as in V-Net.

    Returns:
        (N, C, 3), the sums of the product, of predictions and of targets; float32, or float64 for inputs of it. Under
        autocast float32. Added up in double over tiles, in a fixed order.

    Raises:
        ValueError: ``activation`` or ``ignore_index`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; on the CPU, a class that there is not, and
            that is not ignored. (On other devices its sums are NaN, because asking would wait for the device.)

    Example:
        >>> overlap_sums(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[1, 1]]), "none")
        tensor([[[0., 1., 0.],
                 [1., 1., 2.]]])
    """
    return sums_for(_OP, inputs, targets, activation, ignore_index, squared)


def sums_for(
    op: str, inputs: Tensor, targets: Tensor, activation: str, ignore_index: int | None, squared: bool
) -> Tensor:
    """The same with error messages of ``op``."""
    check_tensor(op, "inputs", inputs)
    check_tensor(op, "targets", targets)
    code = check_activation(op, activation)
    check_bool(op, "squared", squared)
    if ignore_index is not None:
        ignore_index = check_int(op, "ignore_index", ignore_index, -INT64_MAX, INT64_MAX, "a whole number, or None")
    if inputs.dim() >= 2 and targets.dim() == inputs.dim() - 1:
        targets = targets.unsqueeze(1)
    if not torch.jit.is_tracing():  # there sizes are tensors, of which nothing is asked
        _check_shapes(op, inputs, targets)
        if code == _ACTIVATIONS["softmax"] and inputs.shape[1] == 1:
            raise ValueError(f"{op}: activation must be 'sigmoid' or 'none' for inputs of one channel; got 'softmax'")
    if targets.dtype is not inputs.dtype and inputs.is_floating_point() and targets.is_floating_point():
        dtype = torch.promote_types(inputs.dtype, targets.dtype)
        inputs, targets = inputs.to(dtype), targets.to(dtype)
    return _sums(inputs, targets, code, ignore_index, squared)


def check_activation(op: str, activation: Any) -> int:
    return _ACTIVATIONS[check_choice(op, "activation", activation, _ACTIVATIONS)]


def _check_shapes(op: str, inputs: Tensor, targets: Tensor) -> None:
    wanted, given = tuple(inputs.shape), tuple(targets.shape)
    if len(wanted) < 2:
        raise RuntimeError(f"{op}: inputs must have shape (N, C, ...); got {wanted}")
    if len(given) != len(wanted) or given[:1] + given[2:] != wanted[:1] + wanted[2:] or given[1] not in (1, wanted[1]):
        raise RuntimeError(
            f"{op}: targets must have the shape of inputs, {wanted}, or that without its channels for classes; got "
            f"{given}"
        )
    if given[1] != wanted[1] and targets.dtype not in _INTEGERS:
        raise RuntimeError(f"{op}: targets without channels are classes, and must be integers; got {targets.dtype}")
    if targets.device != inputs.device:
        raise RuntimeError(f"{op}: targets must be on the device of inputs, {inputs.device}; got {targets.device}")


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def overlap_sums_reference(
    inputs: Tensor, targets: Tensor, activation: int, ignore_index: int | None, squared: bool
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: all predictions, all targets, three sums."""
    dtype, channels = computed_dtype(inputs), inputs.shape[1]
    p = inputs.to(dtype).unsqueeze(-1)
    p = {"none": lambda x: x, "sigmoid": torch.sigmoid, "softmax": lambda x: torch.softmax(x, 1)}[_NAMES[activation]](p)
    given = targets.unsqueeze(-1)
    counted = torch.ones_like(given, dtype=torch.bool) if ignore_index is None else given != ignore_index
    if targets.shape[1] != channels:
        classes = torch.arange(channels, device=inputs.device).view(1, channels, *[1] * (p.dim() - 2))
        given = given.to(torch.int64)
        t = torch.where((given < 0) | (given >= channels), torch.nan, (given == classes).to(dtype))
    else:
        t = given.to(dtype)
    p, t = torch.where(counted, p, 0), torch.where(counted, t, 0)
    power = 2 if squared else 1
    positions = list(range(2, p.dim()))
    return torch.stack([(p * t).sum(positions), (p**power).sum(positions), (t**power).sum(positions)], -1)


_NAMES = {code: name for name, code in _ACTIVATIONS.items()}


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(inputs: Tensor, targets: Tensor, activation: int, ignore_index: int | None, squared: bool) -> Tensor:
    _check_shapes(_OP, inputs, targets)
    return inputs.new_empty((inputs.shape[0], inputs.shape[1], 3), dtype=computed_dtype(inputs))


# ---- registration ----------------------------------------------------------------------------------------------------

_sums = Derivatives(
    "handgrad::overlap_sums",
    reference=overlap_sums_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=empty_gradient,
    autocast=torch.float32,
)
