"""SIoU loss: its spec, and what is peculiar to it."""

import math

import torch

from box_losses import box_loss_spec, pairs, with_grads
from handgrad.losses import ScyllaBoxIoULoss, scylla_box_iou_loss
from handgrad.losses.scylla_box_iou_loss import scylla_box_iou_loss_reference
from handgrad.testing import matrix


def by_the_paper(boxes1, boxes2):
    """Equations 1 to 8 as they stand, with an arcsine."""
    (left1, top1, right1, bottom1), (left2, top2, right2, bottom2) = boxes1.unbind(-1), boxes2.unbind(-1)
    width1, height1, width2, height2 = right1 - left1, bottom1 - top1, right2 - left2, bottom2 - top2
    x, y = ((left2 + right2) - (left1 + right1)) / 2, ((top2 + bottom2) - (top1 + bottom1)) / 2
    sigma = (x**2 + y**2).sqrt()
    angle = 1 - 2 * torch.sin(torch.arcsin(y.abs() / sigma) - math.pi / 4) ** 2
    around_x = torch.maximum(right1, right2) - torch.minimum(left1, left2)
    around_y = torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)
    gamma = 2 - angle
    distance = 2 - torch.exp(-gamma * (x / around_x) ** 2) - torch.exp(-gamma * (y / around_y) ** 2)
    omega_w = (width1 - width2).abs() / torch.maximum(width1, width2)
    omega_h = (height1 - height2).abs() / torch.maximum(height1, height2)
    shape = (1 - torch.exp(-omega_w)) ** 4 + (1 - torch.exp(-omega_h)) ** 4
    wide = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    high = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    iou = wide * high / (width1 * height1 + width2 * height2 - wide * high)
    return 1 - iou + (distance + shape) / 2


def it_is_the_papers():
    first, second = pairs(200)
    torch.testing.assert_close(
        with_grads(scylla_box_iou_loss, first, second, eps=0), with_grads(by_the_paper, first, second)
    )


def one_centre_has_no_distance_cost():
    """Half the width and half the height: two shape costs of (1 - exp(-1/2))^4, of which the loss has half."""
    outer, inner = torch.tensor([0.0, 0, 8, 4]), torch.tensor([2.0, 1, 6, 3])
    torch.testing.assert_close(scylla_box_iou_loss(outer, inner), torch.tensor(0.75 + (1 - math.exp(-0.5)) ** 4))


def scale_does_not_matter():
    first, second = pairs(50)
    expected = scylla_box_iou_loss(first, second, eps=0)
    torch.testing.assert_close(scylla_box_iou_loss(1e3 * first, 1e3 * second, eps=0), expected)


SPEC = box_loss_spec(
    scylla_box_iou_loss,
    ScyllaBoxIoULoss,
    scylla_box_iou_loss_reference,
    {"paper": it_is_the_papers, "centre": one_centre_has_no_distance_cost, "scale": scale_does_not_matter},
)

test_matrix = matrix(SPEC)


def test_centres_beside_or_above_each_other_have_gradients():
    """meituan/YOLOv6#226 and #417: an arcsine has none at 1, and two boxes of one centre have no angle."""
    first = torch.tensor([[0.0, 0, 10, 8]] * 3, dtype=torch.float64)
    second = torch.tensor([[4.0, 0, 12, 8], [0, 4, 10, 12], [0, 0, 10, 8]], dtype=torch.float64)
    actual = with_grads(scylla_box_iou_loss, first, second)
    assert all(result.isfinite().all() for result in actual)
    expected = with_grads(lambda *boxes: scylla_box_iou_loss_reference(*boxes, 1e-7), first, second)
    torch.testing.assert_close(actual, expected)
