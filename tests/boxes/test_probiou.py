"""Probabilistic IoU of all pairs of rotated boxes: its spec, and what is peculiar to it."""

import dataclasses
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import rotated_boxes
from box_losses import with_grads
from box_matrices import box_matrix_spec
from handgrad.boxes import probiou, rotated_box_iou
from handgrad.boxes.probiou import probiou_reference
from handgrad.testing import Bad, Sample, matrix
from rotated_boxes import DEGENERATE, RELATIONS, related, tables

EPS = 1e-7


def of_distance(distance):
    return 1 - math.sqrt(1 - math.exp(-distance) + EPS)


def a_square_in_one_of_twice_the_side():
    """Variances 1/3 and 4/3: half the logarithm of (5/3)^2 / (4 * 1/3 * 4/3)."""
    first, second = torch.tensor([[3.0, 4, 2, 2, 0]]), torch.tensor([[3.0, 4, 4, 4, 77]])
    torch.testing.assert_close(probiou(first, second).item(), of_distance(math.log(1.25)), rtol=1e-6, atol=0)


def a_square_beside_its_like():
    """Variances 2/3 together: 1 / (4 * 2/3)."""
    first, second = torch.tensor([[0.0, 0, 2, 2, 0]]), torch.tensor([[0.6, 0.8, 2, 2, 33]])
    torch.testing.assert_close(probiou(first, second).item(), of_distance(3 / 8), rtol=1e-6, atol=0)


def turning_both_changes_nothing():
    first, second = tables(30, 40)
    first[:, :2] = second[:1, :2] = 0
    first, second = first, second[:1]
    turn = torch.tensor([0.0, 0, 0, 0, 33], dtype=first.dtype)
    torch.testing.assert_close(probiou(first + turn, second + turn), probiou(first, second))


SPEC = box_matrix_spec(
    probiou,
    probiou_reference,
    {
        "inside": a_square_in_one_of_twice_the_side,
        "beside": a_square_beside_its_like,
        "turned": turning_both_changes_nothing,
    },
    samples=[Sample("more_rows", tables(4, 3), {"eps": 1e-7}), Sample("more_columns", tables(2, 3), {"eps": 1e-3})],
    bad=[
        Bad("eps", lambda: probiou(*tables(3, 2), eps=0.0), ValueError, r"eps must be a finite number, above 0; got 0")
    ],
    tables=tables,
    row="cx, cy, w, h, angle",
    way=(3.0, -7.0, 0.0, 0.0, 0.0),
    numel_beyond_int32=lambda: rotated_boxes.rows_beyond_int32(probiou),
    # As of rotated_box_iou.
    floor_factors={"forward": 1.2, "backward": 1.6, "double_backward": 1.4},
    eps=1e-7,
)

SPEC = dataclasses.replace(SPEC, onnx=["more_rows"])
test_matrix = matrix(SPEC)


def test_a_positive_angle_turns_counter_clockwise_in_an_image():
    bar, right_above = torch.tensor([[0.0, 0, 10, 1, 45]]), torch.tensor([[3.0, -3, 1, 1, 0]])
    across = bar * torch.tensor([1.0, 1, 1, 1, -1])
    assert probiou(bar, right_above).item() > 0.1
    assert probiou(across, right_above).item() < 1e-6


def test_identical_boxes_have_all_but_what_eps_takes():
    """And do not move: their distance is cut to eps."""
    table, _ = tables(100, 1)
    for eps in (1e-7, 1e-3):
        expected = torch.full((100,), 1 - math.sqrt(1 - math.exp(-eps) + eps), dtype=table.dtype)
        torch.testing.assert_close(probiou(table, table, eps).diagonal(), expected, rtol=0, atol=1e-12)
    for box in table[:20]:
        _, grad1, grad2 = with_grads(probiou, box[None], box[None])
        assert not grad1.any()
        assert not grad2.any()


def test_it_is_near_the_iou_that_it_stands_for():
    """Larger where the overlap is, and not 0 where there is none."""
    first, second = tables(50, 60)
    iou, likeness = rotated_box_iou(first, second).flatten(), probiou(first, second).flatten()
    assert torch.corrcoef(torch.stack([iou, likeness]))[0, 1] > 0.9
    assert likeness[iou == 0].max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relations", [RELATIONS, DEGENERATE], ids=["proper", "degenerate"])
def test_results_are_finite(relations, dtype):
    """Boxes without area too: eps stands for what they lack."""
    table = torch.cat(related(relations, dtype))
    leaves = table.clone().requires_grad_(), table.clone().requires_grad_()
    iou = probiou(*leaves)
    grads = torch.autograd.grad(iou.sum(), leaves, create_graph=True)
    seconds = torch.autograd.grad(sum(grad.sum() for grad in grads), leaves)
    for result in (iou, *grads, *seconds):
        assert result.isfinite().all()
    assert iou.ge(-1e-7).all()
    assert iou.le(1).all()


def test_thin_parallel_boxes_keep_their_digits():
    """ultralytics/ultralytics#10108: NaN, as determinants that are differences of products have no digits here."""
    first = torch.tensor([[0.0, 0, 1000, 1e-3, 30]], dtype=torch.float64)
    second = torch.tensor([[0.0, 0, 1000, 2e-3, 30]], dtype=torch.float64)
    # Only the thin sides differ: half the logarithm of 5 / 4.
    expected = 1 - math.sqrt(1 - 0.8**0.5)
    torch.testing.assert_close(probiou(first, second, 1e-18).item(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["nested", "nested_of_one_angle", "a_cross"])
def test_smooth_relations_have_derivatives(name):
    leaves = [torch.tensor([box], dtype=torch.float64, requires_grad=True) for box in RELATIONS[name]]
    assert gradcheck(probiou, leaves)
    assert gradgradcheck(probiou, leaves)


def test_boxes_that_are_far_apart_have_none():
    """Their distance is cut to 100."""
    first, second = torch.tensor([[0.0, 0, 2, 2, 0]]), torch.tensor([[100.0, 0, 2, 2, 0]])
    iou, grad1, grad2 = with_grads(probiou, first, second)
    assert abs(iou.item()) < 1e-7
    assert not grad1.any()
    assert not grad2.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("column", range(5))
def test_one_box_that_is_not_finite_spoils_its_row_and_column_alone(column, value):
    rotated_boxes.spoils_a_row_and_a_column_alone(probiou, column, value)
