"""Quality focal loss: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import QualityFocalLoss, quality_focal_loss, sigmoid_focal_loss
from handgrad.losses.quality_focal_loss import quality_focal_loss_reference
from handgrad.reductions import reduce, reduction_code
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(inputs, targets, beta=2.0, reduction="none"):
    loss = quality_focal_loss_reference(inputs, targets, beta)
    return reduce(loss, reduction_code("quality_focal_loss", reduction))


def tensors(*shape, apart=0.02, dtype=torch.float64):
    """Logits and targets in (0, 1), whose distance |target - sigmoid(logit)| is at least ``apart``: at 0 is a kink."""
    generator = reseeded(len(shape))
    logits = 2 * torch.randn(*shape, dtype=dtype, generator=generator)
    targets = 0.05 + 0.9 * torch.rand(*shape, dtype=dtype, generator=generator)
    near = (targets - logits.sigmoid()).abs() < apart
    return torch.where(near, logits + 0.5, logits), targets


def with_hard_targets_it_is_the_focal_loss():
    logits, targets = tensors(7, 5)
    expected = sigmoid_focal_loss(logits, targets.round(), alpha=-1, gamma=1.5)
    torch.testing.assert_close(quality_focal_loss(logits, targets.round(), beta=1.5), expected)


def beta_zero_is_cross_entropy():
    logits, targets = tensors(7, 5)
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(quality_focal_loss(logits, targets, beta=0.0, reduction="mean"), expected)


def classes_are_mirror_images():
    logits, targets = tensors(7, 5)
    torch.testing.assert_close(quality_focal_loss(logits, targets), quality_focal_loss(-logits, 1 - targets))


def sum_is_the_sum_of_the_map():
    inputs, targets = tensors(37, 41)
    loss = quality_focal_loss(inputs, targets)
    torch.testing.assert_close(quality_focal_loss(inputs, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(quality_focal_loss(inputs, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    inputs, targets = torch.tensor([0.5]), torch.tensor([1.0])
    many = quality_focal_loss(inputs.expand(n), targets.expand(n), reduction="mean")
    torch.testing.assert_close(many, quality_focal_loss(inputs, targets)[0])


INPUTS, TARGETS = tensors(4, 3)

SPEC = OpSpec(
    name="quality_focal_loss",
    operator="handgrad::quality_focal_loss",
    function=quality_focal_loss,
    reference=reference,
    module=QualityFocalLoss,
    samples=[
        Sample("map", tensors(4, 3), {"reduction": "none"}),
        Sample("beta_1.5_mean", tensors(5), {"beta": 1.5, "reduction": "mean"}),
        Sample("beta_0.5_sum", tensors(2, 3, 2, 2), {"beta": 0.5, "reduction": "sum"}),
    ],
    large=Sample("large", tensors(1031, 83, dtype=torch.float32), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_columns_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad("beta", lambda: QualityFocalLoss(-1.0), ValueError, r"beta must be a finite number, at least 0; got -1\.0"),
        Bad("reduction", lambda: QualityFocalLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "shape",
            lambda: quality_focal_loss(INPUTS, TARGETS[:2]),
            RuntimeError,
            r"targets must have the shape of inputs, \(4, 3\); got \(2, 3\)",
        ),
    ],
    identities={
        "focal": with_hard_targets_it_is_the_focal_loss,
        "cross_entropy": beta_zero_is_cross_entropy,
        "mirror": classes_are_mirror_images,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Under a reduction every thread reads the one grad_output for its four elements; all but the first from a cache.
    floor_factors={"backward": 1.07},
)

test_matrix = matrix(SPEC)


def detector_loss(logits, label, quality, beta):
    """The loss as detectors write it: of each row the class and its quality, the other classes being negatives."""
    targets = F.one_hot(label, logits.shape[1] + 1)[:, :-1] * quality[:, None]
    distance = (targets - logits.sigmoid()).abs()
    return (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * distance**beta).sum(1)


@pytest.mark.parametrize("beta", [2.0, 1.5])
def test_a_class_and_its_quality(beta):
    generator = reseeded(3)
    logits = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    label, quality = torch.tensor([0, 3, 4, 2, 4, 1]), torch.rand(6, dtype=torch.float64, generator=generator)
    targets = F.one_hot(label, 5)[:, :-1] * quality[:, None]
    torch.testing.assert_close(
        quality_focal_loss(logits, targets, beta).sum(1), detector_loss(logits, label, quality, beta)
    )


@pytest.mark.parametrize("beta", [2.0, 1.5, 1.0, 0.5])
def test_at_the_target_the_loss_and_its_first_derivatives_are_zero(beta):
    """A kink for beta up to 1; for all the derivative of the middle is taken."""
    inputs = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    targets = torch.full_like(inputs, 0.5, requires_grad=True)
    loss = quality_focal_loss(inputs, targets, beta)
    assert loss.tolist() == [0.0] * 4
    assert all(grad.tolist() == [0.0] * 4 for grad in torch.autograd.grad(loss.sum(), (inputs, targets)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [2.0, 1.5])
def test_confident_predictions_keep_their_accuracy(dtype, beta):
    """Right ones have a loss that 1 - sigmoid(x) would round to 0; wrong and infinite ones stay finite where the limit
    is. Infinite losses of detectors: VarifocalNet#26, GFocalV2#4."""
    inputs = torch.tensor([30.0, -30.0, 80.0, torch.inf, -torch.inf, 1e4], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=dtype)
    loss = quality_focal_loss(inputs, targets, beta)
    (grad,) = torch.autograd.grad(loss.sum(), inputs)
    tiny = torch.tensor([30.0], dtype=torch.float64).neg().exp()
    expected = tiny ** (beta + 1)  # log(1 + e) = e, and the distance is e
    torch.testing.assert_close(loss[:2].double(), expected.expand(2), rtol=1e-5, atol=0)
    assert loss[3:].tolist() == [0.0, 0.0, 1e4]
    assert torch.isfinite(grad).all()
    torch.testing.assert_close(grad[5], torch.ones((), dtype=dtype))


def test_nan_stays_where_it_is():
    loss = quality_focal_loss(torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([1.0, float("nan"), 0.0]))
    assert loss.isnan().tolist() == [True, True, False]
