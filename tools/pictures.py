"""What the tools that draw the documentation's pictures share."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures go to files; a display may not be there
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

__all__ = ["DOCS", "plt", "save"]

DOCS = Path(__file__).resolve().parent.parent / "docs"


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=90)
    plt.close(figure)
    print(path)
