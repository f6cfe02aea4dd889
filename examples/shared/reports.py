"""What the examples print."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table


def results_table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values())
        table.add_row(name, *cells)
    return table


def comparison_table(title: str, runs: dict[str, list[dict[str, float]]], columns: Sequence[str]) -> Table:
    """The mean over each loss's runs, with the least and the largest."""
    table = Table(title=title, title_justify="left")
    table.add_column("loss", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, some in runs.items():
        cells = []
        for column in columns:
            values = [run[column] for run in some]
            span = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{span}")
        table.add_row(name, *cells)
    return table


def verdict(runs: dict[str, list[dict[str, float]]], column: str) -> str:
    """Whether the best loss is better than the next by more than equal runs with other seeds differ."""
    ranked = sorted(runs, key=lambda name: -statistics.mean(run[column] for run in runs[name]))
    best, next_best = ([run[column] for run in runs[name]] for name in ranked[:2])
    ahead = statistics.mean(best) - statistics.mean(next_best)
    said = f"{column}: {ranked[0]} is {ahead:.3f} ahead of {ranked[1]}"
    if len(best) < 2:
        return f"{said}, of one run each, which says little: --repeats 3 tells how much runs differ"
    apart = max(max(values) - min(values) for values in (best, next_best))
    judged = "more than" if min(best) > max(next_best) else "within what"
    return f"{said}, {judged} runs with other seeds differ by ({apart:.3f})"
