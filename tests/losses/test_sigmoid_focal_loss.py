"""Sigmoid focal loss: its spec, and what is peculiar to it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import SigmoidFocalLoss, sigmoid_focal_loss
from handgrad.losses.sigmoid_focal_loss import sigmoid_focal_loss_reference
from handgrad.reductions import reduce, reduction_code
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(inputs, targets, alpha=0.25, gamma=2, reduction="none"):
    loss = sigmoid_focal_loss_reference(inputs, targets, alpha, gamma)
    return reduce(loss, reduction_code("sigmoid_focal_loss", reduction))


def tensors(*shape, hard=False, spread=2.0, dtype=torch.float64):
    """Logits and targets; soft targets stay off 0 and 1, where a finite difference would leave the range."""
    generator = reseeded(len(shape))
    logits = spread * torch.randn(*shape, dtype=dtype, generator=generator)
    targets = 0.05 + 0.9 * torch.rand(*shape, dtype=dtype, generator=generator)
    return logits, (targets > 0.7).to(dtype) if hard else targets


def gamma_zero_is_weighted_cross_entropy():
    logits, targets = tensors(7, 5)
    expected = F.binary_cross_entropy_with_logits(logits, targets, weight=0.25 * targets + 0.75 * (1 - targets))
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, gamma=0, reduction="mean"), expected)


def classes_are_mirror_images():
    logits, targets = tensors(7, 5)
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, targets, alpha=0.3), sigmoid_focal_loss(-logits, 1 - targets, alpha=0.7)
    )


def sum_is_the_sum_of_the_map():
    logits, targets = tensors(37, 41)
    loss = sigmoid_focal_loss(logits, targets)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, reduction="sum"), loss.sum())
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, reduction="mean"), loss.mean())


def numel_beyond_int32():
    n = 2**31 + 64
    logits, targets = torch.tensor([0.5]), torch.tensor([1.0])
    one = sigmoid_focal_loss(logits, targets, reduction="sum")
    many = sigmoid_focal_loss(logits.expand(n), targets.expand(n), reduction="mean")
    torch.testing.assert_close(many, one)


LOGITS, TARGETS = tensors(4, 3)

SPEC = OpSpec(
    name="sigmoid_focal_loss",
    operator="handgrad::sigmoid_focal_loss",
    function=sigmoid_focal_loss,
    reference=reference,
    module=SigmoidFocalLoss,
    samples=[
        Sample("soft_none", tensors(4, 3), {"reduction": "none"}),
        Sample("soft_mean", tensors(4, 3), {"reduction": "mean"}),
        Sample("unweighted_sum", tensors(2, 3, 2, 2), {"alpha": -1, "reduction": "sum"}),
        Sample("gamma_1.5_none", tensors(2, 3, 2), {"alpha": 0.6, "gamma": 1.5, "reduction": "none"}),
        Sample("gamma_0.5_mean", tensors(5), {"gamma": 0.5, "reduction": "mean"}),
    ],
    large=Sample("large_hard", tensors(1031, 83, hard=True, dtype=torch.float32), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", tensors(0, 3), {"reduction": "none"}),
        Sample("no_classes_sum", tensors(3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", tensors(0), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    bad=[
        Bad(
            "alpha_high",
            lambda: sigmoid_focal_loss(LOGITS, TARGETS, alpha=1.5),
            ValueError,
            r"alpha must be in \[0, 1\]",
        ),
        Bad("alpha_nan", lambda: SigmoidFocalLoss(alpha=float("nan")), ValueError, "alpha must be in .* got nan"),
        Bad(
            "gamma_low",
            lambda: SigmoidFocalLoss(gamma=-1),
            ValueError,
            "gamma must be a finite number, at least 0; got -1",
        ),
        Bad("reduction", lambda: SigmoidFocalLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "shape",
            lambda: sigmoid_focal_loss(LOGITS, TARGETS[:2]),
            RuntimeError,
            r"targets must have the shape of inputs, \(4, 3\); got \(2, 3\)",
        ),
    ],
    identities={
        "gamma_zero": gamma_zero_is_weighted_cross_entropy,
        "mirror": classes_are_mirror_images,
        "sum": sum_is_the_sum_of_the_map,
    },
    numel_beyond_int32=numel_beyond_int32,
    # Under a reduction every thread reads the one grad_output for its four elements; all but the first from a cache.
    floor_factors={"backward": 1.07},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("alpha", "gamma"), list(itertools.product([0.25, 1.0, 0.0, -1], [0, 0.5, 1, 2, 3.7])))
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_equals_torchvision(alpha, gamma, reduction, dtype):
    torchvision = pytest.importorskip("torchvision", reason="torchvision does not load beside this torch")
    logits, targets = tensors(301, 7, hard=True, dtype=dtype)
    logits.requires_grad_()
    ours = sigmoid_focal_loss(logits, targets, alpha, gamma, reduction)
    theirs = torchvision.ops.sigmoid_focal_loss(logits, targets, alpha, gamma, reduction)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), logits), torch.autograd.grad(theirs.sum(), logits), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_finite_for_huge_logits(gamma, dtype):
    """Losses of |logit| up to 1e4: no NaN in values, gradients and second derivatives; the value is the exact limit."""
    logits = torch.tensor([1e4, 1e4, -1e4, -1e4, 88.0, -88.0, 0.0], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0], dtype=dtype, requires_grad=True)
    loss = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma)
    torch.testing.assert_close(loss[:4], torch.tensor([0.0, 1e4, 1e4, 0.0], dtype=dtype), rtol=0, atol=0)
    grads = torch.autograd.grad(loss.sum(), (logits, targets), create_graph=True)
    torch.testing.assert_close(grads[0][:4], torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=dtype), rtol=0, atol=0)
    assert grads[1].isfinite().all()
    second = torch.autograd.grad(sum(grad.sum() for grad in grads), (logits, targets))
    assert all(grad.isfinite().all() for grad in second)


def test_infinite_logits_take_the_limit():
    """A certain and right prediction costs nothing, a certain and wrong one is infinite, with slope 1."""
    infinity = float("inf")
    logits = torch.tensor([infinity, -infinity, infinity, -infinity], requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 0.0, 1.0])
    for gamma in (0, 1.5, 2):
        loss = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma)
        assert loss.tolist() == [0, 0, infinity, infinity]
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert grad.tolist() == [0, 0, 1, -1]


def test_nan_stays_where_it_is():
    logits = torch.tensor([float("nan"), 1.0, 2.0], requires_grad=True)
    targets = torch.tensor([1.0, float("nan"), 0.0])
    loss = sigmoid_focal_loss(logits, targets)
    assert loss.isnan().tolist() == [True, True, False]
    (grad,) = torch.autograd.grad(loss[2], logits)
    assert grad.isfinite().tolist() == [False, False, True]
    assert sigmoid_focal_loss(logits, targets, reduction="sum").isnan()


def test_confident_examples_keep_their_gradient():
    """q = 1 - p_t is computed without cancellation: exact to float32 even where p rounds to 1."""
    logits = torch.linspace(5, 60, 56)
    ours = sigmoid_focal_loss(logits, torch.ones(56), alpha=-1)
    exact = reference(logits.double(), torch.ones(56, dtype=torch.float64), alpha=-1)
    # up to 4 units in the last place, down to where float32 becomes subnormal
    torch.testing.assert_close(ours.double(), exact, rtol=5e-7, atol=1e-37)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 1.5, 2, 3])
def test_second_derivatives_of_very_confident_examples(gamma):
    """q^(gamma - 2) overflows in float32 long before q underflows; what it is multiplied by must not make NaN of it."""
    logits = torch.linspace(-80, -50, 61)

    def second(dtype):
        leaves = [logits.to(dtype).requires_grad_(), torch.zeros(61, dtype=dtype, requires_grad=True)]
        loss = sigmoid_focal_loss(*leaves, alpha=-1, gamma=gamma).sum()
        (first,) = torch.autograd.grad(loss, leaves[0], create_graph=True)
        return torch.autograd.grad(first.sum(), leaves)

    for ours, exact in zip(second(torch.float32), second(torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=2e-5, atol=1e-37)


def test_target_dtypes_are_promoted_as_in_torch():
    logits, targets = tensors(5, 3, hard=True)
    for other in (torch.int64, torch.bool, torch.uint8):
        torch.testing.assert_close(sigmoid_focal_loss(logits, targets.to(other)), sigmoid_focal_loss(logits, targets))
    assert sigmoid_focal_loss(logits.bfloat16(), targets.float()).dtype == torch.float32
    assert sigmoid_focal_loss(logits.float(), targets.half()).dtype == torch.float32


def test_gradient_of_one_element_is_exact_next_to_the_mean():
    """The mean's gradient is the map's divided by n, to the bit for n a power of two."""
    logits, targets = tensors(8, 4)
    leaf = logits.clone().requires_grad_()
    (mean,) = torch.autograd.grad(sigmoid_focal_loss(leaf, targets, reduction="mean"), leaf)
    (total,) = torch.autograd.grad(sigmoid_focal_loss(leaf, targets, reduction="sum"), leaf)
    torch.testing.assert_close(mean * 32, total, rtol=0, atol=0)
