"""Gaussian focal loss: its spec, and what is peculiar to it."""

import functools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from handgrad.losses import GaussianFocalLoss, gaussian_focal_loss, sigmoid_focal_loss
from handgrad.losses.gaussian_focal_loss import gaussian_focal_loss_reference
from handgrad.reductions import reduce, reduction_code
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(inputs, targets, alpha=2.0, gamma=4.0, reduction="none"):
    loss = gaussian_focal_loss_reference(inputs, targets, alpha, gamma)
    return reduce(loss, reduction_code("gaussian_focal_loss", reduction))


def tensors(*shape, dtype=torch.float64):
    """Logits, and a map without peaks: at 1 itself is a step. Peaks have tests below."""
    generator = reseeded(len(shape))
    logits = 2 * torch.randn(*shape, dtype=dtype, generator=generator)
    return logits, 0.9 * torch.rand(*shape, dtype=dtype, generator=generator)


def with_peaks(*shape, dtype=torch.float64):
    logits, targets = tensors(*shape, dtype=dtype)
    return logits, torch.where(targets > 0.6, torch.ones_like(targets), targets)


def peaks_alone_are_the_focal_loss():
    logits, _ = tensors(7, 5)
    ones = torch.ones_like(logits)
    expected = sigmoid_focal_loss(logits, ones, alpha=-1, gamma=1.5)
    torch.testing.assert_close(gaussian_focal_loss(logits, ones, alpha=1.5), expected)
    zeros = torch.zeros_like(logits)
    expected = sigmoid_focal_loss(logits, zeros, alpha=-1, gamma=2)
    torch.testing.assert_close(gaussian_focal_loss(logits, zeros), expected)


def of_probabilities_it_is_the_papers():
    """As detectors have it, with an epsilon in each logarithm."""
    logits, targets = with_peaks(20, 30)
    p = logits.sigmoid()
    positive = -(p + 1e-12).log() * (1 - p) ** 2 * (targets == 1)
    negative = -(1 - p + 1e-12).log() * p**2 * (1 - targets) ** 4
    torch.testing.assert_close(gaussian_focal_loss(logits, targets), positive + negative)


def sum_is_the_sum_of_the_map():
    inputs, targets = with_peaks(37, 41)
    loss = gaussian_focal_loss(inputs, targets)
    torch.testing.assert_close(gaussian_focal_loss(inputs, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(gaussian_focal_loss(inputs, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    inputs, targets = torch.tensor([0.5]), torch.tensor([0.25])
    many = gaussian_focal_loss(inputs.expand(n), targets.expand(n), reduction="mean")
    torch.testing.assert_close(many, gaussian_focal_loss(inputs, targets)[0])


INPUTS, TARGETS = tensors(4, 3)

SPEC = OpSpec(
    name="gaussian_focal_loss",
    operator="handgrad::gaussian_focal_loss",
    function=gaussian_focal_loss,
    reference=reference,
    module=GaussianFocalLoss,
    samples=[
        Sample("map", tensors(4, 3), {"reduction": "none"}),
        Sample("other_powers_mean", tensors(5), {"alpha": 1.5, "gamma": 2.5, "reduction": "mean"}),
        Sample("sum", tensors(2, 3, 2, 2), {"alpha": 2.0, "gamma": 1.0, "reduction": "sum"}),
    ],
    large=Sample("large", with_peaks(1031, 83, dtype=torch.float32), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_columns_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad("alpha", lambda: GaussianFocalLoss(-1.0), ValueError, r"alpha must be a finite number, at least 0"),
        Bad("gamma", lambda: GaussianFocalLoss(gamma=-1.0), ValueError, r"gamma must be a finite number, at least 0"),
        Bad("reduction", lambda: GaussianFocalLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "shape",
            lambda: gaussian_focal_loss(INPUTS, TARGETS[:2]),
            RuntimeError,
            r"targets must have the shape of inputs, \(4, 3\); got \(2, 3\)",
        ),
    ],
    identities={
        "focal": peaks_alone_are_the_focal_loss,
        "paper": of_probabilities_it_is_the_papers,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Under a reduction every thread reads the one grad_output for its four elements; all but the first from a cache.
    floor_factors={"backward": 1.07},
)

test_matrix = matrix(SPEC)

POWERS = pytest.mark.parametrize(("alpha", "gamma"), [(2.0, 4.0), (1.5, 2.5)])


@POWERS
def test_derivatives_of_peaks(alpha, gamma):
    """With respect to the inputs by finite differences; with respect to the targets, on a step, those of the
    reference: 0."""
    inputs, targets = with_peaks(3, 4)
    assert (targets == 1).any()
    loss = functools.partial(gaussian_focal_loss, targets=targets, alpha=alpha, gamma=gamma)
    assert gradcheck(loss, (inputs.requires_grad_(),), check_forward_ad=True)
    assert gradgradcheck(loss, (inputs,), check_fwd_over_rev=True)
    leaves = inputs, targets.requires_grad_()
    actual, expected = [], []
    for function, found in ((gaussian_focal_loss, actual), (gaussian_focal_loss_reference, expected)):
        first = torch.autograd.grad(function(*leaves, alpha, gamma).sum(), leaves, create_graph=True)
        found += [*first, *torch.autograd.grad((first[0] * first[1].cos()).sum(), leaves)]
    torch.testing.assert_close(actual, expected)
    assert (actual[1][targets == 1] == 0).all()


@POWERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_confident_predictions_stay_finite(alpha, gamma, dtype):
    """xingyizhou/CenterNet#234: logarithms of 0, which others keep away by clipping the sigmoid, and lose the gradient
    with it."""
    inputs = torch.tensor([-1e4, 1e4, 1e4, -1e4, -50.0, 50.0], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], dtype=dtype)
    loss = gaussian_focal_loss(inputs, targets, alpha, gamma)
    (grad,) = torch.autograd.grad(loss.sum(), inputs)
    torch.testing.assert_close(loss, torch.tensor([1e4, 1e4, 0.0, 0.0, 50.0, 50.0], dtype=dtype))
    torch.testing.assert_close(grad, torch.tensor([-1.0, 1.0, 0.0, 0.0, -1.0, 1.0], dtype=dtype))


def test_nan_stays_where_it_is():
    loss = gaussian_focal_loss(torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([1.0, float("nan"), 0.0]))
    assert loss.isnan().tolist() == [True, True, False]
