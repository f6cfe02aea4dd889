"""The picture: test images as points of the plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from shared.figures import plt, save_figure

_COLUMNS = 3


def on_plane(rows: Tensor, method: str, seed: int) -> np.ndarray:
    """Rows of unit length as points, (N, 2)."""
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(rows.numpy())
    perplexity = min(30.0, (len(rows) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=-1).fit_transform(rows.numpy())


def draw(panels: dict[str, np.ndarray], labels: Tensor, classes: Sequence[str], title: str, path: Path) -> None:
    """Points beside each other, one panel for each loss, in the colours of their classes."""
    across = min(len(panels), _COLUMNS)
    down = -(-len(panels) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(4.2 * across, 4.4 * down + 0.4), layout="constrained", squeeze=False
    )
    colours = plt.get_cmap("tab10" if len(classes) <= 10 else "gist_rainbow", len(classes))
    numbers = labels.numpy()
    for axis, (name, points) in zip(axes.flat, panels.items(), strict=False):
        for number, label in enumerate(classes):
            some = points[numbers == number]
            axis.scatter(*some.T, s=4, color=colours(number), linewidths=0, alpha=0.8, label=label)
        axis.set(title=name.replace("_", " "), xticks=[], yticks=[])
        axis.spines[:].set_color("#cccccc")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    if len(classes) <= 20:
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=min(len(names), 3 * across + 1),
            frameon=False,
            markerscale=4,
        )
    figure.suptitle(title, fontsize="medium")
    save_figure(figure, path, dpi=100)
