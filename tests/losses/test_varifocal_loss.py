"""Varifocal loss: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import VarifocalLoss, quality_focal_loss, varifocal_loss
from handgrad.losses.varifocal_loss import varifocal_loss_reference
from handgrad.reductions import reduce, reduction_code
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(inputs, targets, alpha=0.75, gamma=2.0, iou_weighted=True, reduction="none"):
    loss = varifocal_loss_reference(inputs, targets, alpha, gamma, iou_weighted)
    return reduce(loss, reduction_code("varifocal_loss", reduction))


def tensors(*shape, dtype=torch.float64):
    """Logits, and targets of which a third is positive. The negatives are a little below 0, where the definition goes
    on: at 0 itself is a step."""
    generator = reseeded(len(shape))
    logits = 2 * torch.randn(*shape, dtype=dtype, generator=generator)
    targets = 0.05 + 0.9 * torch.rand(*shape, dtype=dtype, generator=generator)
    return logits, torch.where(targets > 0.65, targets, -0.1 * targets)


def negatives_alone_are_the_quality_focal_loss():
    logits, _ = tensors(7, 5)
    zeros = torch.zeros_like(logits)
    expected = 0.75 * quality_focal_loss(logits, zeros, beta=1.5)
    torch.testing.assert_close(varifocal_loss(logits, zeros, gamma=1.5), expected)


def positives_alone_are_weighted_cross_entropy():
    logits, targets = tensors(7, 5)
    targets = targets.abs() + 0.01
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(varifocal_loss(logits, targets, iou_weighted=False), expected)
    torch.testing.assert_close(varifocal_loss(logits, targets), targets * expected)


def sum_is_the_sum_of_the_map():
    inputs, targets = tensors(37, 41)
    loss = varifocal_loss(inputs, targets)
    torch.testing.assert_close(varifocal_loss(inputs, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(varifocal_loss(inputs, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    inputs, targets = torch.tensor([0.5]), torch.tensor([0.0])
    many = varifocal_loss(inputs.expand(n), targets.expand(n), reduction="mean")
    torch.testing.assert_close(many, varifocal_loss(inputs, targets)[0])


INPUTS, TARGETS = tensors(4, 3)

SPEC = OpSpec(
    name="varifocal_loss",
    operator="handgrad::varifocal_loss",
    function=varifocal_loss,
    reference=reference,
    module=VarifocalLoss,
    samples=[
        Sample("map", tensors(4, 3), {"reduction": "none"}),
        Sample("gamma_1.5_mean", tensors(5), {"alpha": 0.3, "gamma": 1.5, "reduction": "mean"}),
        Sample("unweighted_sum", tensors(2, 3, 2, 2), {"gamma": 0.5, "iou_weighted": False, "reduction": "sum"}),
    ],
    large=Sample("large", tensors(1031, 83, dtype=torch.float32), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_columns_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad("alpha", lambda: VarifocalLoss(-1.0), ValueError, r"alpha must be a finite number, at least 0; got -1\.0"),
        Bad("gamma", lambda: VarifocalLoss(gamma=-1.0), ValueError, r"gamma must be a finite number, at least 0"),
        Bad("weighted", lambda: VarifocalLoss(iou_weighted=1), TypeError, "iou_weighted must be True or False; got 1"),
        Bad("reduction", lambda: VarifocalLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "shape",
            lambda: varifocal_loss(INPUTS, TARGETS[:2]),
            RuntimeError,
            r"targets must have the shape of inputs, \(4, 3\); got \(2, 3\)",
        ),
    ],
    identities={
        "negatives": negatives_alone_are_the_quality_focal_loss,
        "positives": positives_alone_are_weighted_cross_entropy,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Under a reduction every thread reads the one grad_output for its four elements; all but the first from a cache.
    floor_factors={"backward": 1.07},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_targets_of_exactly_zero_are_negatives(gamma):
    """The derivative with respect to such a target is that of the negatives' formula, on both sides of the step."""
    inputs = torch.tensor([-1.5, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    targets = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(
        varifocal_loss_reference(inputs, targets, 0.75, gamma, True).sum(), (inputs, targets)
    )
    actual = torch.autograd.grad(varifocal_loss(inputs, targets, gamma=gamma).sum(), (inputs, targets))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confident_predictions_stay_finite(dtype):
    """Logits for which log(sigmoid(x)) is minus infinity: VarifocalNet#26."""
    inputs = torch.tensor([-1e8, -1e8, 1e4, torch.inf, -torch.inf], dtype=dtype, requires_grad=True)
    targets = torch.tensor([0.0, 0.5, 0.0, 1.0, 0.0], dtype=dtype)
    loss = varifocal_loss(inputs, targets)
    (grad,) = torch.autograd.grad(loss.sum(), inputs)
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.25e8, 0.75e4, 0.0, 0.0], dtype=dtype))
    torch.testing.assert_close(grad, torch.tensor([0.0, -0.25, 0.75, 0.0, 0.0], dtype=dtype))


def test_nan_stays_where_it_is():
    loss = varifocal_loss(torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([1.0, float("nan"), 0.0]))
    assert loss.isnan().tolist() == [True, True, False]
