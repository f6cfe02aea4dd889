"""InfoNCE: 8,192 queries and keys, beside torch's cross entropy of their products and pytorch-metric-learning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairwise_losses import metric_learning, two_sided
from handgrad.benchmarking import Benchmark
from handgrad.losses import info_nce_loss


def _ours(queries: Tensor, keys: Tensor) -> Tensor:
    return info_nce_loss(queries, keys, 0.1, normalize=False)


_ours.__name__ = "info_nce_loss"


def _by_hand(queries: Tensor, keys: Tensor) -> Tensor:
    return F.cross_entropy(queries @ keys.T / 0.1, torch.arange(queries.shape[0], device=queries.device))


def benchmark(quick: bool) -> Benchmark:
    return two_sided(quick, _ours, _by_hand, peers={"pytorch-metric-learning": _pml})


_nt_xent = metric_learning("NTXentLoss", 0.1)


def _pml(queries: Tensor, keys: Tensor) -> Tensor:
    """NTXentLoss with the keys for references; of labels that are the same tensor it would leave out the diagonal."""
    numbers = torch.arange(queries.shape[0], device=queries.device)
    return _nt_xent(queries, numbers, ref_emb=keys, ref_labels=numbers.clone())
