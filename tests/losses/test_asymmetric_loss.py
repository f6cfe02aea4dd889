"""Asymmetric loss: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import AsymmetricLoss, asymmetric_loss
from handgrad.losses.asymmetric_loss import asymmetric_loss_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def reference(inputs, targets, gamma_neg=4.0, gamma_pos=1.0, clip=0.05, reduction="none"):
    return asymmetric_loss_reference(inputs, targets, gamma_neg, gamma_pos, clip, REDUCTIONS[reduction])


def tensors(*shape, dtype=torch.float64):
    """Logits and soft targets; no probability of these logits is near a clip of the samples."""
    generator = reseeded(len(shape))
    logits = 1.5 * torch.randn(*shape, dtype=dtype, generator=generator)
    return logits, 0.05 + 0.9 * torch.rand(*shape, dtype=dtype, generator=generator)


def without_asymmetry_it_is_the_focal_loss_without_weights():
    logits, targets = tensors(7, 5)
    targets = targets.round()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(asymmetric_loss(logits, targets, 0, 0, 0), expected)
    wrong = (targets - torch.sigmoid(logits)).abs()
    torch.testing.assert_close(asymmetric_loss(logits, targets, 2, 2, 0), wrong**2 * expected)


def easy_negatives_cost_nothing():
    logits = torch.tensor([-20.0, -4.0, -3.0], dtype=torch.float64, requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros_like(logits))
    assert loss.eq(0).all()
    assert torch.autograd.grad(loss.sum(), logits)[0].eq(0).all()


def sum_is_the_sum_of_the_map():
    inputs, targets = tensors(37, 41)
    loss = asymmetric_loss(inputs, targets)
    torch.testing.assert_close(asymmetric_loss(inputs, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(asymmetric_loss(inputs, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    logits, targets = torch.tensor([0.5]), torch.tensor([1.0])
    one = asymmetric_loss(logits, targets, reduction="sum")
    torch.testing.assert_close(asymmetric_loss(logits.expand(n), targets.expand(n), reduction="mean"), one)


INPUTS, TARGETS = tensors(4, 3)

SPEC = OpSpec(
    name="asymmetric_loss",
    operator="handgrad::asymmetric_loss",
    function=asymmetric_loss,
    reference=reference,
    module=AsymmetricLoss,
    samples=[
        Sample("paper_none", tensors(4, 3), {"reduction": "none"}),
        Sample("no_clip_mean", tensors(5), {"gamma_neg": 2.0, "gamma_pos": 0.0, "clip": 0.0, "reduction": "mean"}),
        Sample("fractional_sum", tensors(2, 3, 2, 2), {"gamma_neg": 3.5, "gamma_pos": 1.5, "reduction": "sum"}),
    ],
    large=Sample("large", tensors(1031, 83, dtype=torch.float32), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_columns_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad("gamma_neg", lambda: AsymmetricLoss(0.5), ValueError, "gamma_neg must be 0 or a finite number, at least 1"),
        Bad("gamma_pos", lambda: AsymmetricLoss(gamma_pos=-1), ValueError, "gamma_pos must be 0 or .* got -1"),
        Bad("clip", lambda: AsymmetricLoss(clip=1.0), ValueError, r"clip must be in \[0, 1\); got 1\.0"),
        Bad("reduction", lambda: AsymmetricLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad("none", lambda: asymmetric_loss(INPUTS, None), TypeError, "targets must be a torch.Tensor; got NoneType"),
        Bad("layout", lambda: asymmetric_loss(INPUTS.to_sparse(), TARGETS), TypeError, "inputs must be a dense tensor"),
        Bad(
            "shape",
            lambda: asymmetric_loss(INPUTS, TARGETS[:2]),
            RuntimeError,
            r"targets must have the shape of inputs, \(4, 3\); got \(2, 3\)",
        ),
        Bad(
            "dtype",
            lambda: asymmetric_loss(INPUTS.long(), TARGETS),
            RuntimeError,
            "inputs must be float32, float64, bfloat16 or float16; got int64",
        ),
    ],
    identities={
        "symmetric": without_asymmetry_it_is_the_focal_loss_without_weights,
        "easy": easy_negatives_cost_nothing,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Under a reduction every thread reads the one grad_output for its four elements; all but the first from a cache.
    floor_factors={"backward": 1.07},
    pending={2: "the CUDA kernels pass the matrix in the emulator and have not run on a device"},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_finite_for_huge_logits(clip):
    """A wrong and certain prediction costs its logit, a right one nothing; no NaN in any derivative."""
    logits = torch.tensor([1e4, -1e4, -1e4, 88.0, -88.0, 0.0], requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0], requires_grad=True)
    loss = asymmetric_loss(logits, targets, clip=clip)
    torch.testing.assert_close(loss[:3], torch.tensor([0.0, 0.0, 1e4]))
    grads = torch.autograd.grad(loss.sum(), (logits, targets), create_graph=True)
    second = torch.autograd.grad(sum(grad.sum() for grad in grads), (logits, targets))
    assert all(grad.isfinite().all() for grad in (*grads, *second))


def test_nan_stays_where_it_is():
    loss = asymmetric_loss(torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([1.0, float("nan"), 0.0]))
    assert loss.isnan().tolist() == [True, True, False]
