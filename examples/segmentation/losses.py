"""The losses to choose from, alone or added up: one line each."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from handgrad import losses
from shared.options import known_name

Loss = Callable[[Tensor, Tensor], Tensor]

# Sums of the whole batch: in a single view there may be next to no boundary, or none.
_OVERLAP: dict[str, Any] = {"activation": "softmax", "batch": True}

#: Each takes logits, (N, 3, height, width), and the class of each pixel, (N, height, width).
LOSSES: dict[str, Loss] = {
    "dice": functools.partial(losses.dice_loss, **_OVERLAP),
    "jaccard": functools.partial(losses.jaccard_loss, **_OVERLAP),
    "tversky": functools.partial(losses.tversky_loss, alpha=0.3, beta=0.7, **_OVERLAP),
    "focal_tversky": functools.partial(losses.focal_tversky_loss, **_OVERLAP),
    "generalized_dice": functools.partial(losses.generalized_dice_loss, **_OVERLAP),
    "cross_entropy": F.cross_entropy,
}

_known = known_name("loss", LOSSES)


def loss_name(text: str) -> str:
    """A type for argparse: a loss, or several, joined by +."""
    parts = [_known(part) for part in text.split("+")]
    if len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} names a loss twice")
    return "+".join(parts)


def loss_names(text: str) -> list[str]:
    """A type for argparse: losses, separated by commas, or none."""
    return [] if text == "none" else [loss_name(part) for part in text.split(",")]


def of_name(name: str) -> Loss:
    parts = [LOSSES[part] for part in name.split("+")]

    def total(logits: Tensor, classes: Tensor) -> Tensor:
        return functools.reduce(Tensor.add, (part(logits, classes) for part in parts))

    return total
