"""Tick 13: every bad argument gets an error message that names it."""

from __future__ import annotations

import functools
from pathlib import Path

from handgrad.testing import malformed
from handgrad.testing.calls import Checks
from handgrad.testing.spec import Bad, OpSpec


def cases(spec: OpSpec, root: Path) -> Checks:
    for bad in spec.bad:
        yield bad.name, functools.partial(_fails, bad)
    yield "malformed", functools.partial(malformed.run, spec)


def _fails(bad: Bad) -> None:
    import pytest

    with pytest.raises(bad.error, match=bad.sentence):
        bad.call()
