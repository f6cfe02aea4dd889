"""The words of reports and error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [k for k in known if k], n=3, cutoff=0.5)
    return f"; close to it: {', '.join(close)}" if close else f"; it has {some([k for k in known if k])}"


def some(names: Iterable[str], limit: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
