"""Generalized IoU loss: its spec, and what is peculiar to it."""

import torch

from box_losses import box_loss_spec, boxes, pairs
from handgrad.losses import GeneralizedBoxIoULoss, generalized_box_iou_loss
from handgrad.losses.generalized_box_iou_loss import generalized_box_iou_loss_reference
from handgrad.testing import matrix


def two_thirds_for_half_a_box():
    """Two squares, of which each covers half of the other: 1/3 of the union, which is all of the enclosing box."""
    first, second = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])
    torch.testing.assert_close(generalized_box_iou_loss(first, second), torch.tensor(2 / 3))


def nested_boxes_have_the_iou_loss():
    """The enclosing box is the union."""
    outer = boxes(50)
    centre, quarter = (outer[:, :2] + outer[:, 2:]) / 2, (outer[:, 2:] - outer[:, :2]) / 4
    inner = torch.cat([centre - quarter, centre + quarter], 1)
    torch.testing.assert_close(generalized_box_iou_loss(outer, inner), torch.full((50,), 0.75, dtype=torch.float64))


def scale_does_not_matter():
    first, second = pairs(50)
    expected = generalized_box_iou_loss(first, second, eps=0)
    torch.testing.assert_close(generalized_box_iou_loss(1e3 * first, 1e3 * second, eps=0), expected)


SPEC = box_loss_spec(
    generalized_box_iou_loss,
    GeneralizedBoxIoULoss,
    generalized_box_iou_loss_reference,
    {"half": two_thirds_for_half_a_box, "nested": nested_boxes_have_the_iou_loss, "scale": scale_does_not_matter},
)

test_matrix = matrix(SPEC)
