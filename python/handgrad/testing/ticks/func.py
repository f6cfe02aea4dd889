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

from handgrad.testing.calls import Checks, as_tuple, directions, scalar
from handgrad.testing.spec import OpSpec, Sample, halved


def cases(spec: OpSpec, root: Path) -> Checks:
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


def _subsets(count: int) -> Iterator[set[int]]:
    for bits in range(1, 2**count):
        yield {place for place in range(count) if bits >> place & 1}


def _vmap(spec: OpSpec, sample: Sample) -> None:
    stacked = [torch.stack([tensor, halved(tensor), tensor.flip(0)]) for tensor in sample.tensors]
    function = functools.partial(spec.function, **sample.kwargs)
    for mapped in _subsets(len(stacked)):
        loop = [
            as_tuple(function(*(tensor[i] if place in mapped else tensor[0] for place, tensor in enumerate(stacked))))
            for i in range(3)
        ]
        expected = tuple(torch.stack(outputs) for outputs in zip(*loop, strict=True))
        for dim in (0, 1, -1):
            in_dims = tuple(dim if place in mapped else None for place in range(len(stacked)))
            tensors = [
                tensor.movedim(0, dim).contiguous() if place in mapped else tensor[0]
                for place, tensor in enumerate(stacked)
            ]
            with _no_loops():
                actual = torch.vmap(function, in_dims)(*tensors)
            torch.testing.assert_close(as_tuple(actual), expected)


def _per_sample(spec: OpSpec, sample: Sample) -> None:
    """Per-sample gradients and Hessians, against a loop."""
    stacked = [torch.stack([tensor, 0.5 * tensor]) for tensor in sample.tensors]
    of_tensors = scalar(spec, sample.kwargs)
    for transform in (torch.func.grad, torch.func.hessian):
        with _no_loops():
            actual = torch.vmap(transform(of_tensors))(*stacked)
        loop = [transform(of_tensors)(*(tensor[i] for tensor in stacked)) for i in range(2)]
        torch.testing.assert_close(actual, torch.stack(loop))


def _transforms(spec: OpSpec, sample: Sample) -> None:
    ours, reference = scalar(spec, sample.kwargs), scalar(spec, sample.kwargs, spec.reference)
    tangents = directions(sample.tensors)
    for argument in range(len(sample.tensors)):
        for name, transform in _ways(argument, tangents).items():
            actual, expected = transform(ours)(*sample.tensors), transform(reference)(*sample.tensors)
            torch.testing.assert_close(actual, expected, msg=f"{name} of argument {argument}: {{}}".format)


def _ways(argument: int, tangents: tuple[Tensor, ...]) -> dict[str, Callable[..., Any]]:
    """What torch.func makes of a scalar function, with respect to one of its arguments."""
    grad = functools.partial(torch.func.grad, argnums=argument)
    jacrev = functools.partial(torch.func.jacrev, argnums=argument)
    jacfwd = functools.partial(torch.func.jacfwd, argnums=argument)
    return {
        "grad": grad,
        "jvp": lambda f: lambda *x: torch.func.jvp(f, x, tangents),
        "vjp": lambda f: lambda *x: torch.func.vjp(f, *x)[1](x[0].new_ones(())),
        "jacrev": jacrev,
        "jacfwd": jacfwd,
        "hessian": functools.partial(torch.func.hessian, argnums=argument),
        "jacrev_of_jacfwd": lambda f: jacrev(jacfwd(f)),
        "jacfwd_of_jacfwd": lambda f: jacfwd(jacfwd(f)),
        "jacrev_of_jacrev": lambda f: jacrev(jacrev(f)),
        "third": lambda f: grad(lambda *x: jacrev(jacrev(f))(*x).square().sum()),
        "third_forward": lambda f: lambda *x: torch.func.jvp(grad(lambda *y: grad(f)(*y).square().sum()), x, tangents),
    }
