"""Distance IoU of all pairs: its spec, and what is peculiar to it."""

import torch

from box_matrices import box_matrix_spec, eps_of, tables
from handgrad.boxes import box_iou, distance_box_iou
from handgrad.boxes.distance_box_iou import distance_box_iou_reference
from handgrad.testing import Sample, matrix


def reference(boxes1, boxes2, eps=1e-7):
    return distance_box_iou_reference(boxes1, boxes2, eps)


def the_distance_of_two_squares():
    """Their centres are 4 apart, in a box of 6 by 2."""
    first, second = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[4.0, 0, 6, 2]])
    torch.testing.assert_close(distance_box_iou(first, second), torch.tensor([[-16 / 40]]))


def eps_is_the_distances():
    first, second = tables(20, 30)
    torch.testing.assert_close(distance_box_iou(first, second, 1e12), box_iou(first, second))


SPEC = box_matrix_spec(
    distance_box_iou,
    reference,
    {"squares": the_distance_of_two_squares, "eps": eps_is_the_distances},
    samples=[
        Sample("more_rows", tables(4, 3), {"eps": 1e-7}),
        Sample("more_columns", tables(2, 5), {"eps": 0.5}),
        Sample("one", tables(1, 1), {"eps": 0.0}),
    ],
    bad=[eps_of(distance_box_iou)],
    eps=1e-7,
)

test_matrix = matrix(SPEC)
