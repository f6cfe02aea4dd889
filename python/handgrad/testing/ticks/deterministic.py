"""Tick 12: the same bits for any number of threads, and for any order of a block's threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from handgrad.arguments import dtype_name
from handgrad.testing.calls import (
    Checks,
    after,
    deterministic_algorithms,
    emulated,
    second_grads,
    sources,
    value_and_grads,
)
from handgrad.testing.spec import OpSpec, Sample

_SCHEDULES = ("forward", "reverse", *(f"random:{seed}" for seed in range(8)))


def cases(spec: OpSpec, root: Path) -> Checks:
    for dtype in spec.dtypes:
        yield f"any_number_of_threads_{dtype_name(dtype)}", functools.partial(_any_threads, spec, spec.large.to(dtype))
    if emulated(spec):
        for sample in spec.samples:
            yield f"any_schedule_{sample.name}", functools.partial(_any_schedule, spec, sample, root)


def _results(spec: OpSpec, sample: Sample) -> Any:
    return (*value_and_grads(spec, spec.call, sample), second_grads(spec, spec.call, sample))


@contextlib.contextmanager
def _threads(spec: OpSpec) -> Iterator[Callable[[int], Any]]:
    """Sets the number of threads of who runs the kernels: torch, or the emulator, which has its own."""
    if emulated(spec):
        set_threads: Any = ctypes.CDLL(str(emulated(spec))).handgrad_emulator_set_os_threads
        before = int(os.environ.get("HANDGRAD_EMULATOR_OS_THREADS") or 1)
    else:
        set_threads, before = torch.set_num_threads, torch.get_num_threads()
    try:
        yield set_threads
    finally:
        set_threads(before)


def _any_threads(spec: OpSpec, sample: Sample) -> None:
    results = []
    # A device may have a faster path that adds in the order in which threads come; this is the other one.
    free = sample.tensors[0].is_cpu and not emulated(spec) and not torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(not free), _threads(spec) as set_threads:
        for count in (1, 2, 3, 7, 2):
            set_threads(count)
            results.append(_results(spec, sample))
    hint = (
        f"{spec.name}, sample {sample.name!r}: the results depend on the number of threads, or change from run to run"
    )
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0, equal_nan=True, msg=after(hint))


def _any_schedule(spec: OpSpec, sample: Sample, root: Path) -> None:
    """A kernel that lacks a barrier, or adds in the order in which its threads come, shows in one of these."""
    library = ctypes.CDLL(str(emulated(spec)))
    try:
        with deterministic_algorithms(True):
            results = []
            for schedule in _SCHEDULES:
                assert library.handgrad_emulator_set_schedule(schedule.encode()) == 0
                results.append(_results(spec, sample))
        with deterministic_algorithms(False):
            # Where this is another path, its sums may follow the order of the threads, but nothing else may.
            free = _results(spec, sample)
    finally:
        library.handgrad_emulator_set_schedule((os.environ.get("HANDGRAD_EMULATOR_SCHEDULE") or "forward").encode())
    for tensor in tree_leaves(results[0]):
        assert tensor.isfinite().all(), (
            "not all of an output was written: in the emulator it begins as NaN; look at the kernels in "
            f"{sources(spec, root)}"
        )
    hint = (
        f"{spec.name}: the results depend on the order of the threads; a barrier is missing, or threads add in the "
        f"order in which they come; look at the kernels in {sources(spec, root)}"
    )
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0, msg=after(hint))
    torch.testing.assert_close(free, results[0])
