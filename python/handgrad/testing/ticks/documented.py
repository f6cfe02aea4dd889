"""Tick 16: a benchmark beside its peers, a page of documents, docstrings with examples that run."""

from __future__ import annotations

import doctest
import functools
from pathlib import Path

import torch

from handgrad.testing.calls import Checks
from handgrad.testing.spec import OpSpec


def cases(spec: OpSpec, root: Path) -> Checks:
    yield "docs_page", functools.partial(_found, root, f"docs/*/{spec.name}.md")
    yield "benchmark", functools.partial(_found, root, f"benchmarks/*/bench_{spec.name}.py")
    yield "docstring", functools.partial(_docstring, spec)


def _found(root: Path, pattern: str) -> None:
    paths = list(root.glob(pattern))
    assert len(paths) == 1, f"expected one file {pattern} in {root}, found {paths}"
    assert len(paths[0].read_text().splitlines()) > 10


def _docstring(spec: OpSpec) -> None:
    modules = () if spec.module is None else (type(spec.as_module(spec.samples[0])[0]),)
    for thing in (spec.function, *modules):
        text = thing.__doc__ or ""
        for part in ("Args:", "Example:"):
            assert part in text, f"{thing.__name__} has no {part}"
        scope = {**spec.function.__globals__, "torch": torch}
        for example in doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs=scope):
            runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
            report: list[str] = []
            runner.run(example, out=report.append)
            assert runner.tries, f"{thing.__name__} has no example that runs"
            assert not runner.failures, "".join(report)
