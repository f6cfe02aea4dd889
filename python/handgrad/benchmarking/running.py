"""Times ops beside their peers: same process, same inputs. What each number means: docs/benchmarks.md."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch

from handgrad.benchmarking.declaring import PASSES, Benchmark, Case, Settings, Sweep
from handgrad.benchmarking.machine import last_level_cache, machine_facts
from handgrad.benchmarking.measuring import (
    bandwidth,
    floor_seconds,
    interleave,
    log1p_nanoseconds,
    peak_bytes,
    wake_vector_functions,
)
from handgrad.benchmarking.peers import as_peer, prepare, tensor_bytes
from handgrad.benchmarking.results import Curve, Results, Row, SweepResult, Table, summarize


class Run:
    """One run over bench files, filling :attr:`results`."""

    def __init__(
        self, settings: Settings, log: Callable[[str], None] = print, devices: Sequence[torch.device] | None = None
    ) -> None:
        self.settings = settings
        self.log = log
        self.devices = here("all") if devices is None else devices
        self.results = Results(machine_facts(settings.package), asdict(settings))
        self._rates: dict[tuple[str, int, int], dict[str, float]] = {}
        self._as_found: dict[tuple[str, str, str, int, str], Row] = {}

    def run(self, benchmarks: Sequence[Benchmark]) -> Results:
        threads = torch.get_num_threads()
        counts = sorted({1, threads})
        try:
            before = log1p_nanoseconds()
            for benchmark in benchmarks if torch.device("cpu") in self.devices else ():
                for case in benchmark.cases:
                    if case.as_found:
                        for count in counts:
                            self._time_as_found(benchmark.op, case, count)
            wake_vector_functions()
            self.results.machine["log1p, ns per element"] = {"as found": before, "awake": log1p_nanoseconds()}
            for benchmark in benchmarks:
                for device in self.devices:
                    for case in benchmark.cases:
                        for count in counts if device.type == "cpu" else [threads]:
                            self._time(benchmark.op, case, device, count)
                    for sweep in benchmark.sweeps:
                        self._sweep(benchmark.op, sweep, device, threads)
                if benchmark.facts is not None:
                    self.log(f"{benchmark.op}: facts")
                    self.results.facts[benchmark.op] = benchmark.facts(self.settings)
        finally:
            torch.set_num_threads(threads)
        return self.results

    def rates(self, device: torch.device, threads: int, working_set: int) -> dict[str, float]:
        """Bandwidth of a working set, measured once for each size, to 5 %."""
        size = round(1.05 ** round(math.log(working_set, 1.05)))
        key = (device.type, threads, size)
        if key not in self._rates:
            self._rates[key] = bandwidth(device, threads, size, self.settings)
            self.results.bandwidth.append(
                {"device": device.type, "threads": threads, "working_set": size, **self._rates[key]}
            )
        return self._rates[key]

    def _time_as_found(self, op: str, case: Case, threads: int) -> None:
        self.log(f"{op}, {case.name}: as found, {threads} thread(s)")
        _set_threads(threads)
        runners, _ = prepare(case, torch.device("cpu"), self.settings.package)
        chosen = {name: runners[name] for name in case.as_found if name in runners}
        for step in runners[self.settings.package].passes:
            times = interleave({name: runner.step(step) for name, runner in chosen.items()}, self.settings, threads)
            for name, time in times.items():
                self._as_found[op, case.name, name, threads, step] = Row(f"{name} (as found)", time, as_found=True)

    def _time(self, op: str, case: Case, device: torch.device, threads: int) -> None:
        self.log(f"{op}, {case.name}: {device.type}, {threads} thread(s)")
        _set_threads(threads)
        runners, errors = prepare(case, device, self.settings.package)
        ours = runners[self.settings.package]
        working_set = tensor_bytes(ours.inputs) + tensor_bytes(ours.forward_backward())
        memory_rates = self.rates(device, threads, max(self.settings.bandwidth_bytes, 4 * last_level_cache()))
        cached_rates = self.rates(device, threads, working_set)
        moved_in = dict(zip(PASSES, (case.forward_bytes, case.forward_bytes + case.backward_bytes), strict=True))
        for step in ours.passes:
            moved = moved_in[step]
            calls = {name: runner.step(step) for name, runner in runners.items() if runner.has(step)}
            times = interleave(calls, self.settings, threads)
            rows = [
                Row(name, time, time.median / times[self.settings.package].median, peak_bytes(calls[name], device))
                for name, time in times.items()
            ]
            for name in case.as_found:
                row = self._as_found.get((op, case.name, name, threads, step)) if device.type == "cpu" else None
                if row is not None and row.time is not None:
                    row.ratio = row.time.median / times[self.settings.package].median
                    rows.append(row)
            rows += [Row(name, error=error) for name, error in errors.items()]
            table = Table(
                op, case.name, device.type, threads, step, rows, moved,
                floor_seconds(moved, memory_rates), floor_seconds(moved, cached_rates), working_set,
            )  # fmt: skip
            self.results.tables.append(summarize(table))
        for name, function in case.peers.items():
            if as_peer(function).remark:
                self.results.remarks[name] = as_peer(function).remark

    def _sweep(self, op: str, sweep: Sweep, device: torch.device, threads: int) -> None:
        self.log(f"{op}, {sweep.name}: {device.type}, {threads} thread(s)")
        curves: dict[str, Curve] = {}
        for value in sweep.values:
            case = sweep.case(value)
            _set_threads(threads)
            runners, errors = prepare(case, device, self.settings.package)
            step = runners[self.settings.package].passes[-1]
            times = interleave({n: r.forward_backward for n, r in runners.items()}, self.settings, threads)
            for name in [self.settings.package, *case.peers]:
                curve = curves.setdefault(name, Curve(name))
                curve.seconds.append(times[name].median if name in times else None)
                if name in errors:
                    curve.errors.append(f"{sweep.axis} {value}: {errors[name]}")
        self.results.sweeps.append(
            SweepResult(
                op, sweep.name, sweep.axis, list(sweep.values), device.type, threads, list(curves.values()), step
            )
        )


def here(wanted: str) -> list[torch.device]:
    """What to time on: ``cpu``, ``cuda``, or ``all`` that are here."""
    found = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [torch.device(name) for name in (found if wanted == "all" else [wanted])]


def _set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    torch._dynamo.reset()


# ---- the files -------------------------------------------------------------------------------------------------------


def bench_files(root: Path, only: Sequence[str] = ()) -> list[Path]:
    """All bench files; or for each of the names in ``only`` the one of that name, or those whose names contain it."""
    files = sorted(root.rglob("bench_*.py"))
    names = {path: path.stem.removeprefix("bench_") for path in files}
    if not only:
        return files
    return [path for path in files if any(_chosen(names[path], name, names.values()) for name in only)]


def _chosen(name: str, wanted: str, names: Iterable[str]) -> bool:
    return name == wanted or (wanted in name and wanted not in names)


def load(path: Path) -> ModuleType:
    name = f"benchmarks._files.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def collect(paths: Iterable[Path], quick: bool) -> list[Benchmark]:
    return [load(path).benchmark(quick) for path in paths]
