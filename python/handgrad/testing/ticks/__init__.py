"""What each tick of the op contract asks, one file a tick: ``cases(spec, root)`` yields named checks; a check asserts.

The checks know nothing of any op: they see its public function, its reference, and what its spec says. The matrix finds
a tick's file by the tick's word.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from handgrad.testing.calls import Checks
from handgrad.testing.spec import OpSpec


def cases(word: str, spec: OpSpec, root: Path) -> Checks:
    """The cases of the tick with this word."""
    return importlib.import_module(f"{__name__}.{word}").cases(spec, root)
