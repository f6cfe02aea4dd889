"""How good detections are: average precision as COCO defines it, by pycocotools, and what is right at one threshold."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import box_iou

from .data import Photo, area

# COCO looks at 100 detections of a photo; here are more things than that on one.
_MOST = 1000


def average_precision(
    photos: Sequence[Photo], detections: Sequence[dict[str, Tensor]], classes: int
) -> dict[str, float]:
    """Mean over the classes at an overlap (IoU) of 0.5, of 0.75, and over 0.5, 0.55, …, 0.95."""
    truth: dict[str, Any] = {
        "images": [{"id": i, "height": p.pixels.shape[1], "width": p.pixels.shape[2]} for i, p in enumerate(photos)],
        "categories": [{"id": 1 + c} for c in range(classes)],
        "annotations": [],
    }
    for i, photo in enumerate(photos):
        for box, label, size in zip(
            _as_coco(photo.boxes), photo.labels.tolist(), area(photo.boxes).tolist(), strict=True
        ):
            number = 1 + len(truth["annotations"])
            truth["annotations"].append(
                {"id": number, "image_id": i, "category_id": label, "bbox": box, "area": size, "iscrowd": 0}
            )
    found = [
        {"image_id": i, "category_id": label, "bbox": box, "score": score}
        for i, answer in enumerate(detections)
        for box, label, score in zip(
            _as_coco(answer["boxes"]), answer["labels"].tolist(), answer["scores"].tolist(), strict=True
        )
    ]
    if not found:
        return {"0.5": 0.0, "0.75": 0.0, "0.5 to 0.95": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells on stdout what it does
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.params.maxDets = [_MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    # (overlaps, recalls, classes, sizes, most detections); -1 where a class has nothing to find
    precision = evaluation.eval["precision"][:, :, :, 0, 0]

    def mean(of: np.ndarray) -> float:
        return float(of[of >= 0].mean()) if (of >= 0).any() else 0.0

    return {"0.5": mean(precision[0]), "0.75": mean(precision[5]), "0.5 to 0.95": mean(precision)}


def _as_coco(boxes: Tensor) -> list[list[float]]:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


@dataclass(frozen=True)
class Matched:
    """Detections above a threshold against the truth, each box matched once, best scores first."""

    right: Tensor  #: boxes of detections that fit one of the truth
    wrong: Tensor  #: boxes of detections that do not
    missed: Tensor  #: boxes of the truth that nothing fits

    @property
    def precision(self) -> float:
        return len(self.right) / max(1, len(self.right) + len(self.wrong))

    @property
    def recall(self) -> float:
        return len(self.right) / max(1, len(self.right) + len(self.missed))


def joined(matches: Sequence[Matched]) -> Matched:
    """What was matched on several photos, as if they were one."""
    return Matched(*(torch.cat([getattr(m, part) for m in matches]) for part in ("right", "wrong", "missed")))


def match(photo: Photo, answer: dict[str, Tensor], threshold: float, overlap: float = 0.5) -> Matched:
    shown = answer["scores"] >= threshold
    boxes, labels = answer["boxes"][shown], answer["labels"][shown]
    overlaps = box_iou(boxes, photo.boxes) * (labels[:, None] == photo.labels)
    free = torch.ones(len(photo.boxes), dtype=torch.bool)
    right = torch.zeros(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        best = torch.where(free, overlaps[i], 0.0)
        if len(best) and best.max() >= overlap:
            right[i] = True
            free[best.argmax()] = False
    return Matched(boxes[right], boxes[~right], photo.boxes[free])
