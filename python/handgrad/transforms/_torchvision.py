"""torchvision, or what stands in its place where it is not installed: classes that say so when they are made."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

HINT = "needs torchvision, which is not installed: pip install 'handgrad[vision]'"


class _Absent:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(f"handgrad.transforms.{type(self).__name__} {HINT}")


class _Classes:
    def __getattr__(self, name: str) -> Any:
        return _Absent


v2: Any = _Classes()
with contextlib.suppress(ImportError):
    v2 = importlib.import_module("torchvision.transforms.v2")
