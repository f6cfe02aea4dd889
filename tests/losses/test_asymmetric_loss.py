"""Asymmetric loss: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.losses import AsymmetricLoss, asymmetric_loss, sigmoid_focal_loss
from handgrad.losses.asymmetric_loss import asymmetric_loss_reference
from handgrad.reductions import reduce, reduction_code
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(inputs, targets, gamma_neg=4.0, gamma_pos=1.0, clip=0.05, reduction="none"):
    loss = asymmetric_loss_reference(inputs, targets, gamma_neg, gamma_pos, clip)
    return reduce(loss, reduction_code("asymmetric_loss", reduction))


def tensors(*shape, dtype=torch.float64):
    generator = reseeded(len(shape))
    logits, targets = (torch.randn(*shape, dtype=dtype, generator=generator) for _ in range(2))
    return 2 * logits, 0.05 + 0.9 * targets.sigmoid()


def without_shift_and_with_one_gamma_it_is_the_focal_loss():
    logits, targets = tensors(7, 5)
    expected = sigmoid_focal_loss(logits, targets.round(), alpha=-1, gamma=2.5)
    torch.testing.assert_close(asymmetric_loss(logits, targets.round(), 2.5, 2.5, 0.0), expected)


def sum_is_the_sum_of_the_map():
    inputs, targets = tensors(37, 41)
    loss = asymmetric_loss(inputs, targets)
    torch.testing.assert_close(asymmetric_loss(inputs, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(asymmetric_loss(inputs, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    inputs, targets = torch.tensor([4.0]), torch.tensor([0.0])
    many = asymmetric_loss(inputs.expand(n), targets.expand(n), gamma_neg=3.0, reduction="mean")
    torch.testing.assert_close(many, asymmetric_loss(inputs, targets, gamma_neg=3.0)[0])


INPUTS, TARGETS = tensors(4, 3)

SPEC = OpSpec(
    name="asymmetric_loss",
    operator="handgrad::asymmetric_loss",
    function=asymmetric_loss,
    reference=reference,
    module=AsymmetricLoss,
    samples=[
        Sample("map", tensors(4, 3), {"reduction": "none"}),
        Sample("mean", tensors(5), {"gamma_neg": 1.5, "gamma_pos": 0.5, "clip": 0.2, "reduction": "mean"}),
        Sample("sum", tensors(2, 3, 2, 2), {"gamma_neg": 2.0, "gamma_pos": 0.0, "clip": 0.0, "reduction": "sum"}),
    ],
    large=Sample("large", tensors(1031, 83, dtype=torch.float32), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_columns_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad("gamma", lambda: AsymmetricLoss(-1), ValueError, "gamma_neg must be a finite number, at least 0; got -1"),
        Bad("clip", lambda: AsymmetricLoss(clip=1.5), ValueError, r"clip must be in \[0, 1\]; got 1\.5"),
        Bad("reduction", lambda: AsymmetricLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "shape",
            lambda: asymmetric_loss(INPUTS, TARGETS[:2]),
            RuntimeError,
            r"targets must have the shape of inputs, \(4, 3\); got \(2, 3\)",
        ),
    ],
    identities={
        "focal": without_shift_and_with_one_gamma_it_is_the_focal_loss,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Under a reduction every thread reads the one grad_output for its four elements; all but the first from a cache.
    floor_factors={"backward": 1.07},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_huge_logits_take_the_limits_and_the_kink_the_easy_side(gamma, dtype):
    logits = torch.tensor([-1e4, 1e4, 1e4, -1e4, float("inf"), 0.0], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    half = 0.5**gamma * 0.6931472
    for clip, wrong, at_infinity in ((0.0, 1e4, float("inf")), (0.5, half, half)):
        loss = asymmetric_loss(logits, targets, gamma, gamma, clip)
        easy = 0 if clip else half
        torch.testing.assert_close(loss, torch.tensor([1e4, wrong, 0, 0, at_infinity, easy], dtype=dtype))
        by_logits, by_targets = torch.autograd.grad(loss.sum(), (logits, targets), create_graph=True)
        assert by_logits[:5].tolist() == [-1, not clip, 0, 0, not clip]
        assert (by_logits[5] == 0) == bool(clip)
        assert by_targets[[0, 1, 2, 3, 5]].isfinite().all()
        second = torch.autograd.grad((by_logits + by_targets).sum(), (logits, targets))
        assert all(grad[[0, 1, 2, 3, 5]].isfinite().all() for grad in second)


def test_nan_stays_where_it_is():
    loss = asymmetric_loss(torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([1.0, float("nan"), 0.0]))
    assert loss.isnan().tolist() == [True, True, False]
