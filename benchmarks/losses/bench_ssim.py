"""Structural similarity: photographs, beside pytorch-msssim's, eager and compiled, kornia's and MONAI's; a volume."""

from __future__ import annotations

from torch import Tensor

from benchmarks.window_scores import case, peer_of
from handgrad.benchmarking import Benchmark, compiled
from handgrad.losses import ssim_loss


def ours(input: Tensor, target: Tensor) -> Tensor:
    return ssim_loss(input, target, 1.0)


_theirs = peer_of("pytorch_msssim", "ssim", data_range=1.0)
_kornia = peer_of("kornia.metrics", "ssim", 11, padding="valid")


def msssim(input: Tensor, target: Tensor) -> Tensor:
    return 1 - _theirs(input, target)


def kornia(input: Tensor, target: Tensor) -> Tensor:
    return 1 - _kornia(input, target).mean()


def benchmark(quick: bool) -> Benchmark:
    side, depth = (24, 13) if quick else (256, 96)
    peers = {"pytorch-msssim": msssim, "pytorch-msssim, torch.compile": compiled(msssim)}
    return Benchmark(
        op="ssim",
        cases=[
            case(f"4 x 3 x {side}² float32", (4, 3, side, side), ours, {**peers, "kornia": kornia}),
            case(f"1 x 1 x {depth}³ float32", (1, 1, depth, depth, depth), ours, peers),
        ],
    )
