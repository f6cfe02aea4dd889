"""The reductions of a loss: their names, their numbers, and how each looks under vmap."""

from __future__ import annotations

from torch import Tensor

from handgrad.arguments import check_choice

NONE, MEAN, SUM = 0, 1, 2
_CODES = {"none": NONE, "mean": MEAN, "sum": SUM}


def reduction_code(op: str, reduction: str) -> int:
    """torch's number of a reduction: what the kernels take."""
    try:
        return _CODES[reduction]
    except (KeyError, TypeError):
        return _CODES[check_choice(op, "reduction", reduction, _CODES)]


def reduce(values: Tensor, reduction: int) -> Tensor:
    return values if reduction == NONE else values.mean() if reduction == MEAN else values.sum()


def reduce_samples(values: Tensor, reduction: int) -> Tensor:
    """Reduces each sample of a batch (the first dimension) by itself."""
    dims = list(range(1, values.dim()))
    if reduction == NONE or not dims:
        return values
    return values.mean(dims) if reduction == MEAN else values.sum(dims)


def reduce_or_zero(values: Tensor, reduction: int) -> Tensor:
    """As :func:`reduce`, but the mean of nothing is 0."""
    return values.sum() / max(1, values.numel()) if reduction == MEAN else reduce(values, reduction)


def reduce_samples_or_zero(values: Tensor, reduction: int) -> Tensor:
    """As :func:`reduce_samples`, but the mean of nothing is 0."""
    dims = list(range(1, values.dim()))
    if reduction != MEAN or not dims:
        return reduce_samples(values, reduction)
    return values.sum(dims) / max(1, values[0].numel())


def sample_scale(grad_output: Tensor, inputs: Tensor, reduction: int) -> Tensor:
    """Each sample's ``grad_output`` as the gradient of its unreduced losses: a view of the shape of ``inputs``, which
    has the batch in front."""
    if reduction == NONE:
        return grad_output
    if reduction == MEAN:
        grad_output = grad_output / max(1, inputs[0].numel())
    return grad_output.reshape(-1, *[1] * (inputs.dim() - 1)).expand_as(inputs)
