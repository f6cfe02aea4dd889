"""``python -m benchmarks``: runs the bench files of a folder and writes results.md, results.json and results.png.

The folder's ``__main__.py`` calls :func:`main` with itself and the name of the package that it times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

# The profiler that counts memory says on every use that it found no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch

from handgrad.benchmarking.declaring import BenchmarkError, Settings
from handgrad.benchmarking.keeping import joined, read
from handgrad.benchmarking.markdown import markdown
from handgrad.benchmarking.picture import picture
from handgrad.benchmarking.results import Results
from handgrad.benchmarking.running import Run, bench_files, collect, here


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # NaN is not JSON: what was not measured is null.
    text = json.dumps(_finite(results.as_dict()), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")
    if results.tables or results.sweeps:
        picture(results, folder / "results.png")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(folder: Path, package: str, arguments: list[str] | None = None) -> int:
    """Runs a command line on the bench files of ``folder``, which time ``package``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny inputs, few rounds: does it work? Not for figures.")
    committed = folder / "results"
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="the bench file NAME, or those whose names contain it"
    )
    parser.add_argument(
        "--device", choices=("all", "cpu", "cuda"), default="all", help="all: a GPU too, if there is one"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the three result files")
    parser.add_argument(
        "--keep", action="store_true", help="keep what DIR has of other ops, if it was measured on this machine"
    )
    options = parser.parse_args(arguments)
    if options.out is None:
        # A GPU's machine is seldom the one whose processor was timed.
        options.out = committed / "cuda" if options.device == "cuda" else committed
    if options.quick and options.out.is_relative_to(committed):
        parser.error("--quick needs --out DIR: its times mean nothing and must not replace the committed results")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda needs a GPU, and torch {torch.__version__} finds none that it can use")
    paths = bench_files(folder, options.only)
    if not paths:
        known = ", ".join(path.stem.removeprefix("bench_") for path in bench_files(folder))
        parser.error(f"no bench file's name contains {' or '.join(map(repr, options.only))}; there are {known}")
    settings = Settings.for_quick(package) if options.quick else Settings(package=package)
    run = Run(settings, log=lambda line: print(line, file=sys.stderr, flush=True), devices=here(options.device))
    try:
        results = run.run(collect(paths, options.quick))
        if options.keep and (options.out / "results.json").exists():
            results = joined(read(options.out / "results.json"), results)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    write(results, options.out)
    print(markdown(results).partition("## Every peer")[0])
    print(f"Written to {options.out}")
    return 0
