"""Asymmetric loss: its spec, and what is peculiar to it."""

import torch

from handgrad.losses import AsymmetricLoss, asymmetric_loss
from handgrad.losses.asymmetric_loss import asymmetric_loss_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def reference(inputs, targets, gamma_neg=4.0, gamma_pos=1.0, clip=0.05, reduction="none"):
    return asymmetric_loss_reference(inputs, targets, gamma_neg, gamma_pos, clip, REDUCTIONS[reduction])


def tensors(*shape, dtype=torch.float64):
    generator = reseeded(len(shape))
    return tuple(torch.randn(*shape, dtype=dtype, generator=generator) for _ in range(2))


# TODO(author): what must hold of your loss, whatever the numbers.


def only_the_difference_counts():
    inputs, targets = tensors(7, 5)
    torch.testing.assert_close(asymmetric_loss(inputs + 3, targets + 3), asymmetric_loss(targets, inputs))


def far_from_the_target_it_is_the_absolute_difference():
    inputs, targets = tensors(7, 5)
    expected = (1e6 * inputs - targets).abs() - 0.5
    torch.testing.assert_close(asymmetric_loss(1e6 * inputs, targets, gamma_neg=0.5), expected)


def sum_is_the_sum_of_the_map():
    inputs, targets = tensors(37, 41)
    loss = asymmetric_loss(inputs, targets)
    torch.testing.assert_close(asymmetric_loss(inputs, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(asymmetric_loss(inputs, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    inputs, targets = torch.tensor([4.0]), torch.tensor([0.0])
    many = asymmetric_loss(inputs.expand(n), targets.expand(n), gamma_neg=3.0, reduction="mean")
    torch.testing.assert_close(many, torch.tensor(2.0))


INPUTS, TARGETS = tensors(4, 3)

SPEC = OpSpec(
    name="asymmetric_loss",
    operator="handgrad::asymmetric_loss",
    function=asymmetric_loss,
    reference=reference,
    module=AsymmetricLoss,
    # TODO(author): samples that reach every branch of your formula, away from its kinks.
    samples=[
        Sample("map", tensors(4, 3), {"gamma_neg": 0.5, "reduction": "none"}),
        Sample("mean", tensors(5), {"gamma_neg": 1.0, "reduction": "mean"}),
        Sample("sum", tensors(2, 3, 2, 2), {"gamma_neg": 0.7, "reduction": "sum"}),
    ],
    large=Sample("large", tensors(1031, 83, dtype=torch.float32), {"gamma_neg": 0.1, "reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_columns_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad(
            "gamma_neg", lambda: AsymmetricLoss(0.0), ValueError, r"gamma_neg must be a finite number above 0; got 0\.0"
        ),
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
        "difference": only_the_difference_counts,
        "far": far_from_the_target_it_is_the_absolute_difference,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    pending={2: "the CUDA kernels pass the matrix in the emulator and have not run on a device"},
)

test_matrix = matrix(SPEC)


def test_small_differences_keep_their_accuracy():
    """The loss of a difference far below epsilon is its square over 2 epsilon, where r - epsilon would be 0."""
    loss = asymmetric_loss(torch.tensor([1e-6]), torch.tensor([0.0]), gamma_neg=1.0)
    torch.testing.assert_close(loss, torch.tensor([5e-13]), rtol=1e-6, atol=0)


def test_nan_stays_where_it_is():
    loss = asymmetric_loss(torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([1.0, float("nan"), 0.0]))
    assert loss.isnan().tolist() == [True, True, False]
