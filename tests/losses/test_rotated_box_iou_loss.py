"""IoU losses of rotated boxes: their spec, and what is peculiar to them; among it, how exact areas are."""

import functools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import rotated_boxes
from box_losses import box_loss_spec, with_grads
from box_losses import pairs as straight_pairs
from handgrad.losses import RotatedBoxIoULoss, generalized_box_iou_loss, rotated_box_iou_loss
from handgrad.losses.rotated_box_iou_loss import rotated_box_iou_loss_reference
from handgrad.reductions import reduction_code
from handgrad.testing import Bad, Sample, matrix
from rotated_boxes import DEGENERATE, RELATIONS, adversarial, boxes, clipped_iou, pairs, related, turned

MODES = ("iou", "giou")
by_mode = pytest.mark.parametrize("mode", MODES)
by_type = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def reference(boxes1, boxes2, iou_mode="iou", reduction="none", eps=0.0):
    losses = rotated_box_iou_loss_reference(boxes1, boxes2, eps, iou_mode == "giou")
    if reduction_code("rotated_box_iou_loss", reduction) == 0:
        return losses
    return losses.sum() / max(1, losses.numel()) if reduction == "mean" else losses.sum()


def two_thirds_for_half_a_box():
    first, second = torch.tensor([0.0, 0, 2, 2, 0]), torch.tensor([1.0, 0, 2, 2, 90])
    for mode in MODES:
        torch.testing.assert_close(rotated_box_iou_loss(first, second, mode), torch.tensor(2 / 3))


def a_square_and_one_on_its_corner():
    """They share an octagon, and are in another."""
    first, second = torch.tensor([3.0, 4, 2, 2, 10]), torch.tensor([3.0, 4, 2, 2, 55])
    shared, around = 8 * (2**0.5 - 1), 4 * 2**0.5
    iou = torch.tensor(1 - shared / (8 - shared))
    torch.testing.assert_close(rotated_box_iou_loss(first, second), iou)
    torch.testing.assert_close(
        rotated_box_iou_loss(first, second, "giou"), iou + (around - 8 + shared) / around, rtol=1e-6, atol=1e-6
    )


def turning_both_changes_nothing():
    for mode in MODES:
        first, second = pairs(50)
        turn = torch.tensor([0.0, 0, 0, 0, 33], dtype=first.dtype)
        same = first.clone()
        same[:, :2] = second[:, :2]
        expected = rotated_box_iou_loss(same, second, mode)
        torch.testing.assert_close(rotated_box_iou_loss(same + turn, second + turn, mode), expected)


SPEC = box_loss_spec(
    rotated_box_iou_loss,
    RotatedBoxIoULoss,
    rotated_box_iou_loss_reference,
    {
        "half": two_thirds_for_half_a_box,
        "corner": a_square_and_one_on_its_corner,
        "turned": turning_both_changes_nothing,
    },
    samples=[
        Sample("iou_none", pairs(4), {"iou_mode": "iou", "reduction": "none", "eps": 1e-7}),
        Sample("giou_mean", pairs(2, 2), {"iou_mode": "giou", "reduction": "mean", "eps": 0.0}),
        Sample("giou_sum", pairs(3), {"iou_mode": "giou", "reduction": "sum", "eps": 0.5}),
    ],
    onnx=["giou_mean"],
    pairs=pairs,
    row="cx, cy, w, h, angle",
    way=(3.0, -7.0, 0.0, 0.0, 0.0),
    public_reference=reference,
    numel_beyond_int32=lambda: rotated_boxes.rows_beyond_int32(
        functools.partial(rotated_box_iou_loss, iou_mode="giou")
    ),
    more_bad=[
        Bad("mode", lambda: RotatedBoxIoULoss("diou"), ValueError, "iou_mode must be 'iou' or 'giou'; got 'diou'"),
    ],
)

test_matrix = matrix(SPEC)


# ---- how exact areas are ---------------------------------------------------------------------------------------------


@by_type
@pytest.mark.tiers("whole")
def test_a_hundred_thousand_pairs_are_shapelys(dtype):
    shapely = pytest.importorskip("shapely")
    first, second = (boxes(100_000, seed=seed, dtype=dtype) for seed in (5, 6))
    shared, united, hull = rotated_boxes.shapely_areas(shapely, first, second)
    limit = 1e-9 if dtype is torch.float64 else 1e-5
    found = rotated_box_iou_loss(first, second).double()
    torch.testing.assert_close(found, 1 - shared / united, rtol=0, atol=limit)
    generalized = rotated_box_iou_loss(first, second, "giou").double()
    torch.testing.assert_close(generalized, 1 - shared / united + (hull - united) / hull, rtol=0, atol=limit)


@by_type
def test_ten_thousand_pairs_that_rounding_misleads(dtype):
    """open-mmlab/mmcv#2621, facebookresearch/detectron2#2154: 0 or more than 1 for boxes that are nearly the same, as
    corners are found, merged and sorted with a tolerance. (shapely finds nothing between some of these.)"""
    for name, (first, second) in adversarial(1250, dtype).items():
        expected = clipped_iou(first, second)
        iou = 1 - rotated_box_iou_loss(first, second).double()
        assert iou.ge(0).all(), name
        assert iou.le(1).all(), name
        limit = 1e-9 if dtype is torch.float64 else 1e-5
        torch.testing.assert_close(iou, expected, rtol=0, atol=limit, msg=lambda text, name=name: f"{name}: {text}")


@by_mode
@by_type
def test_a_box_loses_nothing_to_itself(mode, dtype):
    """And moves nowhere: a minimum, where each side has half of a tie."""
    table = boxes(1000, seed=2, dtype=dtype)
    loss, grad1, grad2 = with_grads(rotated_box_iou_loss, table, table.clone(), iou_mode=mode)
    assert loss.eq(0).all()
    for grad in (grad1, grad2):
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-12)


def test_a_small_loss_has_its_digits():
    """Of boxes of floats too: 1 less a rounded IoU would be 0, or no less than 6e-8."""
    first = torch.tensor([[0.0, 0, 1, 1, 30]])
    second = first + torch.tensor([[0, 0, 1e-9, 0, 0]], dtype=torch.float64).float()
    moved = torch.tensor([[1e-9, 0, 1, 1, 30]])
    assert rotated_box_iou_loss(first, second).item() == 0
    expected = 1e-9 * (3**0.5 / 2 + 0.5) * 2
    torch.testing.assert_close(rotated_box_iou_loss(first, moved), torch.tensor([expected]), rtol=1e-5, atol=0)


# ---- derivatives -----------------------------------------------------------------------------------------------------


@by_mode
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relations", [RELATIONS, DEGENERATE], ids=["proper", "degenerate"])
def test_losses_and_gradients_are_finite(mode, relations, dtype):
    """open-mmlab/mmcv#2335, lilanxiao/Rotated_IoU#2: NaN where corners, edges or boxes coincide."""
    first, second = related(relations, dtype)
    for swapped in ((first, second), (second, first)):
        leaves = [tensor.clone().requires_grad_() for tensor in swapped]
        losses = rotated_box_iou_loss(*leaves, mode)
        grads = torch.autograd.grad(losses.sum(), leaves, create_graph=True)
        seconds = torch.autograd.grad(sum(grad.sum() for grad in grads), leaves)
        for result in (losses, *grads, *seconds):
            assert result.isfinite().all(), dict(zip(relations, result.tolist(), strict=True))
        assert losses.ge(0).all()
        assert losses.le(2 if mode == "giou" else 1).all()


def test_for_axis_parallel_boxes_that_enclose_themselves_it_is_the_generalized_loss():
    """A convex hull is not a box, but of boxes of one height side by side."""
    first, second = straight_pairs(50)
    second[:, 1], second[:, 3] = first[:, 1], first[:, 3]
    expected = with_grads(generalized_box_iou_loss, first, second, eps=0.0)[0]
    found = rotated_box_iou_loss(turned(first, 20.0), turned(second, 20.0), "giou")
    torch.testing.assert_close(found, expected)


@by_mode
@pytest.mark.parametrize("name", ["nested", "nested_of_one_angle", "a_cross", "far_apart"])
def test_smooth_relations_have_derivatives(mode, name):
    leaves = [torch.tensor(box, dtype=torch.float64, requires_grad=True) for box in RELATIONS[name]]
    loss = functools.partial(rotated_box_iou_loss, iou_mode=mode)
    assert gradcheck(loss, leaves)
    assert gradgradcheck(loss, leaves)


def test_descent_brings_boxes_together():
    """The optimizer's view: boxes that do not overlap at the start end on their targets, angles and all."""
    target = boxes(20, seed=1)
    target[:, 4] = target[:, 4] % 40
    moving = (boxes(20, seed=2) + torch.tensor([60.0, 50, 0, 0, 0])).requires_grad_()
    with torch.no_grad():
        moving[:, 4] = moving[:, 4] % 40
    optimizer = torch.optim.Adam([moving], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    before = rotated_box_iou_loss(moving, target, "giou", "mean").item()
    for _ in range(600):
        optimizer.zero_grad()
        rotated_box_iou_loss(moving, target, "giou", "sum").backward()
        optimizer.step()
        schedule.step()
    assert rotated_box_iou_loss(moving, target, "giou", "mean").item() < before / 5


# ---- what is no box --------------------------------------------------------------------------------------------------


@by_mode
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_one_pair_that_is_not_finite_does_not_spoil_the_others(mode, value):
    rotated_boxes.spoils_a_pair_alone(functools.partial(rotated_box_iou_loss, iou_mode=mode), value)


@by_mode
def test_boxes_without_area_lose_all(mode):
    point = torch.zeros(1, 5)
    assert rotated_box_iou_loss(point, point, mode).item() == 1
    line, box = torch.tensor([[0.0, 0, 0, 1, 0]]), torch.tensor([[0.0, 0, 2, 2, 0]])
    assert rotated_box_iou_loss(line, box, mode).item() == 1
    negative = torch.tensor([[0.0, 0, -1, 1, 0]])
    assert rotated_box_iou_loss(negative, box, mode).item() == 1
