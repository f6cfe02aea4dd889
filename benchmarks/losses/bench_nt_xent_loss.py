"""NT-Xent: 8,192 embeddings, two views of 4,096 images, beside the formula in plain PyTorch and
pytorch-metric-learning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairwise_losses import metric_learning, one_sided
from handgrad.benchmarking import Benchmark
from handgrad.losses import nt_xent_loss

_nt_xent = metric_learning("NTXentLoss", 0.5)


def _by_hand(rows: Tensor) -> Tensor:
    count = rows.shape[0]
    numbers = torch.arange(count, device=rows.device)
    logits = (rows @ rows.T / 0.5).masked_fill(torch.eye(count, dtype=torch.bool, device=rows.device), -torch.inf)
    return F.cross_entropy(logits, (numbers + count // 2) % count)


def _pml(rows: Tensor) -> Tensor:
    return _nt_xent(rows, torch.arange(rows.shape[0] // 2, device=rows.device).repeat(2))


def benchmark(quick: bool) -> Benchmark:
    return one_sided(
        quick,
        "nt_xent_loss",
        lambda rows: nt_xent_loss(rows, 0.5, normalize=False),
        _by_hand,
        labelled=False,
        peers={"pytorch-metric-learning": _pml},
    )
