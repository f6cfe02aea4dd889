"""What torchvision asks of its boxes and losses, asked of ours through torchvision's own names, against plain
loops. The differences that stay are in docs/torchvision.md; each is a test here.
"""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.testing import reseeded
from swapped_torchvision import BOX_LOSSES, THEIRS, ops, random, swapped  # noqa: F401 (a fixture that is used of itself)

# ---- non-maximum suppression -----------------------------------------------------------------------------------------


def boxes_of(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    numbers = random(count, 5, seed=seed, dtype=torch.float32)
    corner, size = numbers[:, :2] * 100, numbers[:, 2:4] * 60 + 1
    return torch.cat([corner, corner + size], 1), numbers[:, 4]


def kept_by_a_loop(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    waiting, kept = scores.argsort(descending=True, stable=True).tolist(), []
    while waiting:
        best, *waiting = waiting
        kept.append(best)
        if waiting:
            overlaps = ops.box_iou(boxes[best][None], boxes[waiting])[0]
            waiting = [index for index, overlap in zip(waiting, overlaps.tolist(), strict=True) if overlap <= threshold]
    return kept


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_nms_is_the_loop(threshold, seed):
    boxes, scores = boxes_of(300, seed)
    assert ops.nms(boxes, scores, threshold).tolist() == kept_by_a_loop(boxes, scores, threshold)
    # At the threshold itself: two boxes that share three quarters.
    pair = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3]])
    assert ops.nms(pair, torch.tensor([0.1, 0.9]), 0.75).tolist() == [1, 0]


@pytest.mark.parametrize(("boxes", "scores"), [((4,), (4,)), ((3, 5), (3,)), ((3, 4), (3, 2)), ((3, 4), (4,))], ids=str)
def test_nms_of_shapes_that_do_not_fit_is_a_runtime_error(boxes, scores):
    for function in (ops.nms, THEIRS["nms"]):
        with pytest.raises(RuntimeError):
            function(torch.rand(boxes), torch.rand(scores), 0.5)


@pytest.mark.parametrize(("scale", "zero_point"), [(1.0, 0), (2.0, 50), (3.0, 10)])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_nms_of_quantized_boxes_is_that_of_their_numbers(threshold, scale, zero_point):
    boxes, scores = boxes_of(200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of quantized tensors in general
        boxes = torch.quantize_per_tensor(boxes, scale, zero_point, torch.quint8)
        scores = torch.quantize_per_tensor(scores, 1 / 255, 0, torch.quint8)
        found = ops.nms(boxes, scores, threshold)
        assert torch.equal(found, ops.nms(boxes.dequantize(), scores.dequantize(), threshold))
        assert torch.equal(found, THEIRS["nms"](boxes, scores, threshold))


@pytest.mark.parametrize("boxes_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scores_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_nms_under_autocast_takes_all_types_together(boxes_dtype, scores_dtype):
    boxes, scores = boxes_of(100)
    boxes, scores = boxes.to(boxes_dtype), scores.to(scores_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ops.nms(boxes, scores, 0.5)
        assert torch.equal(found, THEIRS["nms"](boxes, scores, 0.5))
    assert torch.equal(found, ops.nms(boxes.float(), scores.float(), 0.5))
    if boxes_dtype is not scores_dtype:
        for function in (ops.nms, THEIRS["nms"]):
            with pytest.raises(RuntimeError):
                function(boxes, scores, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_batched_nms_is_both_of_torchvisions(seed):
    boxes, scores = boxes_of(500, seed)
    idxs = torch.randint(0, 4, (500,), generator=reseeded(seed))
    found = ops.batched_nms(boxes, scores, idxs, 0.8)
    # torchvision's own two, over our nms and over its own.
    for one_by_one in (ops.boxes._batched_nms_vanilla, ops.boxes._batched_nms_coordinate_trick):
        assert torch.equal(found, one_by_one(boxes, scores, idxs, 0.8))
    assert torch.equal(found, THEIRS["batched_nms"](boxes, scores, idxs, 0.8))
    none = boxes[:0]
    assert torch.equal(ops.batched_nms(none, none[:, 0], none[:, 0].long(), 0.8), torch.empty(0, dtype=torch.int64))


def test_batched_nms_of_no_boxes_wants_tensors_all_the_same():
    empty = torch.empty(0)
    assert THEIRS["batched_nms"](empty, None, None, None).numel() == 0
    with pytest.raises(TypeError, match=r"scores must be a torch\.Tensor; got NoneType"):
        ops.batched_nms(empty, None, None, None)


# ---- focal loss ------------------------------------------------------------------------------------------------------


def logits_and_labels(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    return 20 * random(40, 50, seed=seed, dtype=dtype) - 10, (random(40, 50, seed=seed + 1) > 0.7).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("gamma", [0, 2])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.58, 1.0])
def test_the_ratio_of_focal_loss_to_cross_entropy(alpha, gamma, dtype):
    logits, labels = logits_and_labels(dtype)
    losses = ops.sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma).double()
    x, t = logits.double(), labels.double()
    plain = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    correct = torch.where(t == 1, x.sigmoid(), (-x).sigmoid())
    weight = 1.0 if alpha < 0 else torch.where(t == 1, alpha, 1 - alpha)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(losses, weight * (1 - correct) ** gamma * plain, rtol=tolerance, atol=1e-7)
    theirs = THEIRS["sigmoid_focal_loss"](x, t, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(losses, theirs, rtol=tolerance, atol=1e-7)


def test_focal_loss_is_the_number_nearest_to_the_formula_not_below_torchs_cross_entropy():
    """torchvision asks for the second to the bit, and torch's cross entropy of float32 is off where it is small."""
    logits, labels = logits_and_labels()
    losses = ops.sigmoid_focal_loss(logits, labels, alpha=-1, gamma=0).double()
    plain = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").double()
    exact = torch.log1p(torch.exp(torch.where(labels == 1, -logits.double(), logits.double())))
    ours, torchs = ((found - exact).abs() / exact for found in (losses, plain))
    assert (losses > plain).any()
    assert ours.max() < 1e-6
    assert torchs.max() > 10 * ours.max()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reductions_of_focal_loss(reduction):
    logits, labels = logits_and_labels()
    found = ops.sigmoid_focal_loss(logits, labels, alpha=-1, gamma=0, reduction=reduction)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, labels, reduction=reduction))
    for function in (ops.sigmoid_focal_loss, THEIRS["sigmoid_focal_loss"]):
        with pytest.raises(ValueError, match=r"reduction|Invalid"):
            function(logits, labels, reduction="xyz")


# ---- box losses ------------------------------------------------------------------------------------------------------

# A square of 2 by 2, the quarter of it at the far corner, and squares below and diagonally beyond that quarter.
SQUARES = torch.tensor([[-1.0, -1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 2], [1, 1, 2, 2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Against the quarter: IoU 1/4, centres 1/2 apart along both axes in a diagonal of 8. The others by counting
        # squares.
        ("generalized_box_iou_loss", [0.0, 0.75, 1 + 1 / 6, 1 + 4 / 9]),
        ("distance_box_iou_loss", [0.0, 0.75 + 0.5 / 8, 1 + 2.5 / 13, 1 + 4.5 / 18]),
        ("complete_box_iou_loss", [0.0, 0.75 + 0.5 / 8, 1 + 2.5 / 13, 1 + 4.5 / 18]),
    ],
)
def test_box_losses_of_squares(name, expected, dtype):
    first, second = SQUARES[:1].expand(4, 4).to(dtype), SQUARES.to(dtype)
    expected = torch.tensor(expected)
    for function in (getattr(ops, name), THEIRS[name]):
        losses = function(first, second)
        torch.testing.assert_close(losses.float(), expected)
        torch.testing.assert_close(function(second, first), losses)
        torch.testing.assert_close(function(first, second, reduction="sum").float(), expected.sum())
        torch.testing.assert_close(function(first, second, reduction="mean").float(), expected.mean())


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_box_losses_take_no_other_reduction_and_no_boxes(name):
    for function in (getattr(ops, name), THEIRS[name]):
        with pytest.raises(ValueError, match=r"reduction|Invalid"):
            function(SQUARES[0], SQUARES[1], reduction="xyz")
        boxes = torch.zeros(0, 4, requires_grad=True)
        loss = function(boxes, torch.zeros(0, 4), reduction="mean")
        loss.backward()
        assert loss == 0
        assert boxes.grad.shape == (0, 4)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_broadcast_boxes_are_refused(name):
    """torchvision broadcasts the second boxes to the first, not the first to the second, and documents neither."""
    assert THEIRS[name](SQUARES, SQUARES[0]).shape == (4,)
    with pytest.raises(RuntimeError, match=r"boxes2 must have the shape of boxes1, \(4, 4\); got \(4,\)"):
        getattr(ops, name)(SQUARES, SQUARES[0])


# ---- scripts ---------------------------------------------------------------------------------------------------------


def test_scripts_are_refused_and_traces_are_not():
    functions = [ops.nms, ops.roi_align, ops.deform_conv2d, ops.sigmoid_focal_loss]
    for function in (*functions, *(getattr(ops, name) for name in BOX_LOSSES)):
        with pytest.raises(RuntimeError, match=r"torch\.jit\.script cannot compile it. Use torch\.jit\.trace"):
            torch.jit.script(function)
    logits, labels = logits_and_labels()
    traced = torch.jit.trace(lambda x, t: ops.sigmoid_focal_loss(x, t, reduction="mean"), (logits, labels))
    torch.testing.assert_close(traced(logits, labels), THEIRS["sigmoid_focal_loss"](logits, labels, reduction="mean"))
