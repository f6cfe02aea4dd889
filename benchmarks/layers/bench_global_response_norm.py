"""Global response normalisation, beside timm's module. Of 384 channels, four times a first stage's 96: where ConvNeXt
V2 has it."""

from __future__ import annotations

from benchmarks import norms
from handgrad.benchmarking import Benchmark, compiled
from handgrad.layers import global_response_norm


def benchmark(quick: bool) -> Benchmark:
    timm = norms.of_module("timm.layers.grn", "GlobalResponseNorm", ("weight", "bias"), channels_last=False)
    peers = {"timm": timm, "timm, torch.compile": compiled(timm)}
    return norms.benchmark(quick, global_response_norm, peers, 2, 384, tolerance=1e-3, half_tolerance=1e-1)
