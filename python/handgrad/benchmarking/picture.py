"""Results as a picture."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from handgrad.benchmarking.markdown import duration
from handgrad.benchmarking.results import Results, SweepResult, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    for index, row in enumerate(rows):
        assert row.time is not None
        ms = row.time.median * 1e3
        color = OURS if row is table.ours else AS_FOUND if row.as_found else PEER
        axes.barh(index, ms, color=color, height=0.68)
        axes.plot([row.time.low * 1e3, row.time.high * 1e3], [index, index], color=INK, linewidth=1)
        text = duration(row.time.median) + ("" if row is table.ours else f"  ·  {row.ratio:.1f}x")
        axes.annotate(
            text, (max(ms, row.time.high * 1e3), index), (5, 0), textcoords="offset points", va="center", fontsize=8.5,
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
    from PIL import Image  # matplotlib brings it

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
    # Sixty-four colours do for bars and letters, in a third of the bytes of a file that is kept in a repository.
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    plt.close(figure)
