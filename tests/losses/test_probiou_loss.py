"""Probabilistic IoU loss of rotated boxes: its spec, and what is peculiar to it."""

import pytest
import torch

import rotated_boxes
from box_losses import box_loss_spec, with_grads
from handgrad.boxes import probiou
from handgrad.losses import ProbIoULoss, probiou_loss
from handgrad.losses.probiou_loss import probiou_loss_reference
from handgrad.testing import Bad, Sample, matrix
from rotated_boxes import DEGENERATE, RELATIONS, boxes, pairs, related


def it_is_one_less_the_measure():
    first, second = pairs(40)
    torch.testing.assert_close(probiou_loss(first, second), 1 - probiou(first, second).diagonal())


def a_square_may_turn():
    first, second = pairs(40)
    first[:, 3] = first[:, 2]
    loss, grad, _ = with_grads(probiou_loss, first, second)
    torch.testing.assert_close(grad[:, 4], torch.zeros_like(loss), rtol=0, atol=1e-12)


SPEC = box_loss_spec(
    probiou_loss,
    ProbIoULoss,
    probiou_loss_reference,
    {"measure": it_is_one_less_the_measure, "square": a_square_may_turn},
    samples=[
        Sample("none", pairs(4), {"reduction": "none", "eps": 1e-7}),
        Sample("mean", pairs(3, 2), {"reduction": "mean", "eps": 1e-2}),
        Sample("sum", pairs(3), {"reduction": "sum", "eps": 1e-3}),
    ],
    onnx=["mean"],
    pairs=pairs,
    row="cx, cy, w, h, angle",
    way=(3.0, -7.0, 0.0, 0.0, 0.0),
    numel_beyond_int32=lambda: rotated_boxes.rows_beyond_int32(probiou_loss),
    least_eps="above 0",
    more_bad=[
        Bad("no_eps", lambda: ProbIoULoss(eps=0.0), ValueError, r"eps must be a finite number, above 0; got 0"),
    ],
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relations", [RELATIONS, DEGENERATE], ids=["proper", "degenerate"])
def test_losses_and_gradients_are_finite(relations, dtype):
    first, second = related(relations, dtype)
    for swapped in ((first, second), (second, first)):
        leaves = [tensor.clone().requires_grad_() for tensor in swapped]
        losses = probiou_loss(*leaves)
        grads = torch.autograd.grad(losses.sum(), leaves, create_graph=True)
        seconds = torch.autograd.grad(sum(grad.sum() for grad in grads), leaves)
        for result in (losses, *grads, *seconds):
            assert result.isfinite().all(), dict(zip(relations, result.tolist(), strict=True))


def test_descent_brings_boxes_together():
    """Boxes that do not overlap at the start end on their targets, angles and all."""
    target = boxes(20, seed=1)
    target[:, 4] = target[:, 4] % 40
    moving = (boxes(20, seed=2) + torch.tensor([30.0, 20, 0, 0, 0])).requires_grad_()
    with torch.no_grad():
        moving[:, 4] = moving[:, 4] % 40
    optimizer = torch.optim.Adam([moving], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    before = probiou_loss(moving, target, "mean", 1e-3).item()
    for _ in range(600):
        optimizer.zero_grad()
        probiou_loss(moving, target, "sum", 1e-3).backward()
        optimizer.step()
        schedule.step()
    assert probiou_loss(moving, target, "mean", 1e-3).item() < before / 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_one_pair_that_is_not_finite_does_not_spoil_the_others(value):
    rotated_boxes.spoils_a_pair_alone(probiou_loss, value)
