"""From ``python -m handgrad new`` to green tests, for each kind of op: the wait of somebody who begins."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from handgrad.benchmarking import Benchmark, Fact, Settings
from tools.environments import TOOLS_PATH, fresh_environment, run

# Seconds, on two cores.
LIMIT = 120.0
KINDS = ("elementwise_loss", "pointwise_layer", "normalisation", "sampling", "no_gradient")


def _facts(settings: Settings) -> list[Fact]:
    facts = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            python = fresh_environment(Path(folder) / "venv")
        except AssertionError as error:
            return [Fact("new to green", float("nan"), "s", LIMIT, str(error))]
        for kind in KINDS[:1] if settings.quick else KINDS:
            package = Path(folder) / f"{kind.replace('_', '-')}-ops"
            start = time.perf_counter()
            run(python, "-W", "ignore", "-m", "handgrad", "new", package, "--op", f"my_{kind}", "--kind", kind)
            written = time.perf_counter()
            run(python, "-m", "pip", "install", "-q", "--no-build-isolation", "-e", package, PATH=TOOLS_PATH)
            built = time.perf_counter()
            run(python, "-m", "pytest", "-q", "-n", "2", cwd=package)
            green = time.perf_counter()
            facts.append(Fact(f"{kind}: new to green", green - start, "s", LIMIT))
            facts.append(Fact(f"{kind}: of that, pip install -e .", built - written, "s"))
            facts.append(Fact(f"{kind}: of that, pytest -n 2, CPU and emulated CUDA", green - built, "s"))
    return facts


def benchmark(quick: bool) -> Benchmark:
    return Benchmark(op="kit", facts=_facts)
