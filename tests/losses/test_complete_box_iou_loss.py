"""Complete IoU loss: its spec, and what is peculiar to it."""

import math

import torch
from torch.autograd import gradcheck, gradgradcheck

from box_losses import DEGENERATE, box_loss_spec, boxes, pairs, related, with_grads
from handgrad.losses import CompleteBoxIoULoss, complete_box_iou_loss, distance_box_iou_loss
from handgrad.losses.complete_box_iou_loss import complete_box_iou_loss_reference
from handgrad.testing import Sample, matrix


def alike(*shape):
    """Pairs of one aspect ratio. There alpha is 0, and so is its derivative, which the loss leaves out and finite
    differences do not; for other pairs see below."""
    first = boxes(*shape, seed=len(shape))
    numbers = boxes(*shape, seed=20 + len(shape))
    corner, size = first[..., :2] + 0.1 * numbers[..., :2] - 3, first[..., 2:] - first[..., :2]
    scale = 0.6 + 0.01 * numbers[..., :1]
    return first, torch.cat([corner, corner + scale * size], -1)


def one_aspect_ratio_has_the_distance_iou_loss():
    first, second = alike(50)
    torch.testing.assert_close(
        with_grads(complete_box_iou_loss, first, second), with_grads(distance_box_iou_loss, first, second)
    )


def a_square_and_a_bar():
    """Arctan of 1 and of infinity are pi / 4 apart: v is a quarter, with boxes apart alpha is a fifth."""
    square, bar = torch.tensor([0.0, 0, 2, 2]), torch.tensor([10.0, 0, 12, 0])
    expected = distance_box_iou_loss(square, bar) + 0.25 * 0.2
    torch.testing.assert_close(complete_box_iou_loss(square, bar), expected)


def eps_is_alphas():
    first, second = pairs(50)
    torch.testing.assert_close(complete_box_iou_loss(first, second, eps=1e9), distance_box_iou_loss(first, second))


SPEC = box_loss_spec(
    complete_box_iou_loss,
    CompleteBoxIoULoss,
    complete_box_iou_loss_reference,
    {"ratio": one_aspect_ratio_has_the_distance_iou_loss, "bar": a_square_and_a_bar, "eps": eps_is_alphas},
    samples=[
        Sample("none", alike(4), {"reduction": "none", "eps": 1e-7}),
        Sample("mean", alike(3, 2), {"reduction": "mean", "eps": 0.5}),
        Sample("sum", alike(5), {"reduction": "sum", "eps": 1e-3}),
    ],
)

test_matrix = matrix(SPEC)


def aspect(first, second):
    """v and alpha, by the definition."""
    (left1, top1, right1, bottom1), (left2, top2, right2, bottom2) = first.unbind(-1), second.unbind(-1)
    turn = torch.atan((right2 - left2) / (bottom2 - top2)) - torch.atan((right1 - left1) / (bottom1 - top1))
    v = 4 / math.pi**2 * turn**2
    width = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    height = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    both = (right1 - left1) * (bottom1 - top1) + (right2 - left2) * (bottom2 - top2)
    return v, v / (1 - width * height / (both - width * height + 1e-7) + v + 1e-7)


def test_derivatives_are_those_of_a_loss_whose_alpha_is_a_number():
    """Finite differences see alpha move, so it is taken out, in value alone, and the number put in that it was."""
    first, second = pairs(4)
    _, alpha = aspect(first, second)

    def with_alpha_held(boxes1, boxes2):
        v, moving = aspect(boxes1, boxes2)
        return complete_box_iou_loss(boxes1, boxes2) - (moving.detach() - alpha) * v

    leaves = first.requires_grad_(), second.requires_grad_()
    assert gradcheck(with_alpha_held, leaves)
    assert gradgradcheck(with_alpha_held, leaves)


def test_of_any_ratio_all_derivatives_are_the_references():
    """Which torch differentiates: first, second and third, and forward mode."""
    first, second = pairs(20)

    def derivatives(function):
        leaves = [tensor.detach().requires_grad_() for tensor in (first, second)]
        grads, found = (function(*leaves),), []
        for _ in range(3):
            weights = [torch.linspace(-1, 1, grad.numel(), dtype=grad.dtype).view_as(grad) for grad in grads]
            grads = torch.autograd.grad(grads, leaves, weights, create_graph=True)
            found += grads
        return [*found, torch.func.jvp(function, (first, second), (second, first))[1]]

    expected = derivatives(lambda *tensors: complete_box_iou_loss_reference(*tensors, 1e-7))
    torch.testing.assert_close(derivatives(complete_box_iou_loss), expected)


def test_a_box_without_extent_has_no_aspect_ratio():
    """pytorch/vision's is NaN for 0 / 0, as are its gradients for a height of 0."""
    points = {name: pair for name, pair in DEGENERATE.items() if "point" in name}
    first, second = related(points, torch.float64)
    torch.testing.assert_close(
        with_grads(complete_box_iou_loss, first, second), with_grads(distance_box_iou_loss, first, second)
    )
