"""Complete IoU of all pairs: its spec, and what is peculiar to it."""

import torch

from box_losses import boxes
from box_matrices import box_matrix_spec, eps_of, tables
from handgrad.boxes import complete_box_iou, distance_box_iou
from handgrad.boxes.complete_box_iou import complete_box_iou_reference
from handgrad.testing import Sample, matrix


def reference(boxes1, boxes2, eps=1e-7):
    return complete_box_iou_reference(boxes1, boxes2, eps)


def alike(*counts):
    """Boxes that all have one aspect ratio. There alpha is 0, and so is its derivative, which the definition leaves out
    and finite differences do not; for other pairs see below."""

    def of_one_ratio(table):
        width = table[..., 2:3] - table[..., :1]
        return torch.cat([table[..., :2], table[..., :2] + width * torch.tensor([1.0, 0.75], dtype=table.dtype)], -1)

    return tuple(map(of_one_ratio, tables(*counts)))


def one_aspect_ratio_has_the_distance_iou():
    first, second = alike(20, 30)
    torch.testing.assert_close(complete_box_iou(first, second), distance_box_iou(first, second))


def a_square_and_a_bar():
    """Arctan of 1 and of infinity are pi / 4 apart: v is a quarter, with boxes apart alpha is a fifth."""
    square, bar = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[10.0, 0, 12, 0]])
    torch.testing.assert_close(complete_box_iou(square, bar), distance_box_iou(square, bar) - 0.25 * 0.2)


SPEC = box_matrix_spec(
    complete_box_iou,
    reference,
    {"ratio": one_aspect_ratio_has_the_distance_iou, "bar": a_square_and_a_bar},
    samples=[
        Sample("more_rows", alike(4, 3), {"eps": 1e-7}),
        Sample("more_columns", alike(2, 5), {"eps": 0.5}),
        Sample("one", alike(1, 1), {"eps": 0.0}),
    ],
    bad=[eps_of(complete_box_iou)],
    eps=1e-7,
)

test_matrix = matrix(SPEC)


def test_of_any_ratio_all_derivatives_are_the_references():
    """Which torch differentiates with alpha a number: first, second and third, and forward mode."""
    first, second = boxes(6), boxes(5, seed=9)

    def derivatives(function):
        leaves = [tensor.detach().requires_grad_() for tensor in (first, second)]
        grads, found = (function(*leaves),), []
        for _ in range(3):
            weights = [torch.linspace(-1, 1, grad.numel(), dtype=grad.dtype).view_as(grad) for grad in grads]
            grads = torch.autograd.grad(grads, leaves, weights, create_graph=True)
            found += grads
        return [*found, torch.func.jvp(function, (first, second), (first + 1, second - 1))[1]]

    torch.testing.assert_close(derivatives(complete_box_iou), derivatives(reference))
