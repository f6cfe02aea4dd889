"""Local normalised cross-correlation: a volume and an image, beside MONAI's, eager and compiled."""

from __future__ import annotations

from torch import Tensor

from benchmarks.window_scores import case, peer_of
from handgrad.benchmarking import Benchmark, compiled
from handgrad.losses import local_normalized_cross_correlation_loss


def ours(input: Tensor, target: Tensor) -> Tensor:
    return local_normalized_cross_correlation_loss(input, target, 9)


def benchmark(quick: bool) -> Benchmark:
    side, depth = (24, 13) if quick else (256, 96)
    cases = []
    for name, shape in ((f"1 x 1 x {depth}³", (1, 1, depth, depth, depth)), (f"8 x 1 x {side}²", (8, 1, side, side))):
        monai = peer_of("monai.losses", "LocalNormalizedCrossCorrelationLoss", len(shape) - 2, kernel_size=9, made=True)
        peers = {"MONAI": monai, "MONAI, torch.compile": compiled(monai)}
        cases.append(case(f"{name} float32", shape, ours, peers))
    return Benchmark(op="local_normalized_cross_correlation_loss", cases=cases)
