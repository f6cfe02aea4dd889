"""handgrad's functions in the place of torchvision's, for tests that ask of ours what torchvision asks of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import handgrad
from handgrad import transfer
from handgrad.testing import reseeded

torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
ops = torchvision.ops

BOX_LOSSES = ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")
LOSSES = ("sigmoid_focal_loss", *BOX_LOSSES)
POOLS = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
THEIRS = {name: getattr(ops, name) for name in ("nms", "batched_nms", "deform_conv2d", *POOLS, *LOSSES)}


@pytest.fixture(autouse=True)
def swapped(monkeypatch):
    """Where torchvision finds its functions, it finds ours, and whoever asks it for its layers too."""
    for name in ("RoIAlign", "RoIPool", "PSRoIAlign", "PSRoIPool", "DeformConv2d"):
        monkeypatch.setattr(ops, name, getattr(handgrad.layers, name))
    with transfer.accelerate("torchvision.ops") as accelerated:
        assert {f"torchvision.ops.{name}" for name in THEIRS} <= set(accelerated.functions)
        yield accelerated


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed)).to(dtype)
