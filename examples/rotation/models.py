"""The detector: one stage, without anchors, on MobileNetV2. Each position of its map may tell of a thing."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from handgrad import transfer
from handgrad.boxes import rotated_nms
from handgrad.layers import LayerNorm2d
from handgrad.losses import rotated_box_iou_loss, sigmoid_focal_loss
from shared.weights import fill_mobilenet

STRIDE = 8
_SCALE = 32.0  # the side of the box that a position begins with, in pixels
_WIDTH = 64
_FREEZE_UNTIL = "4"  # the layers before see edges
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Detector(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        features = torchvision.models.mobilenet_v2(weights=None).features
        # At strides 8 and 16, as many channels as MobileNetV2 has there.
        self.fine, self.coarse = features[:7], features[7:14]
        self.from_fine, self.from_coarse = nn.Conv2d(32, _WIDTH, 1), nn.Conv2d(96, _WIDTH, 1)
        self.tower = nn.Sequential(*(layer for _ in range(2) for layer in _block()))
        self.classes = nn.Conv2d(_WIDTH, classes, 3, padding=1)
        # Where the centre is, the logarithms of both sides, and an angle whose double is that of a vector.
        self.boxes = nn.Conv2d(_WIDTH, 6, 3, padding=1)
        # A hundredth of all positions has a thing: Lin et al., Focal Loss, 2017, section 4.1.
        nn.init.constant_(self.classes.get_parameter("bias"), -4.6)
        nn.init.normal_(self.boxes.weight, std=0.01)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (N, 3, H, W) from 0 to 1: logits (N, P, classes) and boxes (N, P, 5) of their P positions."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        fine = self.fine((images - mean) / std)
        coarse = F.interpolate(self.from_coarse(self.coarse(fine)), size=fine.shape[2:], mode="nearest")
        found = self.tower(self.from_fine(fine) + coarse)
        logits = self.classes(found).flatten(2).transpose(1, 2)
        numbers = self.boxes(found).flatten(2).transpose(1, 2)
        centres = positions(*fine.shape[2:]) + numbers[..., :2] * STRIDE
        sides = _SCALE * numbers[..., 2:4].clamp(-4, 4).exp()
        # Half the angle of the vector: a rectangle that is turned by 180 degrees is the same.
        degrees = torch.rad2deg(torch.atan2(numbers[..., 4], numbers[..., 5] + 1) / 2)
        return logits, torch.cat([centres, sides, degrees[..., None]], -1)


def _block() -> tuple[nn.Module, ...]:
    return nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), LayerNorm2d(_WIDTH), nn.ReLU()


def build(classes: int, weights: str, cache: Path, seed: int) -> tuple[Detector, str]:
    """A detector, and where its weights are from. Equal arguments give equal numbers."""
    torch.manual_seed(seed)
    model = Detector(classes)
    said = "random"
    if weights == "package":
        network = torchvision.models.mobilenet_v2(weights=None)
        said = fill_mobilenet(network, cache)
        model.fine.load_state_dict(network.features[:7].state_dict())
        model.coarse.load_state_dict(network.features[7:14].state_dict())
        transfer.freeze(model.fine, _FREEZE_UNTIL)
    return model, said


def train_mode(model: Detector) -> None:
    """model.train(), with the statistics of ImageNet: a few scenes are too few for their own."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def positions(rows: int, columns: int) -> Tensor:
    """(rows * columns, 2): x and y of the map's positions, in pixels of the image."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * STRIDE


def assign(boxes: Tensor, points: Tensor) -> Tensor:
    """(P,): the thing of each point, -1 for none. A thing has the points in the middle half of its box, and the one
    that is nearest to its centre."""
    if not len(boxes):
        return points.new_full((len(points),), -1, dtype=torch.int64)
    offsets = points[:, None] - boxes[:, :2]
    turn = boxes[:, 4].deg2rad()
    across = offsets[..., 0] * turn.cos() - offsets[..., 1] * turn.sin()
    down = offsets[..., 1] * turn.cos() + offsets[..., 0] * turn.sin()
    middle = (across.abs() <= boxes[:, 2] / 4) & (down.abs() <= boxes[:, 3] / 4)
    distances = offsets.square().sum(-1)
    middle[distances.argmin(0), torch.arange(len(boxes))] = True
    # Of two things, the nearer one.
    nearest = torch.where(middle, distances, torch.inf).min(1)
    return torch.where(nearest.values.isfinite(), nearest.indices, -1)


def losses(
    answer: tuple[Tensor, Tensor], truth: list[tuple[Tensor, Tensor]], points: Tensor, box_loss: str
) -> dict[str, Tensor]:
    """Of the classes, by focal loss, and of the boxes, by 1 minus their (generalized) IoU; per point of a thing."""
    logits, boxes = answer
    targets = torch.zeros_like(logits)
    found, wanted = [], []
    for image, (things, labels) in enumerate(truth):
        thing = assign(things, points)
        (owners,) = (thing >= 0).nonzero(as_tuple=True)
        targets[image, owners, labels[thing[owners]] - 1] = 1
        found.append(boxes[image, owners])
        wanted.append(things[thing[owners]])
    count = max(1, sum(map(len, found)))
    return {
        "classes": sigmoid_focal_loss(logits, targets, reduction="sum") / count,
        "boxes": rotated_box_iou_loss(torch.cat(found), torch.cat(wanted), box_loss, reduction="sum") / count,
    }


@torch.no_grad()
def detect(model: Detector, images: Tensor, most: int = 200) -> list[dict[str, Tensor]]:
    """Detections on each image: ``boxes``, ``scores``, ``labels``, by decreasing score."""
    model.eval()
    answers = []
    for logits, boxes in zip(*model(images), strict=True):
        scores, labels = logits.sigmoid().max(1)
        (likely,) = (scores > 0.02).nonzero(as_tuple=True)
        likely = likely[rotated_nms(boxes[likely], scores[likely], 0.3)[:most]]
        answers.append({"boxes": boxes[likely], "scores": scores[likely], "labels": 1 + labels[likely]})
    return answers
