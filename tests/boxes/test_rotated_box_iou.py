"""IoU of all pairs of rotated boxes: its spec, and what is peculiar to it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import rotated_boxes
from box_losses import RELATIONS as STRAIGHT_RELATIONS
from box_losses import boxes as straight_boxes
from box_losses import related as straight_related
from box_losses import with_grads
from box_matrices import box_matrix_spec, one_by_one
from handgrad.boxes import box_iou, rotated_box_iou
from handgrad.boxes.rotated_box_iou import rotated_box_iou_reference
from handgrad.testing import Sample, matrix
from rotated_boxes import DEGENERATE, RELATIONS, boxes, related, tables, turned

NAN, INFINITY = float("nan"), float("inf")


def a_third_for_half_a_box():
    first = torch.tensor([[0.0, 0, 2, 2, 0]])
    for angle in (0.0, 90.0, -180.0, 3600.0):
        other = torch.tensor([[1.0, 0, 2, 2, angle]])
        torch.testing.assert_close(rotated_box_iou(first, other), torch.tensor([[1 / 3]]))


def a_square_and_one_on_its_corner_share_an_octagon():
    first, second = torch.tensor([[3.0, 4, 2, 2, 10]]), torch.tensor([[3.0, 4, 2, 2, 55]])
    torch.testing.assert_close(rotated_box_iou(first, second), torch.tensor([[0.5**0.5]]))


def a_box_has_all_of_itself():
    """However its angle is written, if that is exact."""
    first, _ = tables(300, 1)
    whole = torch.cat([first[:, :4], first[:, 4:].round()], 1)
    for quarters in (0, 1, 2, -1, 40):
        again = whole + torch.tensor([0.0, 0, 0, 0, 90 * quarters], dtype=whole.dtype)
        again = again[:, [0, 1, 3, 2, 4]] if quarters % 2 else again
        assert rotated_box_iou(whole, again).diagonal().eq(1).all()
    iou = rotated_box_iou(first, first)
    assert iou.diagonal().eq(1).all()
    assert iou.ge(0).all()
    assert iou.le(1).all()


def turning_both_changes_nothing():
    first, second = (straight_boxes(60, seed=seed) for seed in (1, 2))
    expected = box_iou(first, second)
    for degrees in (0.0, 30.0, -77.0, 90.0):
        torch.testing.assert_close(rotated_box_iou(turned(first, degrees), turned(second, degrees)), expected)


SPEC = box_matrix_spec(
    rotated_box_iou,
    rotated_box_iou_reference,
    {
        "half": a_third_for_half_a_box,
        "octagon": a_square_and_one_on_its_corner_share_an_octagon,
        "itself": a_box_has_all_of_itself,
        "turned": turning_both_changes_nothing,
    },
    samples=[Sample("more_rows", tables(4, 3)), Sample("more_columns", tables(2, 3))],
    tables=tables,
    row="cx, cy, w, h, angle",
    way=(3.0, -7.0, 0.0, 0.0, 0.0),
    numel_beyond_int32=lambda: rotated_boxes.rows_beyond_int32(rotated_box_iou),
    # As of upright boxes, with five numbers in place of four.
    floor_factors={"forward": 1.2, "backward": 1.6, "double_backward": 1.4},
)

SPEC = dataclasses.replace(SPEC, onnx=["more_rows"])
test_matrix = matrix(SPEC)


# ---- the values of others --------------------------------------------------------------------------------------------


def test_a_positive_angle_turns_counter_clockwise_in_an_image():
    """As detectron2's and torchvision's cxcywhr. mmcv and ultralytics have radians and turn the other way."""
    bar, right_above = torch.tensor([[0.0, 0, 10, 1, 45]]), torch.tensor([[3.0, -3, 1, 1, 0]])
    assert rotated_box_iou(bar, right_above).item() > 0
    assert rotated_box_iou(bar * torch.tensor([1.0, 1, 1, 1, -1]), right_above).item() == 0


def test_values_are_torchvisions():
    ops = pytest.importorskip("torchvision", exc_type=ImportError).ops
    first, second = tables(40, 50)
    try:
        expected = ops.box_iou(first, second, "cxcywhr")
    except (TypeError, ValueError):
        pytest.skip("a torchvision without rotated formats")
    # It computes in float32.
    torch.testing.assert_close(rotated_box_iou(first, second).float(), expected, rtol=1e-4, atol=1e-5)


def test_values_are_shapelys():
    shapely = pytest.importorskip("shapely")
    first, second = tables(300, 60)
    a, b = (table[index] for table, index in zip((first, second), np.indices((300, 60)).reshape(2, -1), strict=True))
    shared, united, _ = rotated_boxes.shapely_areas(shapely, a, b)
    expected = (shared / united).view(300, 60)
    torch.testing.assert_close(rotated_box_iou(first, second), expected, rtol=0, atol=1e-9)
    assert expected.gt(0).sum() > 5000


# ---- derivatives at kinks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relations", [RELATIONS, DEGENERATE], ids=["proper", "degenerate"])
def test_results_are_finite(relations, dtype):
    """open-mmlab/mmcv#2335, lilanxiao/Rotated_IoU#2: NaN where corners, edges or boxes coincide."""
    table = torch.cat(related(relations, dtype))
    leaves = table.clone().requires_grad_(), table.clone().requires_grad_()
    iou = rotated_box_iou(*leaves)
    grads = torch.autograd.grad(iou.sum(), leaves, create_graph=True)
    seconds = torch.autograd.grad(sum(grad.sum() for grad in grads), leaves)
    for result in (iou, *grads, *seconds):
        assert result.isfinite().all()
    assert iou.ge(0).all()
    assert iou.le(1).all()


def test_of_axis_parallel_boxes_all_derivatives_are_box_ious():
    """In every relation that box_iou treats apart: a tie goes half to each side, touching boxes move nothing."""
    first, second = straight_related(STRAIGHT_RELATIONS, torch.float64)

    def as_rotated(*tables):
        return rotated_box_iou(*map(turned, tables))

    for function in (lambda f: with_grads(f, first, second), lambda f: with_grads(f, second, first)):
        torch.testing.assert_close(function(as_rotated), function(box_iou))


def test_identical_boxes_do_not_move():
    table = boxes(20)
    for box in table:
        _, grad1, grad2 = with_grads(rotated_box_iou, box[None], box[None])
        torch.testing.assert_close(grad1, torch.zeros_like(grad1), rtol=0, atol=1e-12)
        torch.testing.assert_close(grad2, torch.zeros_like(grad2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["nested", "nested_of_one_angle", "a_cross", "far_apart", "a_line_through"])
def test_smooth_relations_have_derivatives(name):
    first, second = (torch.tensor([box], dtype=torch.float64) for box in {**RELATIONS, **DEGENERATE}[name])
    free = [0, 1, 4] if name == "a_line_through" else [0, 1, 2, 3, 4]

    def iou(of_first, of_second):
        return rotated_box_iou(first.index_copy(1, torch.tensor(free), of_first), of_second)

    leaves = first[:, free].requires_grad_(), second.requires_grad_()
    assert gradcheck(iou, leaves)
    assert gradgradcheck(iou, leaves)


def test_a_box_without_width_grows_if_that_helps():
    """The derivative at a width of 0 is that from above."""
    line, box = torch.tensor([[10.0, 20, 0, 10, 0]]), torch.tensor([[10.0, 20, 30, 50, 30]])
    iou, grad, _ = with_grads(rotated_box_iou, line, box)
    assert iou.item() == 0
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0, 10 / 1500, 0, 0]]))


# ---- what is no box --------------------------------------------------------------------------------------------------


def test_boxes_without_area_share_nothing():
    first, _ = related(DEGENERATE)
    assert rotated_box_iou(first, first)[:-2].eq(0).all()
    assert rotated_box_iou(first[-1:], first).eq(0).all()


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY], ids=str)
@pytest.mark.parametrize("column", range(5))
def test_one_box_that_is_not_finite_spoils_its_row_and_column_alone(column, value):
    rotated_boxes.spoils_a_row_and_a_column_alone(rotated_box_iou, column, value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.uint8], ids=str)
@pytest.mark.tiers("whole")
def test_types_of_number(dtype):
    """Numbers are taken as they are stored; integers, of which narrow ones would wrap around, are float32."""
    first, second = (table.abs().clamp(max=200).to(dtype) for table in tables(20, 30))
    found = rotated_box_iou(first, second)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, rotated_box_iou(first.double(), second.double()).float(), rtol=1e-6, atol=1e-6)
    assert rotated_box_iou(first, first).diagonal().eq(1).all()


# ---- batches, and the ends of blocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch1", "batch2"), [((2,), (2,)), ((), (3,)), ((2, 1), (3,))], ids=str)
def test_batches_are_broadcast(batch1, batch2):
    first, second = boxes(*batch1, 35, seed=1), boxes(*batch2, 6, seed=2)
    found = with_grads(rotated_box_iou, first, second)
    torch.testing.assert_close(found, with_grads(rotated_box_iou_reference_of_batches, first, second))


def rotated_box_iou_reference_of_batches(first, second):
    batch = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    return rotated_box_iou_reference(*(table.expand(*batch, *table.shape[-2:]) for table in (first, second)))


def test_every_pair_by_itself():
    """Around the ends of blocks, of which the last is not full."""
    for rows, columns in ((33, 3), (2, 129), (65, 1), (1, 257)):
        first, second = tables(rows, columns, dtype=torch.float32)
        corner = one_by_one(rotated_box_iou, first[-2:], second[-2:])
        torch.testing.assert_close(rotated_box_iou(first, second)[-2:, -2:], corner, rtol=0, atol=0)
