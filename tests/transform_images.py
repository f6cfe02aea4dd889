"""What the tests of transforms that are ops have in common: images, and what is asked of them."""

import pytest
import torch

from handgrad.testing import reseeded

NO_DERIVATIVES = "images of integers have no derivatives"

# torch's kernels of images take products and sums as one step, where the processor has such.
needs_fma = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch rounds its samples otherwise"
)


def levels(*shape, seed=0, low=0, high=256):
    return torch.randint(low, high, shape, dtype=torch.uint8, generator=reseeded(seed))


def is_level_image(value):
    return isinstance(value, torch.Tensor) and value.dtype is torch.uint8


def is_number_image(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()
