"""How good detections are: average precision as COCO defines it, by pycocotools, and what is right at one threshold.
Boxes of every kind, whose overlaps a function tells."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

# COCO looks at 100 detections of a photo; here are more things than that on one.
_MOST = 1000

#: From the boxes of N detections and of M things to their overlaps (IoU), (N, M).
Overlaps = Callable[[Tensor, Tensor], Tensor]


class Truth(Protocol):
    """A photo with boxes around things."""

    @property
    def boxes(self) -> Tensor:
        """(M, numbers of a box)"""

    @property
    def labels(self) -> Tensor:
        """(M,), from 1 on"""


def average_precision(
    photos: Sequence[Truth], detections: Sequence[dict[str, Tensor]], classes: int, overlaps: Overlaps
) -> dict[str, float]:
    """Mean over the classes at an overlap (IoU) of 0.5, of 0.75, and over 0.5, 0.55, …, 0.95."""
    truth: dict[str, Any] = {
        "images": [{"id": i} for i in range(len(photos))],
        "categories": [{"id": 1 + c} for c in range(classes)],
        "annotations": [],
    }
    # COCO's boxes are upright: here they say only which of a photo's boxes is meant, and have an area of one.
    for i, photo in enumerate(photos):
        for index, label in enumerate(photo.labels.tolist()):
            number = 1 + len(truth["annotations"])
            truth["annotations"].append(
                {"id": number, "image_id": i, "category_id": label, "bbox": [index, 0, 1, 1], "area": 1, "iscrowd": 0}
            )
    found = [
        {"image_id": i, "category_id": label, "bbox": [index, 0, 1, 1], "score": score}
        for i, answer in enumerate(detections)
        for index, (label, score) in enumerate(zip(answer["labels"].tolist(), answer["scores"].tolist(), strict=True))
    ]
    if not found:
        return {"0.5": 0.0, "0.75": 0.0, "0.5 to 0.95": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells on stdout what it does
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = _Evaluation(coco, coco.loadRes(found), "bbox")
        evaluation.between = [overlaps(a["boxes"], p.boxes) for a, p in zip(detections, photos, strict=True)]
        evaluation.params.maxDets = [_MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    # (overlaps, recalls, classes, sizes, most detections); -1 where a class has nothing to find
    precision = evaluation.eval["precision"][:, :, :, 0, 0]

    def mean(of: np.ndarray) -> float:
        return float(of[of >= 0].mean()) if (of >= 0).any() else 0.0

    return {"0.5": mean(precision[0]), "0.75": mean(precision[5]), "0.5 to 0.95": mean(precision)}


class _Evaluation(COCOeval):
    """COCO's, whose overlaps are given: ``between[i]`` has a row for each detection on photo ``i``."""

    between: Sequence[Tensor]

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803  # COCO's name
        found, truth = self._dts[imgId, catId], self._gts[imgId, catId]
        if not found or not truth:
            return []
        # As COCO's own method: by decreasing scores.
        order = np.argsort([-d["score"] for d in found], kind="mergesort")[: self.params.maxDets[-1]]
        rows = [int(found[k]["bbox"][0]) for k in order]
        columns = [int(t["bbox"][0]) for t in truth]
        return self.between[imgId][rows][:, columns].double().numpy()


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


def match(
    photo: Truth, answer: dict[str, Tensor], threshold: float, overlaps: Overlaps, overlap: float = 0.5
) -> Matched:
    shown = answer["scores"] >= threshold
    boxes, labels = answer["boxes"][shown], answer["labels"][shown]
    between = overlaps(boxes, photo.boxes) * (labels[:, None] == photo.labels)
    free = torch.ones(len(photo.boxes), dtype=torch.bool)
    right = torch.zeros(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        best = torch.where(free, between[i], 0.0)
        if len(best) and best.max() >= overlap:
            right[i] = True
            free[best.argmax()] = False
    return Matched(boxes[right], boxes[~right], photo.boxes[free])


def measure(
    photos: Sequence[Truth],
    answers: Sequence[dict[str, Tensor]],
    classes: int,
    threshold: float,
    overlaps: Overlaps,
) -> tuple[dict[str, float], list[Matched]]:
    """Average precisions, and precision and recall of the detections above ``threshold``; and what was matched."""
    matches = [match(photo, answer, threshold, overlaps) for photo, answer in zip(photos, answers, strict=True)]
    precision = average_precision(photos, answers, classes, overlaps)
    matched = joined(matches)
    measured = {f"AP {overlap}": value for overlap, value in precision.items()}
    return measured | {"precision": matched.precision, "recall": matched.recall}, matches
