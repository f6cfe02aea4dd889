"""Efficient IoU loss: its spec, and what is peculiar to it."""

import torch

from box_losses import box_loss_spec, pairs
from handgrad.losses import EfficientBoxIoULoss, distance_box_iou_loss, efficient_box_iou_loss
from handgrad.losses.efficient_box_iou_loss import efficient_box_iou_loss_reference
from handgrad.testing import matrix


def one_size_has_the_distance_iou_loss():
    first, _ = pairs(50)
    second = first + torch.tensor([3.0, -4.0, 3.0, -4.0], dtype=torch.float64)
    torch.testing.assert_close(efficient_box_iou_loss(first, second), distance_box_iou_loss(first, second))


def one_centre_and_half_the_size():
    """AlexeyAB/darknet#7596: one aspect ratio, for which CIoU has no more than the IoU. A quarter of each square."""
    outer, inner = torch.tensor([0.0, 0, 8, 4]), torch.tensor([2.0, 1, 6, 3])
    torch.testing.assert_close(efficient_box_iou_loss(outer, inner), torch.tensor(0.75 + 0.25 + 0.25))


def scale_does_not_matter():
    first, second = pairs(50)
    expected = efficient_box_iou_loss(first, second, eps=0)
    torch.testing.assert_close(efficient_box_iou_loss(1e3 * first, 1e3 * second, eps=0), expected)


SPEC = box_loss_spec(
    efficient_box_iou_loss,
    EfficientBoxIoULoss,
    efficient_box_iou_loss_reference,
    {"size": one_size_has_the_distance_iou_loss, "half": one_centre_and_half_the_size, "scale": scale_does_not_matter},
)

test_matrix = matrix(SPEC)
