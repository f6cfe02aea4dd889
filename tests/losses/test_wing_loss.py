"""Wing loss: its spec, and what is peculiar to it."""

import math

import torch

from handgrad.losses import WingLoss, wing_loss
from handgrad.losses.wing_loss import wing_loss_reference
from handgrad.reductions import reduce, reduction_code
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(inputs, targets, w=10.0, epsilon=2.0, reduction="none"):
    loss = wing_loss_reference(inputs, targets, w, epsilon)
    return reduce(loss, reduction_code("wing_loss", reduction))


def tensors(*shape, dtype=torch.float64):
    generator = reseeded(len(shape))
    return tuple(2 * torch.randn(*shape, dtype=dtype, generator=generator) for _ in range(2))


def it_goes_on_at_w():
    """FengZhenhua/Wing-Loss#10: C is negative, -7.92 for w = 10 and epsilon = 2, and must be, or there is a step."""
    sizes = torch.tensor([10 - 1e-9, 10.0, 30.0], dtype=torch.float64)
    loss = wing_loss(sizes, torch.zeros_like(sizes))
    torch.testing.assert_close(loss[0], loss[1])
    torch.testing.assert_close(sizes - loss, torch.full_like(sizes, 10 - 10 * math.log(6)))


def only_the_difference_counts():
    inputs, targets = tensors(7, 5)
    torch.testing.assert_close(wing_loss(inputs + 3, targets + 3), wing_loss(targets, inputs))


def far_from_its_bend_it_is_straight():
    """With epsilon far above all differences, of slope w / epsilon."""
    inputs, targets = tensors(7, 5)
    expected = (inputs - targets).abs() * 100 / 1e9
    torch.testing.assert_close(wing_loss(inputs, targets, w=100.0, epsilon=1e9), expected, rtol=1e-6, atol=0)


def sum_is_the_sum_of_the_map():
    inputs, targets = tensors(37, 41)
    loss = wing_loss(inputs, targets)
    torch.testing.assert_close(wing_loss(inputs, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(wing_loss(inputs, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    inputs, targets = torch.tensor([0.5]), torch.tensor([0.25])
    many = wing_loss(inputs.expand(n), targets.expand(n), reduction="mean")
    torch.testing.assert_close(many, wing_loss(inputs, targets)[0])


INPUTS, TARGETS = tensors(4, 3)

SPEC = OpSpec(
    name="wing_loss",
    operator="handgrad::wing_loss",
    function=wing_loss,
    reference=reference,
    module=WingLoss,
    samples=[
        Sample("map", tensors(4, 3), {"w": 2.0, "epsilon": 0.5, "reduction": "none"}),
        Sample("mean", tensors(5), {"w": 1.5, "epsilon": 2.0, "reduction": "mean"}),
        Sample("sum", tensors(2, 3, 2, 2), {"reduction": "sum"}),
    ],
    large=Sample("large", tensors(1031, 83, dtype=torch.float32), {"w": 3.0, "reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_columns_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad("w", lambda: WingLoss(0.0), ValueError, r"w must be a finite number above 0; got 0\.0"),
        Bad(
            "epsilon", lambda: WingLoss(epsilon=-1.0), ValueError, r"epsilon must be a finite number above 0; got -1\.0"
        ),
        Bad("reduction", lambda: WingLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "shape",
            lambda: wing_loss(INPUTS, TARGETS[:2]),
            RuntimeError,
            r"targets must have the shape of inputs, \(4, 3\); got \(2, 3\)",
        ),
    ],
    identities={
        "goes_on": it_goes_on_at_w,
        "difference": only_the_difference_counts,
        "straight": far_from_its_bend_it_is_straight,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Under a reduction every thread reads the one grad_output for its four elements; all but the first from a cache.
    floor_factors={"backward": 1.07},
)

test_matrix = matrix(SPEC)


def test_small_differences_keep_their_accuracy():
    """Far below epsilon, where log(1 + r) in float32 would be 0."""
    sizes = torch.tensor([1e-8, 1e-4, 0.5])
    expected = 10 * torch.log1p(sizes.double() / 2)
    torch.testing.assert_close(wing_loss(sizes, torch.zeros(3)), expected.float(), rtol=3e-7, atol=0)


def test_kinks():
    """At 0 no side is taken, as by torch's absolute value; at w it is straight already."""
    inputs = torch.tensor([0.0, 10.0, -10.0, torch.inf, -torch.inf], dtype=torch.float64, requires_grad=True)
    loss = wing_loss(inputs, torch.zeros_like(inputs))
    (slope,) = torch.autograd.grad(loss.sum(), inputs, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), inputs)
    assert loss[3:].tolist() == [torch.inf, torch.inf]
    assert slope.tolist() == [0, 1, -1, 1, -1]
    assert curvature.eq(0).all()
    (expected,) = torch.autograd.grad(wing_loss_reference(inputs, torch.zeros_like(inputs), 10.0, 2.0).sum(), inputs)
    torch.testing.assert_close(slope, expected)


def test_nan_stays_where_it_is():
    nan = float("nan")
    inputs, targets = torch.tensor([nan, 1.0, 2.0]).requires_grad_(), torch.tensor([1.0, nan, 0.0]).requires_grad_()
    loss = wing_loss(inputs, targets)
    for result in (loss, *torch.autograd.grad(loss.sum(), (inputs, targets))):
        assert result.isnan().tolist() == [True, True, False]
