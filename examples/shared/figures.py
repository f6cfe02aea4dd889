"""Figures of matplotlib, in files."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

from .files import write_whole

matplotlib.use("Agg")  # figures go to files; a display may not be there
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(figure)
    write_whole(path, buffer.getvalue())
