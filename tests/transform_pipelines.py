"""torchvision's pipelines beside handgrad's: pictures, and the same seed for both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree

from transform_images import levels

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# Elsewhere torchvision resizes levels by way of float32, and there is nothing to be equal to.
native_levels = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torchvision resizes levels in float32"
)


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Any:
    """One of Pillow's."""
    from PIL import Image

    channels = len(Image.new(mode, (1, 1)).getbands())
    data = levels(height, width, channels, seed=seed).numpy().tobytes()
    return Image.frombytes(mode, (width, height), data)


def seeded(pipeline: Any, *inputs: Any, seed: int) -> Any:
    """What a pipeline makes, and the next number of the generator: how many it has taken."""
    import random

    import numpy as np

    np.random.seed(seed)
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    return pipeline(*inputs), torch.rand(1).item(), random.random()


def assert_same(found: Any, expected: Any, where: str = "", **tolerance: float) -> None:
    """The same types, the same numbers, to the bit if no tolerance is given."""
    left, structure = _pytree.tree_flatten(found)
    right, wanted = _pytree.tree_flatten(expected)
    assert structure == wanted, where
    for one, other in zip(left, right, strict=True):
        assert type(one) is type(other), where
        if hasattr(one, "getbands"):
            assert (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes()), where
        elif isinstance(one, torch.Tensor) and tolerance:
            torch.testing.assert_close(one, other, **tolerance)
        elif isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype, where
            assert torch.equal(one, other), where
            assert vars(one) == vars(other), where
        else:
            assert one == other, where


def assert_same_for_seeds(ours: Any, theirs: Any, *inputs: Any, seeds: range, **tolerance: float) -> None:
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            found, *numbers = seeded(ours, *inputs, seed=seed)
            expected, *next_numbers = seeded(theirs, *inputs, seed=seed)
            assert_same(found, expected, f"seed {seed}", **tolerance)
            assert numbers == next_numbers, f"seed {seed}: other draws"
