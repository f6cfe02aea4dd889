"""Distance IoU loss: its spec, and what is peculiar to it."""

import torch

from box_losses import box_loss_spec, pairs
from handgrad.losses import DistanceBoxIoULoss, distance_box_iou_loss
from handgrad.losses.distance_box_iou_loss import distance_box_iou_loss_reference
from handgrad.testing import matrix


def one_centre_has_the_iou_loss():
    outer, inner = torch.tensor([0.0, 0, 8, 4]), torch.tensor([2.0, 1, 6, 3])
    torch.testing.assert_close(distance_box_iou_loss(outer, inner), torch.tensor(0.75))


def far_apart_it_tends_to_two():
    """The centres are then as far from each other as the corners of the enclosing box."""
    first, second = pairs(50)
    torch.testing.assert_close(distance_box_iou_loss(first, second + 1e9), torch.full((50,), 2.0, dtype=torch.float64))


def scale_does_not_matter():
    first, second = pairs(50)
    expected = distance_box_iou_loss(first, second, eps=0)
    torch.testing.assert_close(distance_box_iou_loss(1e3 * first, 1e3 * second, eps=0), expected)


SPEC = box_loss_spec(
    distance_box_iou_loss,
    DistanceBoxIoULoss,
    distance_box_iou_loss_reference,
    {"centre": one_centre_has_the_iou_loss, "far": far_apart_it_tends_to_two, "scale": scale_does_not_matter},
)

test_matrix = matrix(SPEC)
