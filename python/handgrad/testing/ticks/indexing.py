"""Tick 6: addresses and numbers of elements beyond 2^31."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

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
    # Two billion elements are two billion emulated threads, an hour of them; the addresses are checked there too.
    if not emulated(spec):
        yield "numel_beyond_int32", functools.partial(where_the_samples_are, spec, spec.numel_beyond_int32)


def _addresses(spec: OpSpec, hint: str) -> None:
    sample = spec.samples[0].to(torch.bfloat16)
    with reproducible(sample):
        expected = value_and_grads(spec, spec.call, sample)
        actual = value_and_grads(spec, spec.call, sample.map(far_apart))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, msg=after(hint))
