"""What is asked of all box losses beside their specs: boxes in every relation, kinks, degenerate boxes, types of
number; and what users have reported of other implementations."""

import functools
import re
from pathlib import Path

import pytest
import torch

import handgrad.losses
from box_losses import DEGENERATE, RELATIONS, boxes, pairs, related, with_grads

torchvision = pytest.importorskip("torchvision", exc_type=ImportError)

NAMES = [f"{kind}_box_iou_loss" for kind in ("generalized", "distance", "complete", "efficient", "scylla")]
THEIRS = {name: getattr(torchvision.ops, name) for name in NAMES if hasattr(torchvision.ops, name)}

by_name = pytest.mark.parametrize("name", NAMES)
by_torchvisions = pytest.mark.parametrize("name", THEIRS)


def ours(name):
    return getattr(handgrad.losses, name)


def second_derivatives(function, *tensors):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    first = torch.autograd.grad(function(*leaves).sum(), leaves, create_graph=True)
    total = sum((grad * torch.linspace(-1, 1, grad.numel(), dtype=grad.dtype).view_as(grad)).sum() for grad in first)
    return torch.autograd.grad(total, leaves)


# ---- torchvision's values, at kinks too ------------------------------------------------------------------------------


@by_torchvisions
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values_and_gradients_are_torchvisions(name, dtype, reduction):
    first, second = pairs(1000, dtype=dtype)
    actual = with_grads(ours(name), first, second, reduction=reduction)
    expected = with_grads(THEIRS[name], first, second, reduction=reduction)
    torch.testing.assert_close(actual, expected)


@by_torchvisions
@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_torchvisions_gradients(name, relation):
    """Also where the definition has a kink: a tie goes half to each side, and where boxes only touch nothing moves the
    intersection. First and second derivatives."""
    first, second = (torch.tensor(box, dtype=torch.float64)[None] for box in RELATIONS[relation])
    torch.testing.assert_close(with_grads(ours(name), first, second), with_grads(THEIRS[name], first, second))
    torch.testing.assert_close(
        second_derivatives(ours(name), first, second), second_derivatives(THEIRS[name], first, second)
    )


@by_torchvisions
@pytest.mark.parametrize("relation", DEGENERATE)
def test_degenerate_boxes_have_torchvisions_losses_where_those_are_finite(name, relation):
    first, second = (torch.tensor(box, dtype=torch.float64)[None] for box in DEGENERATE[relation])
    actual, expected = with_grads(ours(name), first, second), with_grads(THEIRS[name], first, second)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine[theirs.isfinite()], theirs[theirs.isfinite()])


@by_torchvisions
def test_one_box_each_is_a_scalar(name):
    first, second = pairs(1)
    torch.testing.assert_close(ours(name)(first[0], second[0]), THEIRS[name](first[0], second[0]))
    assert ours(name)(first[0], second[0]).shape == ()


@by_torchvisions
def test_the_mean_of_no_pairs_is_zero(name):
    """VCasecnikovs/Yet-Another-YOLOv4-Pytorch#16: of images without objects a mean that is NaN stops the training."""
    for function in (ours(name), THEIRS[name]):
        loss, *grads = with_grads(function, torch.zeros(0, 4), torch.zeros(0, 4), reduction="mean")
        assert loss == 0
        assert [grad.shape for grad in grads] == [(0, 4), (0, 4)]


@by_torchvisions
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool], ids=str)
def test_integers_are_float32(name, dtype):
    first, second = torch.tensor([[1, 2, 30, 40], [0, 0, 1, 1]]), torch.tensor([[5, 6, 20, 60], [0, 0, 1, 1]])
    actual, expected = ours(name)(first.to(dtype), second.to(dtype)), THEIRS[name](first.to(dtype), second.to(dtype))
    assert actual.dtype is expected.dtype is torch.float32
    # Bools make boxes of no extent, whose aspect ratio is NaN there.
    torch.testing.assert_close(actual[expected.isfinite()], expected[expected.isfinite()])


@by_torchvisions
@pytest.mark.parametrize("mate", [torch.float32, torch.bfloat16, torch.float16, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_types_are_promoted_as_torchvision_does(name, dtype, mate):
    first, second = pairs(20)
    actual = ours(name)(first.to(dtype), second.to(mate))
    torch.testing.assert_close(actual, THEIRS[name](first.to(dtype), second.to(mate)))


# ---- finite, whatever the boxes --------------------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("relations", [RELATIONS, DEGENERATE], ids=["proper", "degenerate"])
def test_losses_and_gradients_are_finite(name, relations, dtype):
    """Zzh-tju/DIoU-pytorch-detectron#3 and #19, open-mmlab/mmdetection#3394, meituan/YOLOv6#226: NaN for a box without
    area, or for two of one centre; generalized-iou/g-tensorflow-models#3: for one of negative width."""
    first, second = related(relations, dtype)
    for swapped in ((first, second), (second, first)):
        for result in (*with_grads(ours(name), *swapped), *second_derivatives(ours(name), *swapped)):
            assert result.isfinite().all(), dict(zip(relations, result.tolist(), strict=True))


@by_name
def test_one_bad_pair_does_not_spoil_the_others(name):
    """pytorch/vision#5322: NaN is passed on, and no check of values refuses it."""
    first, second = pairs(100, dtype=torch.float32)
    _, *expected = with_grads(ours(name), first, second)
    first[7] = float("nan")
    second[50] = float("nan")
    loss, *grads = with_grads(ours(name), first, second)
    assert loss.isnan().nonzero().flatten().tolist() == [7, 50]
    good = ~loss.isnan()
    torch.testing.assert_close([grad[good] for grad in grads], [grad[good] for grad in expected])


@by_name
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_neither_cancel_nor_overflow(name, dtype):
    """pytorch/vision#3371, facebookresearch/fvcore#114: an area of 65,536 pixels is infinite in float16, and in
    bfloat16 one of 1,000 by 1,000 has three digits. Coordinates are taken as they are stored; all else is float32."""
    first = torch.tensor([[1000.0, 1000, 1016, 1024], [0, 0, 1000, 1000], [0, 0, 60000, 60000]], dtype=dtype)
    second = torch.tensor([[1008.0, 1000, 1024, 1024], [8, 0, 1000, 1000], [0, 0, 60000, 50000]], dtype=dtype)
    actual = with_grads(ours(name), first, second)
    loss, *grads = with_grads(ours(name), first.double(), second.double())
    torch.testing.assert_close(actual[0], loss.float())
    torch.testing.assert_close(actual[1:], tuple(grad.to(dtype) for grad in grads))


@by_name
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_half_types_have_tangents_of_float32(name, reduction):
    """A tangent is like its loss, not like its boxes; alone and in a batch."""
    first, second = pairs(3, 5, dtype=torch.bfloat16)
    way1, way2 = boxes(3, 5, seed=3, dtype=torch.bfloat16), boxes(3, 5, seed=4, dtype=torch.bfloat16)

    loss = functools.partial(ours(name), reduction=reduction)

    def tangent(*tensors):
        return torch.func.jvp(loss, tensors[:2], tensors[2:])[1]

    found = tangent(first, second, way1, way2)
    assert found.dtype is torch.float32
    exact = tangent(*(each.double() for each in (first, second, way1, way2)))
    torch.testing.assert_close(found, exact.float())
    batched = torch.func.vmap(tangent)(first, second, way1, way2)
    expected = torch.stack([tangent(*rows) for rows in zip(first, second, way1, way2, strict=True)])
    torch.testing.assert_close(batched, expected)


@by_name
def test_a_sum_in_float16_does_not_overflow(name):
    first, second = boxes(1, dtype=torch.float16), boxes(1, dtype=torch.float16) + 300
    total = ours(name)(first.expand(100_000, 4), second.expand(100_000, 4), "sum")
    torch.testing.assert_close(total, 100_000 * ours(name)(first, second)[0])


@by_name
def test_identical_boxes_lose_nothing_and_do_not_move(name):
    """But for what eps adds."""
    box = boxes(100, dtype=torch.float64)
    loss, grad1, grad2 = with_grads(ours(name), box, box.clone())
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-8)
    for grad in (grad1, grad2):
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-8)


@by_name
def test_without_eps_proper_boxes_have_losses_too(name):
    first, second = related(RELATIONS, torch.float64)
    for result in (*with_grads(ours(name), first, second, eps=0), *with_grads(ours(name), second, first, eps=0)):
        assert result.isfinite().all()


@by_name
def test_descent_brings_boxes_together(name):
    """The optimizer's view: boxes that do not overlap at the start end on their targets."""
    target = boxes(20, seed=1)
    moving = (boxes(20, seed=2) + torch.tensor([60.0, 50, 60, 50])).requires_grad_()
    optimizer = torch.optim.Adam([moving], lr=1.0)
    before = ours(name)(moving, target, "mean").item()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        optimizer.zero_grad()
        ours(name)(moving, target, "sum").backward()
        optimizer.step()
        schedule.step()
    assert ours(name)(moving, target, "mean") < before / 5


def test_a_detector_of_torchvisions_trains_with_it():
    """FCOS calls the loss in the middle of a method."""
    from torchvision.models.detection.fcos import FCOSHead

    from handgrad.transfer import replace_functions

    torch.manual_seed(0)
    head, mine = FCOSHead(32, 1, 2, num_convs=1), FCOSHead(32, 1, 2, num_convs=1)
    mine.load_state_dict(head.state_dict())
    function = THEIRS["generalized_box_iou_loss"]
    report = replace_functions(mine, {function: ours("generalized_box_iou_loss")})
    assert "compute_loss calls generalized_box_iou_loss -> generalized_box_iou_loss" in str(report)
    anchors = [boxes(16, dtype=torch.float32)]
    targets = [{"boxes": boxes(5, seed=1, dtype=torch.float32), "labels": torch.ones(5, dtype=torch.int64)}]
    matched = [torch.arange(16) % 6 - 1]
    features = [torch.randn(1, 32, 4, 4)]
    theirs, mines = (
        each.compute_loss(targets, each(features), anchors, matched)["bbox_regression"] for each in (head, mine)
    )
    torch.testing.assert_close(mines, theirs)
    actual, expected = (
        torch.autograd.grad(loss, list(each.regression_head.bbox_reg.parameters()))
        for loss, each in ((mines, mine), (theirs, head))
    )
    torch.testing.assert_close(actual, expected)


def test_the_documents_table_is_computed():
    page = Path(__file__).resolve().parents[2] / "docs/losses/generalized_box_iou_loss.md"
    others = [(4, 0, 12, 4), (8, 0, 16, 4), (16, 0, 24, 4), (88, 0, 96, 4), (2, 1, 6, 3), (0, 0, 4, 2), (2, -2, 6, 6)]
    rows = re.findall(r"^\| (?:shifted|4 by) [^|]*\|(.*)\|$", page.read_text(), re.M)
    box = torch.tensor([0.0, 0, 8, 4])
    computed = [[f"{ours(name)(box, torch.tensor(other)).item():.2f}" for name in NAMES] for other in others]
    assert [row.replace(" ", "").split("|") for row in rows] == computed
