"""Tick 6: addresses and numbers of elements beyond 2^31, and sums of so many."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import torch
from torch import Tensor

from handgrad.testing.calls import (
    Checks,
    after,
    emulated,
    reproducible,
    sources,
    value_and_grads,
    where_the_samples_are,
)
from handgrad.testing.distributed import forked
from handgrad.testing.spec import OpSpec, far_apart


def cases(spec: OpSpec, root: Path) -> Checks:
    hint = (
        f"{spec.name}, tensors whose rows lie more than 2^31 elements apart: an index, a stride or an offset is kept "
        f"in 32 bits; look for int and int32_t in {sources(spec, root)}"
    )
    addresses = functools.partial(_addresses, spec, hint)
    # A wrong address ends the process that reads it: where one can be forked, it is not this one.
    yield (
        "addresses_beyond_int32",
        addresses if torch.cuda.is_available() else functools.partial(forked, addresses, hint),
    )
    # Two billion elements are two billion emulated threads, an hour of them. The addresses are checked there too, and a
    # sum shows with fewer in which type it is kept.
    if not emulated(spec):
        yield "numel_beyond_int32", functools.partial(where_the_samples_are, spec, spec.numel_beyond_int32)
    elif spec.sums_of_many is not None:
        yield "sums_of_many", functools.partial(where_the_samples_are, spec, spec.sums_of_many)
    elif "reduction" in inspect.signature(spec.function).parameters:
        yield "sums_of_many", functools.partial(_sums_of_many, spec, root)


def _addresses(spec: OpSpec, hint: str) -> None:
    sample = spec.samples[0].to(torch.bfloat16)
    with reproducible(sample):
        expected = value_and_grads(spec, spec.call, sample)
        actual = value_and_grads(spec, spec.call, sample.map(far_apart))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, msg=after(hint))
    if torch.cuda.is_available():
        # Gigabytes, which a process beside this one may need.
        torch.cuda.empty_cache()


def _sums_of_many(spec: OpSpec, root: Path) -> None:
    """The mean of equal elements is one of them, in whatever order it is taken. A thread adds a hundred of them here,
    thousands at 2^31: kept in float32 its sum is off by what the last bits of so many additions come to."""
    first = spec.samples[0]
    kwargs = {**first.kwargs, "reduction": "mean"}
    # What is summed: an element, or a row where a loss is one of rows.
    losses = spec.call(*first.tensors, **{**first.kwargs, "reduction": "none"})
    by_rows = losses.shape != first.tensors[0].shape
    one = first.map(lambda tensor: (tensor if by_rows else tensor.flatten())[:1]).to(torch.float32).tensors
    count = _MANY // one[0][0].numel()
    expected = spec.call(*one, **kwargs)
    hint = f"{spec.name}: a sum of many elements must go on in double; look at {sources(spec, root)} and its kind"
    for arrange in (_expanded, _filled):
        actual = spec.call(*(arrange(tensor, count) for tensor in one), **kwargs)
        torch.testing.assert_close(actual, expected, rtol=_ONE_UNIT, atol=0, msg=after(hint))


#: A hundred additions to a thread of the emulated loops; and one unit in the last place of float32.
_MANY, _ONE_UNIT = 2**25, 1.3e-7


def _expanded(one: Tensor, count: int) -> Tensor:
    return one.expand(count, *one.shape[1:])


def _filled(one: Tensor, count: int) -> Tensor:
    return _expanded(one, count).contiguous()
