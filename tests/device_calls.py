"""What a call of each op asks of a device, counted in the emulator: launches of kernels, allocations, and how often the
host waits.

python tests/device_calls.py            a table, which the ops' specs hold, by tests/test_graphs.py

Counted is one call of the forward, of the backward and of the double backward, on the first sample of each op's spec in
float32, each with everything asked for. torch's sort and its matrix products are a device's own there, and are counted
here with what the CPU's allocate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cuda_report import emulator
from handgrad.testing import OpSpec
from handgrad.testing.calls import as_tuple
from handgrad.testing.private import recorded
from ops_table import specs

#: The environment of a process with the emulated kernels, whose profiler does not say that it found no GPU.
EMULATED = {**os.environ, "HANDGRAD_BACKEND": "emulated", "HANDGRAD_TEST_DEVICE": "", "KINETO_LOG_LEVEL": "99"}

#: By "family.op, pass": launches, allocations, waits; and how many results have elements.
Counts = dict[str, list[int]]


def counted() -> Counts:
    """Counted in a process of its own, because the emulated kernels are chosen when handgrad is loaded."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--json"],
        env=EMULATED,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"counting calls in the emulator failed:\n{done.stderr}")
    counts: Counts = json.loads(done.stdout.splitlines()[-1])
    return counts


def _count() -> Counts:
    return {f"{name}, {step}": _counts(run) for name, spec in specs().items() for step, run in _passes(spec)}


def _passes(spec: OpSpec) -> Iterator[tuple[str, Callable[[], Any]]]:
    calls = recorded(spec, spec.samples[0].to(torch.float32))
    for step, name in (("forward", spec.operator), *((s, spec.private(s)) for s in spec.private_ops)):
        if name in calls:
            namespace, op = name.split("::")
            overload = getattr(getattr(torch.ops, namespace), op).default
            yield step, lambda overload=overload, args=calls[name]: overload(*args)


def _counts(run: Callable[[], Any]) -> list[int]:
    from torch._C._profiler import _EventType

    engine = emulator()
    engine.reset_counters()
    with torch.no_grad():
        results = run()
    launches = sum(kernel["launches"] for kernel in engine.counters().values())
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile,
    ):
        run()
    events, allocations, waits = list(profile.profiler.kineto_results.experimental_event_tree()), 0, 0
    while events:
        event = events.pop()
        events += event.children
        allocations += event.tag == _EventType.Allocation and event.extra_fields.alloc_size > 0
        # What reads a number of a tensor; on a device that waits for all work before it.
        waits += event.name == "aten::_local_scalar_dense"
    return [launches, allocations, waits, sum(result.numel() > 0 for result in as_tuple(results))]


def main() -> None:
    if "--json" in sys.argv:
        print(json.dumps(_count()))
        return
    from tabulate import tabulate

    rows = [[*name.split(", "), *counts] for name, counts in counted().items()]
    print(tabulate(rows, ["op", "pass", "launches", "allocations", "waits", "results"]))


if __name__ == "__main__":
    main()
