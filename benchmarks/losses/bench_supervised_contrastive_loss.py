"""Supervised contrastive loss: 8,192 embeddings, ten of each label, beside the formula in plain PyTorch and
pytorch-metric-learning."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.pairwise_losses import metric_learning, one_sided
from handgrad.benchmarking import Benchmark
from handgrad.losses import supervised_contrastive_loss


def _by_hand(rows: Tensor, labels: Tensor) -> Tensor:
    others = ~torch.eye(rows.shape[0], dtype=torch.bool, device=rows.device)
    positive = (labels.unsqueeze(1) == labels) & others
    log_p = torch.log_softmax((rows @ rows.T / 0.1).masked_fill(~others, -torch.inf), 1)
    return -(torch.where(positive, log_p, 0).sum(1) / positive.sum(1).clamp(min=1)).mean()


def benchmark(quick: bool) -> Benchmark:
    return one_sided(
        quick,
        "supervised_contrastive_loss",
        lambda rows, labels: supervised_contrastive_loss(rows, labels, 0.1, normalize=False),
        _by_hand,
        labelled=True,
        peers={"pytorch-metric-learning": metric_learning("SupConLoss", 0.1)},
    )
