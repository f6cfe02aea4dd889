"""Tick 14: DTensors split over devices; data-parallel training, with parameters split too and checkpointing."""

from __future__ import annotations

import functools
from pathlib import Path

from handgrad.testing import distributed
from handgrad.testing.calls import Checks
from handgrad.testing.spec import OpSpec


def cases(spec: OpSpec, root: Path) -> Checks:
    yield "dtensor", functools.partial(distributed.run, distributed.dtensor, spec)
    if spec.derivatives:
        yield "ddp", functools.partial(distributed.run, distributed.ddp, spec)
        yield "fsdp_checkpointed", functools.partial(distributed.run, distributed.fsdp, spec)
