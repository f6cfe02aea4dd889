"""Nuclei out of classes, and how good they are: Dice and IoU of the pixels, F1 of the nuclei."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .data import BACKGROUND, INSIDE, Picture

# Smaller things, in pixels, are neither asked for nor found: what an image's edge leaves of a nucleus.
SMALLEST = 16
# Boundaries reach two pixels into a nucleus; found ones are a little wider here and there.
_GROWN = 4


def nuclei_of(classes: Tensor) -> Tensor:
    """The number of the nucleus at each pixel: the connected parts of what is inside, grown into the boundaries."""
    numbers, _ = ndimage.label((classes == INSIDE).numpy())
    sizes = np.bincount(numbers.ravel())
    numbers[sizes[numbers] < SMALLEST] = 0
    if not numbers.any():
        return torch.zeros_like(classes)
    # Each pixel's nearest that belongs to a nucleus.
    distances, (rows, columns) = ndimage.distance_transform_edt(numbers == 0, return_indices=True)
    nearest = torch.from_numpy(np.where(distances <= _GROWN, numbers[rows, columns], 0).astype(np.int64))
    return torch.where(classes != BACKGROUND, nearest, 0)


@dataclass(frozen=True)
class Matched:
    """Nuclei found against those that there are. A pair is two whose overlap (IoU) is above 0.5: none has two partners,
    then."""

    truth: Tensor  #: (height, width), numbers
    found: Tensor  #: (height, width), numbers
    partners: dict[int, int]  #: of a number of ``found``, that of ``truth``
    missed: set[int]  #: numbers of ``truth``
    wrong: set[int]  #: numbers of ``found``


def match(picture: Picture, found: Tensor) -> Matched:
    # A mask's numbers may be far apart: here they count from 1.
    truth = picture.nuclei.unique(return_inverse=True)[1] + int((picture.nuclei > 0).all())
    across = int(found.max()) + 1
    both = torch.bincount((truth * across + found).ravel(), minlength=(int(truth.max()) + 1) * across)
    both = both.reshape(-1, across)
    areas, found_areas = both.sum(1), both.sum(0)
    overlaps = both / (areas[:, None] + found_areas - both).clamp(min=1)
    partners = {f: t for t, f in (overlaps[1:, 1:] > 0.5).nonzero().add(1).tolist()}
    asked = {t for t in range(1, len(areas)) if areas[t] >= SMALLEST}
    shown = {f for f in range(1, across) if found_areas[f] > 0}
    return Matched(truth, found, partners, asked - set(partners.values()), shown - set(partners))


def measure(pictures: Sequence[Picture], classes: Sequence[Tensor], matches: Sequence[Matched]) -> dict[str, float]:
    """Over all pictures, as if they were one."""
    both = sum(int(((p.nuclei > 0) & (c != BACKGROUND)).sum()) for p, c in zip(pictures, classes, strict=True))
    either = sum(int(((p.nuclei > 0) | (c != BACKGROUND)).sum()) for p, c in zip(pictures, classes, strict=True))
    right = sum(len(m.partners) for m in matches)
    failed = sum(len(m.missed) + len(m.wrong) for m in matches)
    return {
        "Dice": 2 * both / max(1, both + either),
        "IoU": both / max(1, either),
        "F1": 2 * right / max(1, 2 * right + failed),
        "right": right,
        "missed": sum(len(m.missed) for m in matches),
        "wrong": sum(len(m.wrong) for m in matches),
    }
