"""Tick 2: what tick 1 asks, of the kernels on a GPU."""

from __future__ import annotations

from pathlib import Path

from handgrad.testing.calls import Checks
from handgrad.testing.spec import OpSpec
from handgrad.testing.ticks import cpu


def cases(spec: OpSpec, root: Path) -> Checks:
    return cpu.cases(spec, root, device="cuda")
