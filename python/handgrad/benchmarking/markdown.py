"""Results as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handgrad.benchmarking.declaring import Fact
from handgrad.benchmarking.results import Results, Row, SweepResult, Table, Timing


def duration(seconds: float) -> str:
    return _scaled(seconds, ((1, "s"), (1e-3, "ms"), (1e-6, "µs")))


def size(count: int) -> str:
    return _scaled(count, ((2**20, "MiB"), (2**10, "KiB"), (1, "B")))


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """In the first unit of which there is at least one, with three digits and never an exponent."""
    scale, unit = next((pair for pair in units if value >= pair[0]), units[-1])
    number = value / scale
    return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"


def _time(time: Timing) -> str:
    return f"{duration(time.median)} ({duration(time.low)} to {duration(time.high)})"


def _threads(device: str, threads: int) -> str:
    return device.upper() if device != "cpu" else f"{threads} thread" + ("s" if threads != 1 else "")


def _markdown(rows: list[dict[str, Any]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _summary(tables: list[Table], package: str) -> str:
    rows = []
    for table in tables:
        assert table.ours.time is not None
        rows.append(
            {
                "op": table.op,
                "case": table.case,
                "on": _threads(table.device, table.threads),
                "pass": table.step,
                package: duration(table.ours.time.median),
                "best peer": table.best_peer or "none ran",
                "faster than it": f"{table.ratio_to_best:.2f}x" if table.ratio_to_best else "",
                "of the floor": f"{table.floor_share:.0%}",
                "peak memory": size(table.ours.peak_bytes or 0),
            }
        )
    return _markdown(rows)


def _cells(table: Table, row: Row, package: str) -> dict[str, Any]:
    if row.time is None:
        return {"implementation": row.implementation, "time (quartiles)": f"not run: {row.error}"}
    ours = row is table.ours
    return {
        "implementation": f"**{row.implementation}**" if ours else row.implementation,
        "time (quartiles)": _time(row.time),
        f"against {package}": "" if ours else f"{row.ratio:.2f}x",
        "of the floor": f"{table.floor / row.time.median:.0%}",
        "of the floor in cache": f"{table.cached_floor / row.time.median:.0%}",
        "peak memory": size(row.peak_bytes) if row.peak_bytes is not None else "",
    }


def _detail(table: Table, package: str) -> str:
    title = f"#### {table.op}, {table.case}: {table.step}, {_threads(table.device, table.threads)}"
    floor = (
        f"Floor: {size(table.bytes)} to move, {duration(table.floor)} at the bandwidth of memory, "
        f"{duration(table.cached_floor)} at that of a working set of {size(table.working_set)}."
    )
    return "\n\n".join([title, floor, _markdown([_cells(table, row, package) for row in table.rows])])


def _sweep(result: SweepResult) -> str:
    rows = []
    for index, value in enumerate(result.values):
        row: dict[str, Any] = {result.axis: value}
        for curve in result.curves:
            seconds = curve.seconds[index]
            row[curve.implementation] = "not run" if seconds is None else duration(seconds)
        rows.append(row)
    title = f"#### {result.op} by {result.name}: {result.step}, {_threads(result.device, result.threads)}"
    errors = [f"- {curve.implementation}, {error}" for curve in result.curves for error in curve.errors]
    return "\n\n".join([title, _markdown(rows), *(["\n".join(errors)] if errors else [])])


def _fact(fact: Fact) -> dict[str, Any]:
    if fact.error:
        return {"what": fact.name, "measured": f"not measured: {fact.error}"}
    return {
        "what": fact.name,
        "measured": f"{fact.value:.3g} {fact.unit}",
        "limit": "" if fact.limit is None else f"{fact.limit:g} {fact.unit}",
        "": "" if fact.limit is None else ("kept" if fact.value <= fact.limit else "**missed**"),
    }


def markdown(results: Results) -> str:
    package = results.settings["package"]
    parts = ["# Benchmark results", "Written by `python -m benchmarks`; how to read it: docs/benchmarks.md."]
    if results.settings["quick"]:
        parts.append("**A quick run on tiny inputs: it shows that the benchmarks work, its times mean nothing.**")
    parts.append(_markdown([{"machine": key, "": _plain(value)} for key, value in results.machine.items()]))
    if results.tables:
        parts += [
            "![Times and sweeps](results.png)",
            "## Summary",
            _summary(results.tables, package),
        ]
    for op, facts in results.facts.items():
        parts += [f"## {op}", _markdown([_fact(fact) for fact in facts])]
    if results.tables:
        parts.append("## Every peer")
        parts += [_detail(table, package) for table in results.tables]
    if results.remarks:
        parts.append("\n".join(f"- {name}: {remark}." for name, remark in results.remarks.items()))
    if results.sweeps:
        parts.append("## Sweeps")
        parts += [_sweep(result) for result in results.sweeps]
    if results.bandwidth:
        parts += ["## Bandwidth", "What torch itself reaches, GB/s; the fastest of the three makes the floor."]
        parts.append(
            _markdown(
                [
                    {
                        "on": _threads(entry["device"], entry["threads"]),
                        "working set": size(entry["working_set"]),
                        "read: sum(a)": f"{entry['read'] / 1e9:.1f}",
                        "copy: b = a": f"{entry['copy'] / 1e9:.1f}",
                        "triad: c = a + 2 b": f"{entry['triad'] / 1e9:.1f}",
                    }
                    for entry in results.bandwidth
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
