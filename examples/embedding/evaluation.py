"""How good embeddings are: accuracy by neighbours, by a linear classifier, and recall@1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Images

NEIGHBOURS = 20
# A neighbour's vote is exp(similarity / this), as in Wu et al., 2018.
_TEMPERATURE = 0.1
_CHUNK = 1000


def measure(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> dict[str, float]:
    """Of rows of unit length. What is asked of the test part knows the labels of the training part; but recall@1 is of
    the test part alone: that the nearest other row has the same label."""
    return {
        "k-NN": _share(neighbours(train, train_labels, test), test_labels),
        "linear": _share(linear(train, train_labels, test), test_labels),
        "recall@1": _share(test_labels[nearest_other(test)], test_labels),
    }


def of_pixels(train: Images, test: Images) -> dict[str, float]:
    """The same, of the images themselves: what embeddings must be better than."""
    rows = [F.normalize(part.pixels.flatten(1).float()) for part in (train, test)]
    return measure(rows[0], train.labels, rows[1], test.labels)


def _share(found: Tensor, labels: Tensor) -> float:
    return (found == labels).double().mean().item()


def neighbours(rows: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """The label that each row of ``asked`` gets from its neighbours in ``rows``."""
    classes = F.one_hot(labels).float()
    found = []
    for part in asked.split(_CHUNK):
        similarities, places = (part @ rows.T).topk(min(NEIGHBOURS, len(rows)))
        votes = (similarities / _TEMPERATURE).softmax(1)
        found.append((votes[..., None] * classes[places]).sum(1).argmax(1))
    return torch.cat(found)


def nearest_other(rows: Tensor) -> Tensor:
    """The place of each row's nearest, other than itself."""
    found = []
    for start in range(0, len(rows), _CHUNK):
        similarities = rows[start : start + _CHUNK] @ rows.T
        similarities.diagonal(start).fill_(-torch.inf)
        found.append(similarities.argmax(1))
    return torch.cat(found)


def linear(rows: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """The label that logistic regression on ``rows`` gives to each row of ``asked``."""
    mean = rows.mean(0)
    scale = (rows - mean).pow(2).mean().sqrt().clamp(min=1e-6)
    rows, asked = (rows - mean) / scale, (asked - mean) / scale
    weight = torch.zeros(int(labels.max()) + 1, rows.shape[1], requires_grad=True)
    bias = torch.zeros(len(weight), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(rows @ weight.T + bias, labels) + 1e-4 * weight.pow(2).sum()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return (asked @ weight.T + bias).argmax(1)
