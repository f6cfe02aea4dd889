"""torchvision beside the ops."""

import pytest


@pytest.fixture
def functional():
    pytest.importorskip("torchvision")
    from torchvision.transforms.v2 import functional

    return functional
