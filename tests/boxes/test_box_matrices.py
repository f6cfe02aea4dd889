"""What is asked of all measures of pairs of boxes beside their specs: boxes in every relation, kinks, degenerate boxes,
batches, types of number; and what users have reported of other implementations."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import handgrad.boxes
import handgrad.losses
from box_losses import DEGENERATE, RELATIONS, boxes, related, with_grads
from box_matrices import one_by_one, tables

torchvision = pytest.importorskip("torchvision", exc_type=ImportError)

NAMES = ["box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"]
WITH_LOSSES = NAMES[1:]

by_name = pytest.mark.parametrize("name", NAMES)
NAN = float("nan")


def ours(name):
    return getattr(handgrad.boxes, name)


def theirs(name):
    return getattr(torchvision.ops, name)


def second_derivatives(function, *tensors):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    first = torch.autograd.grad(function(*leaves).sum(), leaves, create_graph=True)
    total = sum((grad * torch.linspace(-1, 1, grad.numel(), dtype=grad.dtype).view_as(grad)).sum() for grad in first)
    return torch.autograd.grad(total, leaves)


# ---- torchvision's values, at kinks too ------------------------------------------------------------------------------


@by_name
def test_values_and_gradients_are_torchvisions(name):
    """More boxes than a block of pairs has rows and columns, and no multiple of anything."""
    first, second = tables(70, 301)
    torch.testing.assert_close(with_grads(ours(name), first, second), with_grads(theirs(name), first, second))
    torch.testing.assert_close(
        second_derivatives(ours(name), first, second), second_derivatives(theirs(name), first, second)
    )


@by_name
@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_torchvisions_gradients(name, relation):
    """Also where the definition has a kink: a tie goes half to each side, and where boxes only touch nothing moves the
    intersection. First and second derivatives."""
    first, second = (torch.tensor([box], dtype=torch.float64) for box in RELATIONS[relation])
    torch.testing.assert_close(with_grads(ours(name), first, second), with_grads(theirs(name), first, second))
    torch.testing.assert_close(
        second_derivatives(ours(name), first, second), second_derivatives(theirs(name), first, second)
    )


@by_name
@pytest.mark.parametrize("relation", [name for name in DEGENERATE if name != "swapped_corners"])
def test_degenerate_boxes_have_torchvisions_results_where_those_are_finite(name, relation):
    first, second = (torch.tensor([box], dtype=torch.float64) for box in DEGENERATE[relation])
    actual, expected = with_grads(ours(name), first, second), with_grads(theirs(name), first, second)
    for mine, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine[other.isfinite()], other[other.isfinite()])


@pytest.mark.parametrize("name", WITH_LOSSES)
def test_a_matrix_is_one_less_the_losses_of_its_pairs(name):
    """pytorch/vision#6317: distance_box_iou and complete_box_iou once failed for 5 boxes and 6, and were wrong for as
    many."""
    first, second = tables(5, 6)
    loss = getattr(handgrad.losses, f"{name}_loss")
    expected = 1 - loss(first[:, None].expand(5, 6, 4), second.expand(5, 6, 4))
    torch.testing.assert_close(ours(name)(first, second), expected, rtol=1e-6, atol=1e-6)


# ---- finite, whatever the boxes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "eps"), [(name, {}) for name in NAMES] + [(name, {"eps": 0.0}) for name in NAMES[2:]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relations", [RELATIONS, DEGENERATE], ids=["proper", "degenerate"])
def test_results_are_finite(name, relations, dtype, eps):
    """pytorch/vision#3404, #6974, open-mmlab/mmdetection#2975: NaN for two boxes without area. Each box against each,
    itself too; without eps as well."""
    first, second = related(relations, dtype)
    table = torch.cat([first, second])

    def function(*tensors):
        return ours(name)(*tensors, **eps)

    results = (*with_grads(function, table, table), *second_derivatives(function, table, table))
    for result in results:
        assert result.isfinite().all()


@by_name
def test_two_boxes_without_area_share_nothing(name):
    """pytorch/vision#3404: with the boxes reported there, whose corners are swapped so that their areas add up to 0."""
    first, second = torch.tensor([[10.0, 40, 20, 20]]), torch.tensor([[60.0, 50, 40, 40]])
    assert ours(name)(first, second).isfinite().all()
    assert theirs("box_iou")(first, second).isnan().all()
    assert handgrad.boxes.box_iou(first, second).eq(0).all()
    point = torch.zeros(1, 4)
    assert ours(name)(point, point).eq(0).all()


@pytest.mark.parametrize("name", ["generalized_box_iou", "complete_box_iou"])
def test_a_matcher_gets_no_nan(name):
    """roboflow/rf-detr#784, open-mmlab/mmdetection#4902: "matrix contains invalid numeric entries", of a cost for which
    a prediction without area met a target without area."""
    scipy_optimize = pytest.importorskip("scipy.optimize")
    predictions = torch.cat([boxes(3, dtype=torch.float32), torch.tensor([[5.0, 5, 5, 9], [0, 0, 0, 0], [5, 5, 5, 9]])])
    targets = torch.tensor([[5.0, 5, 5, 9], [1, 1, 9, 9], [0, 0, 0, 0]])
    assert theirs(name)(predictions, targets).isnan().any()
    rows, columns = scipy_optimize.linear_sum_assignment(-ours(name)(predictions, targets).numpy())
    assert sorted(columns) == [0, 1, 2]
    assert len(set(rows)) == 3


@by_name
def test_one_bad_box_spoils_its_row_and_column_alone(name):
    first, second = tables(40, 300, dtype=torch.float32)
    expected = ours(name)(first, second)
    first[7] = NAN
    second[299, 2] = NAN
    matrix, grad1, grad2 = with_grads(ours(name), first, second)
    bad = torch.zeros_like(matrix, dtype=torch.bool)
    bad[7] = True
    bad[:, 299] = True
    assert torch.equal(matrix.isnan(), bad)
    assert torch.equal(matrix[~bad], expected[~bad])
    # Each box has met a bad one.
    assert grad1.isnan().any(1).all()
    assert grad2.isnan().any(1).all()


@by_name
def test_infinite_boxes(name):
    """A finite part of an infinite union is nothing; all else is infinity over infinity."""
    first = torch.tensor([[0.0, 0, torch.inf, 5]])
    second = torch.tensor([[1.0, 1, 4, 4], [1, 1, torch.inf, 4]])
    expected = torch.tensor([[0.0 if name == "box_iou" else NAN, NAN]])
    torch.testing.assert_close(ours(name)(first, second), expected, equal_nan=True)
    torch.testing.assert_close(theirs(name)(first, second), expected, equal_nan=True)


# ---- types of number -------------------------------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_neither_cancel_nor_overflow(name, dtype):
    """pytorch/vision#3371, ultralytics/yolov5#2376: an area of 65,536 pixels is infinite in float16; identical boxes
    were NaN. Coordinates are taken as they are stored; all else is float32."""
    first = torch.tensor([[1000.0, 1000, 1016, 1024], [0, 0, 1000, 1000], [0, 0, 60000, 60000]], dtype=dtype)
    second = torch.tensor([[1008.0, 1000, 1024, 1024], [8, 0, 1000, 1000], [0, 0, 60000, 50000]], dtype=dtype)
    actual = with_grads(ours(name), first, second)
    matrix, *grads = with_grads(ours(name), first.double(), second.double())
    torch.testing.assert_close(actual[0], matrix.float())
    torch.testing.assert_close(actual[1:], tuple(grad.to(dtype) for grad in grads))
    assert ours(name)(first, first).diagonal().eq(1).all()


@by_name
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8], ids=str)
@pytest.mark.tiers("whole")
def test_integers_are_float32(name, dtype):
    """Project-MONAI/MONAI#8369: of integer boxes an IoU was cut off to an integer, 0. Narrow types wrap around in
    torchvision, where their differences are below 0."""
    first, second = torch.tensor([[1, 2, 30, 40], [0, 0, 9, 1]]), torch.tensor([[5, 6, 20, 60], [80, 90, 100, 99]])
    actual, expected = ours(name)(first.to(dtype), second.to(dtype)), theirs(name)(first, second)
    assert actual.dtype is expected.dtype is torch.float32
    torch.testing.assert_close(actual, expected)


@by_name
@pytest.mark.parametrize("mate", [torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.tiers("whole")
def test_types_are_promoted(name, dtype, mate):
    first, second = tables(5, 6)
    first, second = first.to(dtype), second.to(mate)
    actual = ours(name)(first, second)
    assert actual.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(actual, ours(name)(first.double(), second.double()).to(actual.dtype))


# ---- batches ---------------------------------------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("batch", [(2,), (2, 3), (1, 2, 1)], ids=str)
def test_batches_are_computed_each_by_itself(name, batch):
    """pytorch/vision#3478, in which batches were asked for."""
    first, second = tables(*batch, 35, 6)
    matrix, grad1, grad2 = with_grads(ours(name), first, second)
    flat = [with_grads(ours(name), a, b) for a, b in zip(first.flatten(0, -3), second.flatten(0, -3), strict=True)]
    for found, each in zip((matrix, grad1, grad2), zip(*flat, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(each).view_as(found))


@by_name
@pytest.mark.parametrize(("batch1", "batch2"), [((), (3,)), ((2, 1), (3,)), ((1,), (2, 4))], ids=str)
def test_batches_are_broadcast_as_torchvision_does(name, batch1, batch2):
    first, second = boxes(*batch1, 5, seed=1), boxes(*batch2, 6, seed=2)
    torch.testing.assert_close(with_grads(ours(name), first, second), with_grads(theirs(name), first, second))


# Finite differences of the complete one see its alpha move.
@pytest.mark.parametrize("name", NAMES[:3])
def test_batches_have_derivatives_in_any_memory_order(name):
    first, second = boxes(3, 2, seed=1).transpose(0, 1), boxes(4, 2, 2, seed=2)[..., 1, :].transpose(0, 1)
    assert not first.is_contiguous()
    assert not second.is_contiguous()
    leaves = first.requires_grad_(), second.requires_grad_()
    assert gradcheck(ours(name), leaves)
    assert gradgradcheck(ours(name), leaves)


@by_name
@pytest.mark.tiers("whole")
def test_batches_under_vmap(name):
    """Over both tables, over one, and of a gradient."""
    first, second = tables(3, 5, 6)
    expected = torch.stack([ours(name)(a, b) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(torch.vmap(ours(name))(first, second), expected)
    shared = torch.stack([ours(name)(a, second[0]) for a in first])
    torch.testing.assert_close(torch.vmap(ours(name), (0, None))(first, second[0]), shared)

    def gradient(a, b):
        return torch.func.grad(lambda *tensors: ours(name)(*tensors).square().sum(), (0, 1))(a, b)

    grads = torch.vmap(gradient, (0, None))(first, second[0])
    each = [gradient(a, second[0]) for a in first]
    torch.testing.assert_close(grads, tuple(map(torch.stack, zip(*each, strict=True))))


@by_name
@pytest.mark.tiers("whole")
def test_one_compiled_graph_serves_any_numbers_of_boxes(name):
    compiled = torch.compile(ours(name), backend="aot_eager", fullgraph=True, dynamic=True)
    for counts in ((3, 5), (7, 2), (2, 4, 6)):
        first, second = tables(*counts)
        torch.testing.assert_close(compiled(first, second), ours(name)(first, second))


@by_name
def test_every_pair_by_itself(name):
    """Around the ends of blocks, of which the last is not full."""
    for rows, columns in ((33, 3), (2, 129), (65, 1), (1, 257)):
        first, second = tables(rows, columns, dtype=torch.float32)
        matrix = ours(name)(first, second)
        corner = one_by_one(ours(name), first[-2:], second[-2:])
        torch.testing.assert_close(matrix[-2:, -2:], corner, rtol=0, atol=0)
