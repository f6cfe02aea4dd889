"""Adaptive wing loss: its spec, and what is peculiar to it."""

import math

import torch

from handgrad.losses import AdaptiveWingLoss, adaptive_wing_loss
from handgrad.losses.adaptive_wing_loss import adaptive_wing_loss_reference
from handgrad.reductions import reduce, reduction_code
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(inputs, targets, alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5, reduction="none"):
    loss = adaptive_wing_loss_reference(inputs, targets, alpha, omega, epsilon, theta)
    return reduce(loss, reduction_code("adaptive_wing_loss", reduction))


def tensors(*shape, dtype=torch.float64):
    """Heat maps: targets from 0 to 1, and predictions on both sides of them, near and far."""
    generator = reseeded(len(shape))
    targets = 0.05 + 0.9 * torch.rand(*shape, dtype=dtype, generator=generator)
    return targets + 0.6 * torch.randn(*shape, dtype=dtype, generator=generator), targets


def it_goes_on_at_theta():
    """protossw512/AdaptiveWingLoss#1: implementations are off beyond theta. Value and slope go on there."""
    targets = torch.linspace(0, 1, 5, dtype=torch.float64)
    sides = []
    for side in (-1e-9, 1e-9):
        inputs = (targets + 0.3 + side).requires_grad_()
        loss = adaptive_wing_loss(inputs, targets, omega=3.0, epsilon=0.2, theta=0.3)
        sides.append((loss.detach(), *torch.autograd.grad(loss.sum(), inputs)))
    torch.testing.assert_close(*sides, rtol=1e-6, atol=1e-6)


def it_is_the_papers_formula():
    """protossw512/AdaptiveWingLoss#14: a copy that is passed on divides by omega where epsilon belongs."""
    inputs = torch.tensor([0.1, 0.9], dtype=torch.float64)
    targets = torch.tensor([0.3, 0.0], dtype=torch.float64)
    near = 3 * math.log(1 + (0.2 / 0.25) ** 1.8)
    ratio, power = 0.4 / 0.25, 2.1
    slope = 3 * (1 / (1 + ratio**power)) * power * ratio ** (power - 1) * (1 / 0.25)
    far = slope * 0.9 - (0.4 * slope - 3 * math.log(1 + ratio**power))
    found = adaptive_wing_loss(inputs, targets, omega=3.0, epsilon=0.25, theta=0.4)
    torch.testing.assert_close(found, torch.tensor([near, far], dtype=torch.float64))


def of_background_it_is_nearly_a_square():
    """Far below epsilon, with the exponent 2."""
    inputs = torch.linspace(-1e-4, 1e-4, 9, dtype=torch.float64)
    found = adaptive_wing_loss(inputs, torch.zeros_like(inputs), alpha=2.0)
    torch.testing.assert_close(found, 14 * inputs**2, rtol=1e-6, atol=0)


def sum_is_the_sum_of_the_map():
    inputs, targets = tensors(37, 41)
    loss = adaptive_wing_loss(inputs, targets)
    torch.testing.assert_close(adaptive_wing_loss(inputs, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(adaptive_wing_loss(inputs, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    inputs, targets = torch.tensor([0.5]), torch.tensor([0.25])
    many = adaptive_wing_loss(inputs.expand(n), targets.expand(n), reduction="mean")
    torch.testing.assert_close(many, adaptive_wing_loss(inputs, targets)[0])


INPUTS, TARGETS = tensors(4, 3)
OTHERS = {"alpha": 2.5, "omega": 8.0, "epsilon": 2.0, "theta": 0.7}

SPEC = OpSpec(
    name="adaptive_wing_loss",
    operator="handgrad::adaptive_wing_loss",
    function=adaptive_wing_loss,
    reference=reference,
    module=AdaptiveWingLoss,
    samples=[
        Sample("map", tensors(4, 3), {"reduction": "none"}),
        Sample("mean", tensors(5), {"omega": 3.0, "epsilon": 0.3, "theta": 0.4, "reduction": "mean"}),
        Sample("sum", tensors(2, 3, 2, 2), {**OTHERS, "reduction": "sum"}),
    ],
    large=Sample("large", tensors(1031, 83, dtype=torch.float32), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_columns_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad("alpha", lambda: AdaptiveWingLoss(0.0), ValueError, r"alpha must be a finite number above 0; got 0\.0"),
        Bad("omega", lambda: AdaptiveWingLoss(omega=-1.0), ValueError, "omega must be a finite number above 0"),
        Bad("epsilon", lambda: AdaptiveWingLoss(epsilon=0.0), ValueError, "epsilon must be a finite number above 0"),
        Bad("theta", lambda: AdaptiveWingLoss(theta=0.0), ValueError, "theta must be a finite number above 0"),
        Bad("reduction", lambda: AdaptiveWingLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "shape",
            lambda: adaptive_wing_loss(INPUTS, TARGETS[:2]),
            RuntimeError,
            r"targets must have the shape of inputs, \(4, 3\); got \(2, 3\)",
        ),
    ],
    identities={
        "goes_on": it_goes_on_at_theta,
        "paper": it_is_the_papers_formula,
        "square": of_background_it_is_nearly_a_square,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Under a reduction every thread reads the one grad_output for its four elements; all but the first from a cache.
    floor_factors={"backward": 1.07},
)

test_matrix = matrix(SPEC)


def test_where_a_prediction_is_right_nothing_moves():
    """elliottzheng/AdaptiveWingLoss#1: NaN. 0 to a power and its logarithm have derivatives of 0 here, whatever the
    target."""
    targets = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.1, 3.0], dtype=torch.float64, requires_grad=True)
    inputs = targets.detach().clone().requires_grad_()
    loss = adaptive_wing_loss(inputs, targets)
    first = torch.autograd.grad(loss.sum(), (inputs, targets), create_graph=True)
    second = torch.autograd.grad(sum(grad.sum() for grad in first), (inputs, targets))
    for result in (loss, *first, *second):
        assert result.eq(0).all()


def test_far_predictions_stay_finite():
    inputs = torch.tensor([1e30, -1e30, torch.inf], requires_grad=True)
    loss = adaptive_wing_loss(inputs, torch.tensor([1.0, 0.0, 0.5]))
    (slope,) = torch.autograd.grad(loss.sum(), inputs)
    assert loss[:2].isfinite().all()
    assert loss[2] == torch.inf
    assert slope.isfinite().all()


def test_half_types_near_a_peak():
    """A difference of the last bit of float16, beside a target of 1, is raised to its power in float32."""
    targets = torch.ones(3, dtype=torch.float16)
    inputs = targets - torch.tensor([2**-10, 2**-6, 0.75], dtype=torch.float16)
    expected = adaptive_wing_loss(inputs.double(), targets.double())
    torch.testing.assert_close(adaptive_wing_loss(inputs, targets), expected.half())


def test_nan_stays_where_it_is():
    nan = float("nan")
    inputs, targets = torch.tensor([nan, 1.0, 2.0]).requires_grad_(), torch.tensor([1.0, nan, 0.0]).requires_grad_()
    loss = adaptive_wing_loss(inputs, targets)
    for result in (loss, *torch.autograd.grad(loss.sum(), (inputs, targets))):
        assert result.isnan().tolist() == [True, True, False]
