"""Tick 9: vmap without a loop, and all of torch.func."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handgrad.registration import OPERATORS
from handgrad.testing.calls import Checks, as_tuple, directions, of_floating, scalar
from handgrad.testing.private import recorded
from handgrad.testing.spec import OpSpec, Sample, halved


def cases(spec: OpSpec, root: Path) -> Checks:
    yield "vmap_of_raw_op", functools.partial(_vmap_of_raw_op, spec)
    for sample in spec.samples:
        yield f"vmap_{sample.name}", functools.partial(_vmap, spec, sample)
        if not spec.derivatives:
            continue
        yield f"per_sample_{sample.name}", functools.partial(_per_sample, spec, sample)
        yield f"transforms_{sample.name}", functools.partial(_transforms, spec, sample)


@contextlib.contextmanager
def _no_loops() -> Iterator[None]:
    """torch warns where vmap falls back to a loop over samples; here that is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="There is a performance drop")
        yield


@contextlib.contextmanager
def _led(spec: OpSpec, what: str, where: str) -> Iterator[None]:
    """Whatever fails, in the op or in a comparison, is said after what was asked and where its rule is."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{spec.name}, {what}: {where}.\n{type(error).__name__}: {error}") from error


_VMAP_RULE = (
    "look at the vmap rule of its autograd Functions (vmap), or at the roles from which it is made: it gets tensors "
    "with a further dimension, at in_dims, and must return what a loop over samples returns, each sample by itself"
)
_HINTS = {
    "jvp": "look at jvp of its autograd Functions, which must use the tangent of every argument that has one",
    "jacfwd": "look at jvp of its autograd Functions, and at the vmap rule",
    "grad": "look at backward of its autograd Function",
    "vjp": "look at backward of its autograd Function",
    "jacrev": "look at backward of its autograd Function, and at the vmap rules",
    "hessian": "look at backward of the backward's autograd Function and at jvp of the forward's",
}


def _subsets(count: int) -> Iterator[set[int]]:
    for bits in range(1, 2**count):
        yield {index for index in range(count) if bits >> index & 1}


def _vmap(spec: OpSpec, sample: Sample) -> None:
    stacked = [torch.stack([tensor, halved(tensor), tensor.flip(0)]) for tensor in sample.tensors]
    function = functools.partial(spec.call, **sample.kwargs)
    for mapped in _subsets(len(stacked)):
        loop = [
            as_tuple(function(*(tensor[i] if index in mapped else tensor[0] for index, tensor in enumerate(stacked))))
            for i in range(3)
        ]
        expected = tuple(torch.stack(outputs) for outputs in zip(*loop, strict=True))
        for dim in (0, 1, -1):
            in_dims = tuple(dim if index in mapped else None for index in range(len(stacked)))
            tensors = [
                tensor.movedim(0, dim).contiguous() if index in mapped else tensor[0]
                for index, tensor in enumerate(stacked)
            ]
            with _led(spec, f"vmap with in_dims {in_dims}", _VMAP_RULE):
                with _no_loops():
                    actual = torch.vmap(function, in_dims)(*tensors)
                torch.testing.assert_close(as_tuple(actual), expected)


def _vmap_of_raw_op(spec: OpSpec) -> None:
    """torch.ops' own road, once and nested: compiled graphs and exported programs go there."""
    sample = spec.samples[0]
    args = recorded(spec, sample)[spec.operator]
    indices = [index for index, arg in enumerate(args) if isinstance(arg, Tensor)]
    overload = OPERATORS[spec.operator].overload

    def raw(*tensors: Tensor) -> Any:
        given = dict(zip(indices, tensors, strict=True))
        return overload(*(given.get(index, arg) for index, arg in enumerate(args)))

    once = [torch.stack([args[index], halved(args[index])]) for index in indices]
    expected = tuple(
        torch.stack(outs) for outs in zip(*(as_tuple(raw(*(t[i] for t in once))) for i in (0, 1)), strict=True)
    )
    with _led(spec, "torch.vmap of torch.ops' own op", _VMAP_RULE):
        torch.testing.assert_close(as_tuple(torch.vmap(raw)(*once)), expected)
        twice = as_tuple(torch.vmap(torch.vmap(raw))(*(torch.stack([tensor] * 3) for tensor in once)))
        torch.testing.assert_close(twice, tuple(torch.stack([out] * 3) for out in expected))


def _per_sample(spec: OpSpec, sample: Sample) -> None:
    """Per-sample gradients and Hessians, against a loop."""
    stacked = [torch.stack([tensor, halved(tensor)]) for tensor in sample.tensors]
    of_tensors = scalar(spec, sample.kwargs)
    for transform in (torch.func.grad, torch.func.hessian):
        loop = [transform(of_tensors)(*(tensor[i] for tensor in stacked)) for i in range(2)]
        with _led(spec, f"vmap of {transform.__name__}", _VMAP_RULE):
            with _no_loops():
                actual = torch.vmap(transform(of_tensors))(*stacked)
            torch.testing.assert_close(actual, torch.stack(loop))


def _transforms(spec: OpSpec, sample: Sample) -> None:
    ours, tensors = of_floating(scalar(spec, sample.kwargs), sample)
    reference, _ = of_floating(scalar(spec, sample.kwargs, spec.reference), sample)
    tangents = directions(tensors)
    for argument in range(len(tensors)):
        _same_derivatives(spec, _FIRST, argument, ours, reference, tensors, tangents)
    # Beyond the first, of a few numbers that move all arguments at once: a Jacobian of a Jacobian with respect to a
    # tensor has the square of its elements, and its blocks of two arguments would be left out.
    ours, reference = _moved(ours, tensors), _moved(reference, tensors)
    numbers = tensors[0].new_zeros(_DIRECTIONS)
    _same_derivatives(spec, _HIGHER, None, ours, reference, (numbers,), directions((numbers,)))


def _same_derivatives(
    spec: OpSpec,
    derivatives: dict[str, tuple[str, ...]],
    argument: int | None,
    ours: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    tensors: tuple[Tensor, ...],
    tangents: tuple[Tensor, ...],
) -> None:
    of = "all arguments" if argument is None else f"argument {argument}"
    ways = _ways(argument or 0, tangents)
    for expected_by, names in derivatives.items():
        # All of these are one derivative: the reference is asked for it in one of them.
        expected = ways[expected_by](reference)(*tensors)
        for name in names:
            where = _HINTS.get(name, "look at the Functions of its private ops")
            with _led(spec, f"torch.func.{name} with respect to {of}", where):
                torch.testing.assert_close(ways[name](ours)(*tensors), expected)


_DIRECTIONS = 3


def _moved(function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Callable[[Tensor], Tensor]:
    """``function`` of ``tensors``, moved along fixed directions by so many numbers."""
    ways = [torch.stack(one) for one in zip(*(directions(tensors, seed) for seed in range(_DIRECTIONS)), strict=True)]

    def of_numbers(numbers: Tensor) -> Tensor:
        return function(
            *(
                tensor + torch.tensordot(numbers.to(way.dtype), way, 1)
                for tensor, way in zip(tensors, ways, strict=True)
            )
        )

    return of_numbers


#: The transforms that give the same, by the one that is asked of the reference.
_FIRST = {"jvp": ("jvp",), "grad": ("grad", "vjp", "jacrev", "jacfwd")}
_HIGHER = {
    "hessian": ("hessian", "jacrev_of_jacfwd", "jacfwd_of_jacfwd", "jacrev_of_jacrev"),
    "third": ("third",),
    "third_forward": ("third_forward",),
}


def _weighed(tensor: Tensor) -> Tensor:
    weights = torch.arange(tensor.numel(), dtype=tensor.dtype, device=tensor.device).cos()
    return torch.dot(weights, tensor.flatten())


def _ways(argument: int, tangents: tuple[Tensor, ...]) -> dict[str, Callable[..., Any]]:
    """What torch.func makes of a scalar function, with respect to one of its arguments."""
    grad = functools.partial(torch.func.grad, argnums=argument)
    jacrev = functools.partial(torch.func.jacrev, argnums=argument)
    jacfwd = functools.partial(torch.func.jacfwd, argnums=argument)
    return {
        "grad": grad,
        "jvp": lambda f: lambda *x: torch.func.jvp(f, x, tangents)[1],
        "vjp": lambda f: lambda *x: torch.func.vjp(f, *x)[1](x[0].new_ones(()))[argument],
        "jacrev": jacrev,
        "jacfwd": jacfwd,
        "hessian": functools.partial(torch.func.hessian, argnums=argument),
        "jacrev_of_jacfwd": lambda f: jacrev(jacfwd(f)),
        "jacfwd_of_jacfwd": lambda f: jacfwd(jacfwd(f)),
        "jacrev_of_jacrev": lambda f: jacrev(jacrev(f)),
        # A sum of the elements of a Hessian, no two of which weigh the same, and not of their squares: where there is
        # no third derivative, rounding errors would be multiplied by the second.
        "third": lambda f: grad(lambda *x: _weighed(jacrev(jacrev(f))(*x))),
        "third_forward": lambda f: (
            lambda *x: torch.func.jvp(grad(lambda *y: grad(f)(*y).square().sum()), x, tangents)[1]
        ),
    }
