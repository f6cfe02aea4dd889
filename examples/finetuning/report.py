"""Tables, figures, the exported network, results.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import confusion_matrix

from shared.figures import plt, save_figure
from shared.files import write_whole

COLOURS = {"focal": "#1f6f8b", "bce": "#d1652b"}
LOSS_NAMES = {"focal": "focal loss", "bce": "BCE"}


def results_table(results: dict[str, dict[str, float]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    columns = ("accuracy", "balanced_accuracy", "average_precision")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    best = {column: max(row[column] for row in results.values()) for column in columns}
    for name, row in results.items():
        cells = [f"{row[c]:.3f}" if row[c] < best[c] else f"[bold]{row[c]:.3f}[/bold]" for c in columns]
        table.add_row(name, *cells)
    return table


def draw_curves(histories: dict[str, list[dict[str, float]]], path: Path) -> None:
    """A panel for each loss, since their values cannot be compared, and one for what can."""
    figure, axes = plt.subplots(1, len(histories) + 1, figsize=(4 * (len(histories) + 1), 3.2), layout="constrained")
    for axis, (name, history) in zip(axes, histories.items(), strict=False):
        epochs = [entry["epoch"] for entry in history]
        axis.plot(epochs, [e["train_loss"] for e in history], "o-", color=COLOURS[name], label="training", ms=4)
        axis.plot(
            epochs,
            [e["validation_loss"] for e in history],
            "o--",
            color="#777777",
            label="validation",
            ms=4,
            mfc="white",
        )
        axis.set(title=LOSS_NAMES[name], xlabel="epoch", ylabel="loss")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    for name, history in histories.items():
        axes[-1].plot(
            [e["epoch"] for e in history],
            [e["validation_average_precision"] for e in history],
            "o-",
            color=COLOURS[name],
            label=LOSS_NAMES[name],
            ms=4,
        )
    axes[-1].set(title="on validation images", xlabel="epoch", ylabel="average precision")
    axes[-1].legend(frameon=False, loc="lower right")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def draw_confusion(
    labels: NDArray[np.int64], decided: NDArray[np.int64], classes: list[str], title: str, path: Path
) -> None:
    matrix = confusion_matrix(labels, decided, labels=range(len(classes)))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(3.4 + 0.35 * len(classes), 14.0)
    figure, axis = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 20:
        for row, column in np.ndindex(*matrix.shape):
            text = f"{matrix[row, column]}"
            if len(classes) <= 4:
                text += f"\n{shares[row, column]:.0%}"
            colour = "white" if shares[row, column] > 0.55 else "#222222"
            axis.text(column, row, text, ha="center", va="center", color=colour)
    if len(classes) <= 40:
        ticks = range(len(classes))
        slanted = sum(map(len, classes)) > 40
        axis.set_xticks(ticks, classes, rotation=45 if slanted else 0, ha="right" if slanted else "center")
        axis.set_yticks(ticks, classes)
    axis.set(xlabel="decided", ylabel="true", title=title)
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.8)
    save_figure(figure, path)


def draw_precisions(values: dict[str, float], title: str, path: Path) -> None:
    """For a multilabel task, where there is no confusion matrix: average precision of every class."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure, axis = plt.subplots(figsize=(6, 1.2 + 0.2 * len(ordered)), layout="constrained")
    axis.barh([name for name, _ in ordered], [value for _, value in ordered], color=COLOURS["focal"])
    axis.set(xlim=(0, 1), xlabel="average precision", title=title)
    axis.margins(y=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def write_results(path: Path, results: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(results, indent=2) + "\n").encode())


def say_files(console: Console, folder: Path, names: list[str]) -> None:
    console.print(f"\nwritten to {folder}: " + ", ".join(names), soft_wrap=True)
