"""Multi-scale structural similarity: photographs, beside pytorch-msssim's, eager and compiled."""

from __future__ import annotations

from torch import Tensor

from benchmarks.window_scores import case, peer_of
from handgrad.benchmarking import Benchmark, compiled
from handgrad.losses import ms_ssim_loss


def ours(input: Tensor, target: Tensor) -> Tensor:
    return ms_ssim_loss(input, target, 1.0)


_theirs = peer_of("pytorch_msssim", "ms_ssim", data_range=1.0)


def msssim(input: Tensor, target: Tensor) -> Tensor:
    return 1 - _theirs(input, target)


def benchmark(quick: bool) -> Benchmark:
    side = 176 if quick else 256
    batch = 1 if quick else 4
    peers = {"pytorch-msssim": msssim, "pytorch-msssim, torch.compile": compiled(msssim)}
    return Benchmark(
        op="ms_ssim", cases=[case(f"{batch} x 3 x {side}² float32", (batch, 3, side, side), ours, dict(peers))]
    )
