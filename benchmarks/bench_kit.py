"""From ``python -m handgrad new`` to green tests, for each kind of op: the wait of somebody who begins."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from handgrad._scaffold import KINDS
from handgrad.benchmarking import Benchmark, Fact, Settings
from tools.environments import TOOLS_PATH, fresh_environment, run

# Seconds, on two cores.
LIMIT = 120.0


def _facts(settings: Settings) -> list[Fact]:
    facts = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            if settings.quick:
                facts.append(Fact(f"{kind}: new to green", float("nan"), "s", LIMIT, "a quick run builds nothing"))
                continue
            try:
                facts += _from_new_to_green(Path(folder) / kind, kind)
            except AssertionError as error:
                reason = (str(error).strip().splitlines() or ["it failed"])[-1]
                facts.append(Fact(f"{kind}: new to green", float("nan"), "s", LIMIT, reason))
    return facts


def _from_new_to_green(folder: Path, kind: str) -> list[Fact]:
    python = fresh_environment(folder / "venv")
    package = folder / "some-ops"
    start = time.perf_counter()
    run(python, "-W", "ignore", "-m", "handgrad", "new", package, "--op", f"my_{kind}", "--kind", kind)
    written = time.perf_counter()
    run(python, "-m", "pip", "install", "-q", "--no-build-isolation", "-e", package, PATH=TOOLS_PATH)
    built = time.perf_counter()
    run(python, "-m", "pytest", "-q", "-n", "2", cwd=package)
    green = time.perf_counter()
    return [
        Fact(f"{kind}: new to green", green - start, "s", LIMIT),
        Fact(f"{kind}: of that, pip install -e .", built - written, "s"),
        Fact(f"{kind}: of that, pytest -n 2, CPU and emulated CUDA", green - built, "s"),
    ]


def benchmark(quick: bool) -> Benchmark:
    return Benchmark(op="kit", facts=_facts)
