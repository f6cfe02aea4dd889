"""A detector with a head as in Deformable DETR (Zhu et al., 2021), two-stage, whose attention is handgrad's. It is
called as torchvision's detectors are, and is small enough to learn from three photos."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from handgrad.boxes import generalized_box_iou
from handgrad.layers import MultiScaleDeformableAttention
from handgrad.losses import generalized_box_iou_loss, sigmoid_focal_loss

# What a mistake costs when answers are matched with things, and what is learnt from (section 4 of the paper).
_CLASS, _CORNERS, _OVERLAP = 2.0, 5.0, 2.0
# The first stage may tell of a thing from as many positions: more to learn from in a short time (H-DETR, 2023).
_REPEATS = 4
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDES = (0.07, 0.12, 0.22)  # of the boxes that positions begin from at each level, as parts of a view


class DeformableDetector(nn.Module):
    """``backbone`` makes of images a dictionary of maps, each of ``width`` channels; the finest three are used.

    In training ``model(images, targets)`` returns a dictionary of losses, otherwise ``model(images)`` a list of
    dictionaries with ``boxes``, ``scores`` and ``labels``."""

    def __init__(self, backbone: nn.Module, width: int, classes: int, queries: int = 150, heads: int = 4) -> None:
        super().__init__()
        levels = len(_SIDES)
        self.backbone = backbone
        self.queries = queries
        self.of_level = nn.Parameter(torch.randn(levels, width) * 0.02)
        self.encoder = _Block(width, heads, levels)
        self.proposal_classes, self.proposal_boxes = nn.Linear(width, classes), _perceptron(width, 4)
        self.decoder = nn.ModuleList(_Block(width, heads, levels, among_themselves=True) for _ in range(2))
        self.of_box = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        self.classes = nn.ModuleList(nn.Linear(width, classes) for _ in self.decoder)
        self.boxes = nn.ModuleList(_perceptron(width, 4) for _ in self.decoder)
        for linear in (self.proposal_classes, *self.classes):
            nn.init.constant_(linear.bias, -4.6)  # a hundredth of all are things

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        batch = torch.stack(images)
        size = batch.shape[-1]
        answers = self._answers(batch)
        if not self.training:
            return [_detections(logits, boxes, size) for logits, boxes in zip(*answers[-1], strict=True)]
        assert targets is not None
        truth = [(_as_centres(target["boxes"] / size), target["labels"] - 1) for target in targets]
        losses: dict[str, Tensor] = {}
        for stage, (logits, boxes) in enumerate(answers):
            repeats = _REPEATS if stage == 0 else 1
            for name, value in _losses(logits, boxes, truth, repeats).items():
                losses[f"{name}_{stage}"] = value
        return losses

    def _answers(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """After each stage: logits (N, Q, classes), and boxes (N, Q, 4): centre, width and height from 0 to 1."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        maps = list(self.backbone((images - mean) / std).values())[: len(_SIDES)]
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        memory = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        lengths = [height * width for height, width in shapes]
        place = torch.cat([row.expand(n, -1) for row, n in zip(self.of_level, lengths, strict=True)])
        start = _first_boxes(shapes).to(memory)
        place = place + self.of_box(start)
        memory = self.encoder(memory, place, start[None, :, :2], memory, shapes)
        logits = self.proposal_classes(memory)
        boxes = _moved(start, self.proposal_boxes(memory))
        answers = [(logits, boxes)]
        # The likeliest positions become queries, their boxes what these look around.
        best = logits.amax(-1).topk(min(self.queries, logits.shape[1]), dim=1).indices[..., None]
        query = memory.gather(1, best.expand(-1, -1, memory.shape[2])).detach()
        boxes = boxes.gather(1, best.expand(-1, -1, 4)).detach()
        for block, to_logits, to_boxes in zip(self.decoder, self.classes, self.boxes, strict=True):
            query = block(query, self.of_box(boxes), boxes, memory, shapes)
            moved = _moved(boxes, to_boxes(query))
            answers.append((to_logits(query), moved))
            boxes = moved.detach()
        return answers


class _Block(nn.Module):
    """Queries look at each other, if they do, then into the maps around their references, then each is transformed."""

    def __init__(self, width: int, heads: int, levels: int, among_themselves: bool = False) -> None:
        super().__init__()
        self.among = nn.MultiheadAttention(width, heads, batch_first=True) if among_themselves else None
        self.attention = MultiScaleDeformableAttention(width, heads, levels)
        self.transform = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, query: Tensor, place: Tensor, references: Tensor, memory: Tensor, shapes: list[tuple[int, int]]
    ) -> Tensor:
        if self.among is not None:
            asked = query + place
            query = self.norms[0](query + self.among(asked, asked, query, need_weights=False)[0])
        references = references[:, :, None].expand(len(query), -1, len(shapes), -1)
        query = self.norms[1](query + self.attention(query + place, references, memory, shapes))
        return self.norms[2](query + self.transform(query))


def _perceptron(width: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)


def _first_boxes(shapes: list[tuple[int, int]]) -> Tensor:
    """(positions, 4): around the middle of each position a square, larger from level to level."""
    levels = []
    for (height, width), side in zip(shapes, _SIDES, strict=True):
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        sides = torch.full_like(x, side)
        levels.append(torch.stack([x, y, sides, sides], -1).reshape(-1, 4))
    return torch.cat(levels)


def _moved(boxes: Tensor, by: Tensor) -> Tensor:
    """Boxes moved by numbers on the scale of logits, as in section A.4 of the paper."""
    return (torch.logit(boxes, eps=1e-4) + by).sigmoid()


def _as_centres(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def _as_corners(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def _losses(logits: Tensor, boxes: Tensor, truth: list[tuple[Tensor, Tensor]], repeats: int) -> dict[str, Tensor]:
    """Each thing is learnt from by the ``repeats`` answers that all together fit best; the others answer: nothing."""
    targets = torch.zeros_like(logits)
    found, wanted = [], []
    for image, (things, labels) in enumerate(truth):
        things, labels = things.repeat(repeats, 1), labels.repeat(repeats)
        rows, columns = _match(logits[image].detach(), boxes[image].detach(), things, labels)
        targets[image, rows, labels[columns]] = 1
        found.append(boxes[image, rows])
        wanted.append(things[columns])
    count = max(1, sum(map(len, found)))
    answer, thing = torch.cat(found), torch.cat(wanted)
    overlap = generalized_box_iou_loss(_as_corners(answer), _as_corners(thing), reduction="sum")
    return {
        "classes": _CLASS * sigmoid_focal_loss(logits, targets, reduction="sum") / count,
        "corners": _CORNERS * F.l1_loss(answer, thing, reduction="sum") / count,
        "overlap": _OVERLAP * overlap / count,
    }


def _match(logits: Tensor, boxes: Tensor, things: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of answers and of things, each once, such that their costs sum up to the least (Carion et al., 2020)."""
    likely = logits.sigmoid()[:, labels]
    right, wrong = -((1 - likely) ** 2) * 0.25 * (likely + 1e-8).log(), -(likely**2) * 0.75 * (1 - likely + 1e-8).log()
    cost = _CLASS * (right - wrong) + _CORNERS * torch.cdist(boxes, things, p=1)
    cost = cost - _OVERLAP * generalized_box_iou(_as_corners(boxes), _as_corners(things))
    rows, columns = linear_sum_assignment(cost.numpy())
    return torch.from_numpy(rows), torch.from_numpy(columns)


def _detections(logits: Tensor, boxes: Tensor, size: int) -> dict[str, Tensor]:
    scores, order = logits.sigmoid().flatten().sort(descending=True, stable=True)
    classes = logits.shape[1]
    boxes = (_as_corners(boxes[order // classes]) * size).clamp(0, size)
    return {"boxes": boxes, "scores": scores, "labels": 1 + order % classes}
