"""IoU of all pairs: its spec, and what is peculiar to it."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from box_losses import with_grads
from box_matrices import box_matrix_spec, tables
from handgrad.boxes import box_iou
from handgrad.boxes.box_iou import box_iou_reference
from handgrad.testing import Bad, Sample, matrix

BOXES1, BOXES2 = tables(3, 2)


def reference(boxes1, boxes2, fmt="xyxy"):
    assert fmt == "xyxy"  # other formats: see below
    return box_iou_reference(boxes1, boxes2)


def corners(boxes, fmt):
    first, size = boxes.split(2, -1)
    if fmt == "xyxy":
        return boxes
    low = first if fmt == "xywh" else first - size / 2
    return torch.cat([low, low + size], -1)


def a_third_for_half_a_box():
    first = torch.tensor([[0.0, 0, 2, 2]])
    torch.testing.assert_close(box_iou(first, torch.tensor([[1.0, 0, 3, 2]])), torch.tensor([[1 / 3]]))


def a_box_has_all_of_itself():
    first, _ = tables(30, 1)
    iou = box_iou(first, first)
    assert iou.diagonal().eq(1).all()
    assert iou.ge(0).all()
    assert iou.le(1).all()


def formats_are_of_the_same_boxes():
    first, second = tables(5, 6)
    for fmt in ("xywh", "cxcywh"):
        expected = box_iou(corners(first, fmt), corners(second, fmt))
        torch.testing.assert_close(box_iou(first, second, fmt), expected)


SPEC = box_matrix_spec(
    box_iou,
    reference,
    {"half": a_third_for_half_a_box, "itself": a_box_has_all_of_itself, "formats": formats_are_of_the_same_boxes},
    samples=[
        Sample("more_rows", tables(4, 3), {"fmt": "xyxy"}),
        Sample("more_columns", tables(2, 5)),
        Sample("one", tables(1, 1)),
    ],
    bad=[
        Bad(
            "fmt",
            lambda: box_iou(BOXES1, BOXES2, "xyxyxyxy"),
            ValueError,
            "fmt must be 'xyxy', 'xywh' or 'cxcywh'; got 'xyxyxyxy'",
        ),
        Bad(
            "columns_of_a_format",
            lambda: box_iou(BOXES1[:, :3], BOXES2, "xywh"),
            RuntimeError,
            r"boxes1 must have shape .* got \(3, 3\)",
        ),
    ],
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64], ids=str)
@pytest.mark.parametrize("fmt", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.tiers("whole")
def test_formats_are_torchvisions(fmt, dtype):
    torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
    first, second = (table.to(dtype) for table in tables(20, 30))
    actual = box_iou(first, second, fmt)
    # In the type of the boxes themselves theirs has three digits, or halves that are cut off.
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    expected = torchvision.ops.box_iou(first.to(wide), second.to(wide), fmt)
    assert actual.dtype is wide
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fmt", ["xywh", "cxcywh"])
@pytest.mark.tiers("whole")
def test_formats_have_derivatives(fmt):
    """Those of the conversion, torch's, and of the matrix; compiled too."""
    leaves = [table.requires_grad_() for table in tables(3, 2)]
    assert gradcheck(box_iou, (*leaves, fmt))
    assert gradgradcheck(box_iou, (*leaves, fmt))
    compiled = torch.compile(box_iou, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(with_grads(compiled, *leaves, fmt=fmt), with_grads(box_iou, *leaves, fmt=fmt))


@pytest.mark.tiers("whole")
def test_the_last_bit_of_a_box_that_is_given_by_its_size_does_not_count():
    """A box is all of itself whichever way it is given. pytorch/vision adds an area of the size to an intersection of
    corners, which rounding has moved."""
    boxes = torch.tensor([[1000.1, 2000.1, 0.1, 0.1], [4000.3, 17.3, 3.3, 0.7]])
    assert box_iou(boxes, boxes, "xywh").diagonal().eq(1).all()
    assert box_iou(boxes, boxes, "cxcywh").diagonal().eq(1).all()
