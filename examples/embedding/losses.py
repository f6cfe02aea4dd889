"""The losses to choose from, each with what stands between the embedding and the loss: one line each."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad import losses
from shared.options import known_name

# Of cosines, in losses that are a softmax of them.
TEMPERATURE = 0.1
PROJECTED = 64


class Projected(nn.Module):
    """A loss of projections: two layers stand between, and are thrown away when all is learnt, as in SimCLR (Chen et
    al., 2020) and SupCon (Khosla et al., 2020)."""

    def __init__(self, features: int, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, PROJECTED)
        )
        self.formula = formula

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.formula(self.project(features), labels)


class Classified(nn.Module):
    """Cross entropy of a linear classifier."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(features, classes)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.classify(features), labels.repeat(2))


class Margined(nn.Module):
    """CosFace's margin softmax: a classifier of cosines, from which the right class is held off."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return losses.margin_softmax_loss(features, self.weight, labels.repeat(2), scale=16.0, m2=0.0, m3=0.2)


def supervised_contrastive(rows: Tensor, labels: Tensor) -> Tensor:
    return losses.supervised_contrastive_loss(rows, labels.repeat(2), temperature=TEMPERATURE)


def nt_xent(rows: Tensor, labels: Tensor) -> Tensor:
    """Which two views are of one image is all that it is told."""
    return losses.nt_xent_loss(rows, temperature=TEMPERATURE)


def triplet(rows: Tensor, labels: Tensor) -> Tensor:
    return losses.triplet_loss(F.normalize(rows), labels.repeat(2), margin=0.2)


#: Of the number of features and of classes, a module that takes features, (2 N, features), the first views before the
#: second, and labels, (N,).
LOSSES: dict[str, Callable[[int, int], nn.Module]] = {
    "supervised_contrastive": lambda features, _: Projected(features, supervised_contrastive),
    "nt_xent": lambda features, _: Projected(features, nt_xent),
    "cross_entropy": Classified,
    "margin_softmax": Margined,
    "triplet": lambda features, _: Projected(features, triplet),
}

loss_name = known_name("loss", LOSSES)


def loss_names(text: str) -> list[str]:
    """A type for argparse: losses, separated by commas, or none."""
    return [] if text == "none" else [loss_name(part) for part in text.split(",")]
