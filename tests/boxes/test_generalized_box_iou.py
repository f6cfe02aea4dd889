"""Generalized IoU of all pairs: its spec, and what is peculiar to it."""

import torch

from box_losses import boxes
from box_matrices import box_matrix_spec, tables
from handgrad.boxes import generalized_box_iou
from handgrad.boxes.generalized_box_iou import generalized_box_iou_reference
from handgrad.testing import Sample, matrix


def a_third_less_for_a_gap():
    """Two squares, a square's width apart: of the enclosing box a third is neither's."""
    first, second = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [4, 0, 6, 2]])
    torch.testing.assert_close(generalized_box_iou(first, second), torch.tensor([[1 / 3, -1 / 3]]))


def nested_boxes_have_their_iou():
    """The enclosing box is the union."""
    outer = boxes(20)
    centre, quarter = (outer[:, :2] + outer[:, 2:]) / 2, (outer[:, 2:] - outer[:, :2]) / 4
    inner = torch.cat([centre - quarter, centre + quarter], 1)
    found = generalized_box_iou(outer, inner).diagonal()
    torch.testing.assert_close(found, torch.full((20,), 0.25, dtype=torch.float64))


SPEC = box_matrix_spec(
    generalized_box_iou,
    generalized_box_iou_reference,
    {"gap": a_third_less_for_a_gap, "nested": nested_boxes_have_their_iou},
    samples=[Sample("more_rows", tables(4, 3)), Sample("more_columns", tables(2, 5)), Sample("one", tables(1, 1))],
)

test_matrix = matrix(SPEC)
