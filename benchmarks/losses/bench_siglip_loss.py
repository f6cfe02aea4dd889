"""The loss of SigLIP: 8,192 images and texts with a learnt scale and bias, beside plain PyTorch and open_clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairwise_losses import open_clip, two_sided
from handgrad.benchmarking import Benchmark
from handgrad.losses import siglip_loss


def _ours(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return siglip_loss(images, texts, scale, bias, normalize=False)


_ours.__name__ = "siglip_loss"


def _by_hand(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * images @ texts.T + bias
    signs = 2 * torch.eye(images.shape[0], device=images.device) - 1
    return -F.logsigmoid(signs * logits).sum() / images.shape[0]


def benchmark(quick: bool) -> Benchmark:
    return two_sided(quick, _ours, _by_hand, 10.0, -10.0, peers={"open_clip": open_clip("SigLipLoss")})
