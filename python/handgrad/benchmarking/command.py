"""``python -m benchmarks``: runs the bench files of a folder and writes results.md, results.json and results.png.

The folder's ``__main__.py`` calls :func:`main` with itself and the name of the package that it times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The profiler that counts memory says on every use that it found no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from handgrad.benchmarking.harness import (
    BenchmarkError,
    Fact,
    Results,
    Row,
    Run,
    Settings,
    SweepResult,
    Table,
    Timing,
    bench_files,
    collect,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# ---- markdown --------------------------------------------------------------------------------------------------------


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


# ---- picture ---------------------------------------------------------------------------------------------------------

OURS, PEER, AS_FOUND, INK, SOFT = "#c2410c", "#8aa0b8", "#d5dde6", "#1f2933", "#7b8794"


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.8, which="major")
    axes.set_axisbelow(True)


def _bars(axes: Axes, table: Table) -> None:
    rows = sorted((row for row in table.rows if row.time is not None), key=lambda row: row.time.median)  # type: ignore[union-attr]
    rows.sort(key=lambda row: row is not table.ours)
    for place, row in enumerate(rows):
        assert row.time is not None
        ms = row.time.median * 1e3
        color = OURS if row is table.ours else AS_FOUND if row.as_found else PEER
        axes.barh(place, ms, color=color, height=0.68)
        axes.plot([row.time.low * 1e3, row.time.high * 1e3], [place, place], color=INK, linewidth=1)
        text = duration(row.time.median) + ("" if row is table.ours else f"  ·  {row.ratio:.1f}x")
        axes.annotate(
            text, (max(ms, row.time.high * 1e3), place), (5, 0), textcoords="offset points", va="center", fontsize=8.5,
            color=INK, fontweight="bold" if row is table.ours else "normal",
        )  # fmt: skip
    axes.axvline(table.floor * 1e3, color=INK, linewidth=1.1, linestyle=(0, (3, 2)))
    axes.annotate(
        "memory floor", (table.floor * 1e3, 1), (-3, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="center", fontsize=7.5, color=SOFT,
    )  # fmt: skip
    axes.set_yticks(range(len(rows)), [_wrapped(row.implementation) for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    ends = [end * 1e3 for row in rows if row.time is not None for end in (row.time.low, row.time.high)]
    left, right = min(table.floor * 1e3, *ends) * 0.6, max(ends)
    # A third of the width for the figures behind the bars.
    axes.set_xlim(left, right * (right / left) ** 0.5)
    axes.set_title(f"{table.op}\n{table.case}", loc="left", fontsize=10, color=INK, pad=14)
    axes.set_xlabel(f"ms, {table.step} (log scale)", fontsize=8.5, color=SOFT)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    _clean(axes)


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, 32))


def _lines(axes: Axes, result: SweepResult) -> None:
    from matplotlib.ticker import LogLocator

    peers = [PEER, "#4b6584", "#b8c4d0"]
    for index, curve in enumerate(result.curves):
        points = [(v, s * 1e3) for v, s in zip(result.values, curve.seconds, strict=True) if s is not None]
        if not points:
            continue
        color = OURS if index == 0 else peers[(index - 1) % len(peers)]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, linewidth=2)
        axes.annotate(
            curve.implementation, points[-1], (6, 0), textcoords="offset points", va="center", fontsize=8.5, color=color
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    # Few values span a decade, so 1, 2 and 5 of each are labelled.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(result.values, [str(value) for value in result.values])
    axes.set_xlim(result.values[0] * 0.9, result.values[-1] * 1.8)
    axes.minorticks_off()
    axes.set_title(f"{result.op}\nby {result.name}", loc="left", fontsize=10, color=INK, pad=14)
    axes.set_xlabel(result.axis, fontsize=8.5, color=SOFT)
    axes.set_ylabel(f"ms, {result.step}", fontsize=8.5, color=SOFT)
    _clean(axes)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)


def picture(results: Results, path: Path) -> None:
    """Bars for every case and lines for every sweep, forward+backward where there is a backward; CPU first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Tables come with rising numbers of threads, so the last one of a device has all.
    most = {table.device: table.threads for table in results.tables}
    # And the last pass of a case has all that it has.
    last = {(table.op, table.case): table.step for table in results.tables}
    bars = [t for t in results.tables if t.step == last[t.op, t.case] and t.threads == most[t.device]]
    panels = len(bars) + len(results.sweeps)
    lines = max(1, math.ceil(panels / 2))
    engine = ConstrainedLayoutEngine(h_pad=0.18, w_pad=0.12)
    figure, grid = plt.subplots(lines, 2, figsize=(13, 3.3 * lines + 0.9), squeeze=False, layout=engine)
    figure.suptitle(
        f"{results.settings['package']} beside its peers  ·  {results.machine['CPU']}, "
        f"{results.machine['threads']} threads, torch {results.machine['torch']}, {results.machine['date'][:10]}"
        + ("  ·  QUICK RUN, TIMES MEAN NOTHING" if results.settings["quick"] else ""),
        fontsize=11.5, color=INK, x=0.01, ha="left",
    )  # fmt: skip
    flat = list(grid.flat)
    for axes, table in zip(flat, bars, strict=False):
        _bars(axes, table)
    for axes, result in zip(flat[len(bars) :], results.sweeps, strict=False):
        _lines(axes, result)
    for axes in flat[panels:]:
        axes.axis("off")
    figure.savefig(path, dpi=130, facecolor="white")
    plt.close(figure)


# ---- command line ----------------------------------------------------------------------------------------------------


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
    parser.add_argument("--only", default="", metavar="NAME", help="bench files whose name contains NAME")
    parser.add_argument("--out", type=Path, default=committed, metavar="DIR", help="folder for the three result files")
    options = parser.parse_args(arguments)
    if options.quick and options.out == committed:
        parser.error("--quick needs --out DIR: its times mean nothing and must not replace the committed results")
    paths = bench_files(folder, options.only)
    if not paths:
        known = ", ".join(path.stem.removeprefix("bench_") for path in bench_files(folder))
        parser.error(f"no bench file's name contains {options.only!r}; there are {known}")
    settings = Settings.for_quick(package) if options.quick else Settings(package=package)
    run = Run(settings, log=lambda line: print(line, file=sys.stderr, flush=True))
    try:
        results = run.run(collect(paths, options.quick))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    write(results, options.out)
    print(markdown(results).partition("## Every peer")[0])
    print(f"Written to {options.out}")
    return 0
