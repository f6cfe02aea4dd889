"""Filter response normalisation with its thresholds, beside timm's module."""

from __future__ import annotations

from benchmarks import norms
from handgrad.benchmarking import Benchmark, compiled
from handgrad.layers import filter_response_norm


def benchmark(quick: bool) -> Benchmark:
    timm = norms.of_module("timm.layers.filter_response_norm", "FilterResponseNormTlu2d", ("weight", "bias", "tau"))
    peers = {"timm": timm, "timm, torch.compile": compiled(timm)}
    # In bfloat16 a value that is rounded to its threshold, or before it is compared with that, has another gradient.
    return norms.benchmark(quick, filter_response_norm, peers, 3, tolerance=1e-3, half=False)
