"""Triplet loss of a batch: the hardest triplets and all of them, beside the whole matrix of distances in plain PyTorch,
eager and compiled, and pytorch-metric-learning's TripletMarginLoss with and without its BatchHardMiner."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from benchmarks.labelled_sets import case
from handgrad.benchmarking import Benchmark, compiled
from handgrad.losses import triplet_loss

_MARGIN = 0.2


def plain(embeddings: Tensor, labels: Tensor, mining: str) -> Tensor:
    squared = embeddings.square().sum(1)
    distances = (squared[:, None] + squared - 2 * embeddings @ embeddings.t()).clamp(min=1e-12).sqrt()
    is_same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if mining == "hard":
        far = torch.where(is_same & ~itself, distances, -torch.inf).amax(1)
        near = torch.where(is_same, torch.inf, distances).amin(1)
        return torch.relu(far - near + _MARGIN).mean()
    triplets = (is_same & ~itself)[:, :, None] & ~is_same[:, None, :]
    costs = torch.relu(distances[:, :, None] - distances[:, None, :] + _MARGIN)
    return torch.where(triplets, costs, 0).sum() / triplets.sum()


def metric_learning(embeddings: Tensor, labels: Tensor, mining: str) -> Tensor:
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import MeanReducer

    distance = LpDistance(normalize_embeddings=False)
    loss = TripletMarginLoss(margin=_MARGIN, distance=distance, reducer=MeanReducer())
    mined = BatchHardMiner(distance=distance)(embeddings, labels) if mining == "hard" else None
    value: Tensor = loss(embeddings, labels, mined)
    return value


def benchmark(quick: bool) -> Benchmark:
    cases = []
    for count, width, mining in ((1024, 128, "hard"), (8192, 128, "hard"), (256, 128, "all")):
        formula = functools.partial(plain, mining=mining)
        cases.append(
            case(
                mining,
                count // 16 if quick else count,
                width,
                4,
                functools.partial(triplet_loss, margin=_MARGIN, mining=mining),
                {
                    "matrix of distances": formula,
                    "the same, torch.compile": compiled(formula),
                    "pytorch-metric-learning": functools.partial(metric_learning, mining=mining),
                },
            )
        )
    return Benchmark(op="triplet_loss", cases=cases)
