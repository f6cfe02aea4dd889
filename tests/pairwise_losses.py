"""What the tests of losses of all pairs share: embeddings, formulas in plain PyTorch, calls that must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from handgrad.testing import Bad, reseeded

INFINITY = float("inf")

#: Which numbers stand where samples have tensors.
NUMBERS: dict[str, Callable[[Any], bool]] = {
    "temperature": lambda value: isinstance(value, float) and 1e-30 <= value <= 1e30,
    "logit_scale": lambda value: isinstance(value, float) and 1e-30 <= value <= 1e30,
    "logit_bias": lambda value: isinstance(value, float) and abs(value) <= 1e30,
}


def embeddings(*shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = reseeded(seed)
    return tuple(torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def plain_logits(first: Tensor, second: Tensor, scale: Any, normalize: bool) -> Tensor:
    """scale times all products, (batch, N, M) or (N, M); scale: a number, or a tensor of one for each of the batch."""
    if normalize:
        first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    if isinstance(scale, Tensor) and scale.dim():
        scale = scale[:, None, None]
    return scale * (first @ second.mT)


def plain_reduction(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def derivatives(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], **kwargs: Any) -> Any:
    """The loss, the gradients of its sum, and those of a product of these with numbers from -1 to 1."""
    leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in tensors]
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    loss = function(*leaves, **kwargs)
    first = torch.autograd.grad(loss.sum(), moving, create_graph=True)
    along = [torch.linspace(-1, 1, grad.numel(), dtype=grad.dtype).view(grad.shape) for grad in first]
    second = torch.autograd.grad(first, moving, along)
    return loss.detach(), [grad.detach() for grad in first], list(second)


def bad_calls(function: Callable[..., Tensor], names: tuple[str, str], tensors: tuple[Tensor, ...]) -> list[Bad]:
    """What all of them refuse: of the tensors the first two are the embeddings."""
    first, second, *others = tensors
    return [
        Bad("normalize", lambda: function(*tensors, normalize=1), TypeError, "normalize must be True or False; got 1"),
        Bad("reduction", lambda: function(*tensors, reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad("group", lambda: function(*tensors, group="world"), TypeError, "group must be .* got str"),
        Bad(
            "features",
            lambda: function(first, second[..., :-1], *others),
            RuntimeError,
            rf"{names[1]} must have .* {names[0]}, \(.*; got \(",
        ),
        Bad(
            "rows",
            lambda: function(first, second[..., :-1, :], *others),
            RuntimeError,
            rf"{names[1]} must have .* {names[0]}, \(.*; got \(",
        ),
        Bad(
            "no_features",
            lambda: function(first[..., :0], second[..., :0], *others),
            RuntimeError,
            f"{names[0]} must have shape .* with a feature at least; got",
        ),
        Bad(
            "one_row_alone",
            lambda: function(first[0, 0], second[0, 0], *others),
            RuntimeError,
            rf"{names[0]} must have shape \(rows, features\), .*; got \(",
        ),
        Bad(
            "dtypes",
            lambda: function(first.float(), second.half(), *others),
            RuntimeError,
            f"{names[1]} must have the dtype of {names[0]}, float32; got float16",
        ),
    ]


def bad_calls_of_one(function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> list[Bad]:
    """What losses of one set of embeddings refuse."""
    rows, *others = tensors
    return [
        Bad("normalize", lambda: function(*tensors, normalize=1), TypeError, "normalize must be True or False; got 1"),
        Bad("reduction", lambda: function(*tensors, reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad("group", lambda: function(*tensors, group="world"), TypeError, "group must be .* got str"),
        Bad(
            "no_features",
            lambda: function(rows[..., :0], *others),
            RuntimeError,
            "embeddings must have shape .* with a feature at least; got",
        ),
        Bad(
            "one_row_alone",
            lambda: function(rows[0, 0], *others),
            RuntimeError,
            r"embeddings must have shape \(rows, features\), .*; got \(",
        ),
    ]


def as_one_process(loss: Callable[..., Tensor], tensors: tuple[Tensor, ...], dim: int = 0, shared: int = 0) -> None:
    """Called by each of two processes: ``loss(*tensors, group)`` of halves of ``tensors`` along ``dim``, the last
    ``shared`` of them whole, has the mean, and the gradients averaged over processes, that ``loss(*tensors, None)``
    has."""
    group, rank, world = dist.group.WORLD, dist.get_rank(), dist.get_world_size()
    own = len(tensors) - shared
    given = [t.unflatten(dim, (2, -1)).select(dim, rank) for t in tensors[:own]] + list(tensors[own:])
    ours, theirs = (
        derivatives(lambda *args, g=g: loss(*args, g), tuple(t.contiguous() for t in of))
        for g, of in ((group, given), (None, tensors))
    )
    mean = ours[0].clone()
    dist.all_reduce(mean)
    torch.testing.assert_close(mean / world, theirs[0])
    moving = [index for index, t in enumerate(tensors) if t.is_floating_point()]
    for index, actual, expected in zip(moving, ours[1], theirs[1], strict=True):
        if index < own:
            # What all processes found for this one's rows.
            torch.testing.assert_close(actual / world, expected.unflatten(dim, (2, -1)).select(dim, rank))
        else:
            dist.all_reduce(actual)
            torch.testing.assert_close(actual / world, expected)


def second_as_one_process(loss: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> None:
    """The same of second derivatives: of the sum of squares of all gradients."""
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = [t.clone().requires_grad_() for t in tensors]
    half = [t.chunk(2)[rank].clone().requires_grad_() for t in tensors]
    first = torch.autograd.grad(loss(*whole, None), whole, create_graph=True)
    expected = torch.autograd.grad(sum(grad.square().sum() for grad in first), whole)
    first = torch.autograd.grad(loss(*half, dist.group.WORLD) / world, half, create_graph=True)
    actual = torch.autograd.grad(sum(grad.square().sum() for grad in first), half)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs.chunk(2)[rank])
