"""Root mean square normalisation over channels, beside F.rms_norm between two permutations and timm's module."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from benchmarks import norms
from handgrad.benchmarking import Benchmark, compiled
from handgrad.layers import rms_norm_2d

_eager = norms.permuted(F.rms_norm)


def _timm(input: Tensor, weight: Tensor) -> Tensor:
    from timm.layers.fast_norm import rms_norm2d

    output: Tensor = rms_norm2d(input, [input.shape[1]], weight, 1e-6)
    return output


def benchmark(quick: bool) -> Benchmark:
    peers = {
        "torch, permuted": _eager,
        "torch, permuted, torch.compile": compiled(_eager),
        "timm": _timm,
        "timm, torch.compile": compiled(_timm),
    }
    # torch sums the gradients of bfloat16 weights in their own type.
    return norms.benchmark(quick, rms_norm_2d, peers, 1, half_tolerance=5e-2)
