"""The matrix itself: ticks, their cases, and the pytest function that runs them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from handgrad.testing import ahead_of_time, ticks
from handgrad.testing.spec import OpSpec
from handgrad.testing.tiers import TIERS, chosen

#: The op contract: number, the word in test names, and what it promises.
TICKS: dict[int, tuple[str, str]] = {
    1: ("cpu", "CPU kernel, float32, float64, bfloat16, float16"),
    2: ("cuda", "CUDA kernel, the same types"),
    3: ("derivatives", "backward, double backward and forward mode, gradchecked"),
    4: ("strides", "any strides; channels_last kept"),
    5: ("empty", "empty inputs"),
    6: ("indexing", "64-bit indexing"),
    7: ("compile", "fake kernel, opcheck, compile, export, AOTInductor"),
    8: ("autocast", "autocast rule"),
    9: ("func", "vmap rule and all of torch.func"),
    10: ("reference", "readable reference, fallback without a kernel"),
    11: ("onnx", "ONNX export, equal in onnxruntime"),
    12: ("deterministic", "bit for bit, for any number of threads"),
    13: ("messages", "bad arguments get an error message"),
    14: ("sharding", "DTensor and DDP"),
    15: ("memory", "saves no intermediates"),
    16: ("documented", "benchmark and docs page"),
}


@dataclass(frozen=True)
class Case:
    """One test: ``run()`` asserts, or is skipped for ``reason``."""

    tick: int
    name: str
    run: Callable[[], None]
    reason: str | None = None


# What says nothing of a device: the CPU kernels, exports, processes that talk over the CPU, documents.
_OF_NO_DEVICE = (1, 11, 14, 16)


def matrix(spec: OpSpec) -> Any:
    """A pytest function that asks all ticks of ``spec``; assign it to a name that begins with ``test_``.

    With ``HANDGRAD_TEST_DEVICE=cuda`` in the environment the samples lie on that device, and every tick that a device
    has a part in is asked of its kernels. With ``HANDGRAD_TEST_TIER`` or ``--tier``, what a tier leaves out is not
    collected: see :mod:`handgrad.testing.tiers`.
    """
    root = Path(inspect.stack()[1].filename).resolve().parents[2]
    params = [
        pytest.param(case, id=f"{spec.name}-{case.tick:02d}_{TICKS[case.tick][0]}-{case.name}")
        for case in cases_of(spec, root)
    ]

    @pytest.mark.parametrize("case", params)
    def test_matrix(case: Case) -> None:
        if case.reason is not None:
            pytest.skip(case.reason)
        case.run()

    test_matrix.of_matrix = True  # type: ignore[attr-defined]
    return test_matrix


def cases_of(spec: OpSpec, root: Path) -> Iterator[Case]:
    device = os.environ.get("HANDGRAD_TEST_DEVICE", "")
    pending = dict(spec.pending)
    if device:
        if device != "cuda":
            raise ValueError(f"HANDGRAD_TEST_DEVICE must be empty or 'cuda'; got {device!r}.")
        if not torch.cuda.is_available():
            raise RuntimeError(
                "HANDGRAD_TEST_DEVICE is 'cuda', and torch finds no GPU that it can use on this machine."
            )
        spec = spec.on(device)
        pending = dict.fromkeys(_OF_NO_DEVICE, "says nothing of a device") | {
            # Here is the device that the CUDA kernels wait for.
            tick: reason
            for tick, reason in pending.items()
            if tick != 2
        }
    tier, first = TIERS[chosen()], spec.samples[0].name
    if 7 not in {**spec.not_applicable, **pending}:
        ahead_of_time.SPECS.append(spec)
    for tick in TICKS:
        if tick not in tier.cases:
            continue
        excused = spec.not_applicable.get(tick) or pending.get(tick)
        if excused:
            yield Case(tick, "excused", lambda: None, excused)
            continue
        for name, run in ticks.cases(TICKS[tick][0], spec, root):
            if tier.asks(tick, name, first):
                yield Case(tick, name, run)
