"""The detectors, for things of 10 to 100 pixels: Faster R-CNN on MobileNetV2, or a head of deformable attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

import handgrad
from handgrad import transfer
from shared.weights import fill_mobilenet

from .attention import DeformableDetector
from .data import Photo, cut, tiles

#: What torchvision's detectors call in the middle of their methods, and ours.
OURS: dict[Callable[..., Any], Callable[..., Any]] = {
    torchvision.ops.roi_align: handgrad.layers.roi_align,
    torchvision.ops.batched_nms: handgrad.boxes.batched_nms,
}

# MobileNetV2's last layers at strides 8, 16 and 32, with their channels; and sides of the boxes to begin from at each,
# and at the pooled level that the pyramid adds.
_LEVELS = {"6": 32, "13": 96, "18": 1280}
_SIDES = ((16, 24), (36, 52), (76, 110), (160, 230))
_WIDTH = 64  # channels of the pyramid
_FREEZE_UNTIL = "4"  # the layers before see edges


#: With their learning rates, of SGD and of AdamW, and the scores from which detections count: a focal loss makes for
#: lower ones than cross entropy.
HEADS = {"faster-rcnn": (0.02, 0.5), "deformable-detr": (0.001, 0.3)}


def build(head: str, classes: int, size: int, weights: str, cache: Path, seed: int) -> tuple[nn.Module, str]:
    """A detector for views of ``size`` pixels, and what was done. Equal arguments give equal numbers."""
    torch.manual_seed(seed)
    network = torchvision.models.mobilenet_v2(weights=None)
    said = "random"
    if weights == "package":
        said = fill_mobilenet(network, cache)
        transfer.freeze(network.features, _FREEZE_UNTIL)
    levels = [str(k) for k in range(len(_LEVELS))]
    backbone = BackboneWithFPN(
        network.features, dict(zip(_LEVELS, levels, strict=True)), list(_LEVELS.values()), _WIDTH
    )
    if head == "deformable-detr":
        return DeformableDetector(backbone, _WIDTH, classes), said
    model = FasterRCNN(
        backbone,
        # Views come in the size that the detector works at; every pixel counts.
        min_size=size,
        max_size=size,
        rpn_anchor_generator=AnchorGenerator(_SIDES, ((1.0,),) * len(_SIDES)),
        rpn_batch_size_per_image=128,
        rpn_post_nms_top_n_train=500,
        rpn_post_nms_top_n_test=500,
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(_WIDTH * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, 1 + classes),
        box_batch_size_per_image=128,
        box_nms_thresh=0.4,
        box_detections_per_img=300,
    )
    return model, said


def train_mode(model: nn.Module) -> None:
    """model.train(), with the statistics of ImageNet: a few views are too few for their own."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@torch.no_grad()
def detect(model: nn.Module, photo: Photo, side: int, batch: int = 4) -> dict[str, Tensor]:
    """Detections on a whole photo, tile by tile: ``boxes``, ``scores``, ``labels``, by descending score."""
    model.eval()
    height, width = photo.pixels.shape[1:]
    places = tiles(photo, side)
    found: dict[str, list[Tensor]] = {"boxes": [], "scores": [], "labels": []}
    for begin in range(0, len(places), batch):
        some = places[begin : begin + batch]
        views = [cut(photo, left, top, side)[0].float() / 255 for left, top in some]
        for (left, top), answer in zip(some, model(views), strict=True):
            boxes = answer["boxes"]
            # What a tile's inner edge cuts off, its neighbour sees whole.
            edges = torch.tensor([left > 0, top > 0, left + side < width, top + side < height])
            at_edge = torch.stack([boxes[:, 0] < 2, boxes[:, 1] < 2, boxes[:, 2] > side - 2, boxes[:, 3] > side - 2], 1)
            whole = ~(at_edge & edges).any(1)
            found["boxes"].append(boxes[whole] + torch.tensor([left, top, left, top]))
            found["scores"].append(answer["scores"][whole])
            found["labels"].append(answer["labels"][whole])
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    # Neighbours that share a part of the photo find the same thing twice.
    keep = handgrad.boxes.batched_nms(joined["boxes"], joined["scores"], joined["labels"], 0.4)
    return {name: values[keep] for name, values in joined.items()}


def views_of(photos: Sequence[Photo], side: int, count: int) -> list[Tensor]:
    """The first ``count`` tiles, to compare detectors on."""
    places = [(photo, left, top) for photo in photos for left, top in tiles(photo, side)]
    return [cut(photo, left, top, side)[0].float() / 255 for photo, left, top in places[:count]]
