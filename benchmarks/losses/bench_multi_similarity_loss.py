"""Multi-similarity loss of a batch, with all pairs and with mined ones, beside the whole matrix of cosines in plain
PyTorch, eager and compiled, and pytorch-metric-learning's MultiSimilarityLoss and its miner."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.labelled_sets import case
from handgrad.benchmarking import Benchmark, compiled
from handgrad.losses import multi_similarity_loss

_ALPHA, _BETA, _BASE = 2.0, 50.0, 0.5


def plain(embeddings: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
    units = F.normalize(embeddings)
    cosines = units @ units.t()
    is_same = labels[:, None] == labels
    positive = is_same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negative = ~is_same
    if epsilon is not None:
        nearest = torch.where(negative, cosines, -torch.inf).amax(1, keepdim=True)
        farthest = torch.where(positive, cosines, torch.inf).amin(1, keepdim=True)
        positive, negative = positive & (cosines < nearest + epsilon), negative & (cosines > farthest - epsilon)

    def of_side(exponents: Tensor, counts: Tensor) -> Tensor:
        exponents = torch.where(counts, exponents, -torch.inf)
        return torch.logsumexp(torch.cat([exponents, torch.zeros_like(exponents[:, :1])], 1), 1)

    positives, negatives = of_side(-_ALPHA * (cosines - _BASE), positive), of_side(_BETA * (cosines - _BASE), negative)
    return (positives / _ALPHA + negatives / _BETA).mean()


def metric_learning(embeddings: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
    from pytorch_metric_learning.losses import MultiSimilarityLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    mined = None if epsilon is None else MultiSimilarityMiner(epsilon)(embeddings, labels)
    value: Tensor = MultiSimilarityLoss(_ALPHA, _BETA, _BASE)(embeddings, labels, mined)
    return value


def benchmark(quick: bool) -> Benchmark:
    cases = []
    for count, epsilon in ((1024, None), (1024, 0.1), (8192, None)):
        formula = functools.partial(plain, epsilon=epsilon)
        cases.append(
            case(
                "all pairs" if epsilon is None else "mined",
                count // 16 if quick else count,
                128,
                4,
                functools.partial(multi_similarity_loss, epsilon=epsilon),
                {
                    "matrix of cosines": formula,
                    "the same, torch.compile": compiled(formula),
                    "pytorch-metric-learning": functools.partial(metric_learning, epsilon=epsilon),
                },
            )
        )
    return Benchmark(op="multi_similarity_loss", cases=cases)
