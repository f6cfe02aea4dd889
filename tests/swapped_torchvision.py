"""handgrad's functions in the place of torchvision's, for tests that ask of ours what torchvision asks of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import handgrad
from handgrad.testing import reseeded

torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
ops = torchvision.ops

BOX_LOSSES = ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")
LOSSES = ("sigmoid_focal_loss", *BOX_LOSSES)
THEIRS = {name: getattr(ops, name) for name in ("nms", "batched_nms", "roi_align", "deform_conv2d", *LOSSES)}


@pytest.fixture(autouse=True)
def swapped(monkeypatch):
    """Where torchvision finds its functions, it finds ours."""
    for module in (ops, ops.boxes):
        monkeypatch.setattr(module, "nms", handgrad.boxes.nms)
        monkeypatch.setattr(module, "batched_nms", handgrad.boxes.batched_nms)
    for module in (ops, ops.poolers):
        monkeypatch.setattr(module, "roi_align", handgrad.layers.roi_align)
    for name in ("RoIAlign", "deform_conv2d", "DeformConv2d"):
        monkeypatch.setattr(ops, name, getattr(handgrad.layers, name))
    for name in LOSSES:
        monkeypatch.setattr(ops, name, getattr(handgrad.losses, name))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed)).to(dtype)
