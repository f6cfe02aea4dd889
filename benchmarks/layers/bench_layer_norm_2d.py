"""Layer normalisation over channels, beside F.layer_norm between two permutations, which timm's and torchvision's
modules are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from benchmarks import norms
from handgrad.benchmarking import Benchmark, compiled
from handgrad.layers import layer_norm_2d

_eager = norms.permuted(F.layer_norm)


def _by_hand(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ConvNeXt's own ``LayerNorm(data_format="channels_first")``."""
    rest = input - input.mean(1, keepdim=True)
    output = rest / (rest.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    return weight[:, None, None] * output + bias[:, None, None]


def benchmark(quick: bool) -> Benchmark:
    peers = {
        "torch, permuted": _eager,
        "torch, permuted, torch.compile": compiled(_eager),
        "timm": norms.of_module("timm.layers", "LayerNorm2d", ("weight", "bias"), eps=1e-6),
        "torchvision": norms.of_module("torchvision.models.convnext", "LayerNorm2d", ("weight", "bias"), eps=1e-6),
        "ConvNeXt, by hand": _by_hand,
        "ConvNeXt, by hand, torch.compile": compiled(_by_hand),
    }
    return norms.benchmark(quick, layer_norm_2d, peers, 2)
