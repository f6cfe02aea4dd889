"""Layer normalisation over channels, beside F.layer_norm between two permutations, which timm's and torchvision's
modules are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import channel_norms
from handgrad.benchmarking import Benchmark, compiled
from handgrad.layers import layer_norm_2d

_eager = channel_norms.permuted(F.layer_norm)


def _by_hand(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ConvNeXt's own ``LayerNorm(data_format="channels_first")``."""
    rest = input - input.mean(1, keepdim=True)
    output = rest / (rest.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    return weight[:, None, None] * output + bias[:, None, None]


@cache
def _module(path: str, channels: int) -> nn.Module:
    module: nn.Module = importlib.import_module(path).LayerNorm2d(channels, eps=1e-6)
    return module


def _of(path: str) -> Callable[..., Tensor]:
    def call(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        output: Tensor = torch.func.functional_call(_module(path, input.shape[1]), parameters, (input,))
        return output

    return call


def benchmark(quick: bool) -> Benchmark:
    peers = {
        "torch, permuted": _eager,
        "torch, permuted, torch.compile": compiled(_eager),
        "timm": _of("timm.layers"),
        "torchvision": _of("torchvision.models.convnext"),
        "ConvNeXt, by hand": _by_hand,
        "ConvNeXt, by hand, torch.compile": compiled(_by_hand),
    }
    return channel_norms.benchmark(quick, layer_norm_2d, peers, 2)
