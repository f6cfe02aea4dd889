"""The loss of CLIP: 8,192 images and texts with a learnt scale, beside two cross entropies in plain PyTorch and
open_clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairwise_losses import open_clip, two_sided
from handgrad.benchmarking import Benchmark
from handgrad.losses import clip_loss


def _ours(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    return clip_loss(images, texts, scale, normalize=False)


_ours.__name__ = "clip_loss"


def _by_hand(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    logits = scale * images @ texts.T
    numbers = torch.arange(images.shape[0], device=images.device)
    return (F.cross_entropy(logits, numbers) + F.cross_entropy(logits.T, numbers)) / 2


def benchmark(quick: bool) -> Benchmark:
    return two_sided(quick, _ours, _by_hand, 14.0, peers={"open_clip": open_clip("ClipLoss")})
