"""What the examples print."""

from __future__ import annotations

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
