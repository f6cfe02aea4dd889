"""Contrastive loss: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import ContrastiveLoss, contrastive_loss
from handgrad.losses.contrastive_loss import contrastive_loss_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

CODES = {"none": 0, "mean": 1, "sum": 2}


def reference(input1, input2, targets, margin=1.0, legacy_version=False, reduction="mean"):
    return contrastive_loss_reference(input1, input2, targets, margin, legacy_version, CODES[reduction])


def pairs(*shape, dtype=torch.float64):
    """Embeddings, of which every second pair is similar, and every third near enough to be inside of a margin of 1."""
    generator = reseeded(sum(shape))
    input1, difference = (torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(2))
    numbers = torch.arange(shape[0])
    length = torch.where(numbers % 3 == 0, 0.6, 1.7) + 0.01 * numbers / max(1, shape[0])
    input2 = input1 + length[:, None] * F.normalize(difference, dim=1)
    return input1.to(dtype), input2.to(dtype), numbers // 2 % 2


def with_grads(input1, input2, targets, *args, **kwargs):
    leaves = [x.detach().requires_grad_() for x in (input1, input2)]
    loss = contrastive_loss(*leaves, targets, *args, **kwargs)
    return loss.detach(), *torch.autograd.grad(loss.sum(), leaves)


def it_is_symmetric():
    input1, input2, targets = pairs(7, 5)
    torch.testing.assert_close(contrastive_loss(input2, input1, targets), contrastive_loss(input1, input2, targets))


def by_hand():
    """Of pairs at distances of 0.5 and 2."""
    input1, input2 = torch.zeros(4, 2), torch.tensor([[0.3, 0.4], [0.3, 0.4], [0.0, 2.0], [2.0, 0.0]])
    targets = torch.tensor([1, 0, 1, 0])
    loss = contrastive_loss(input1, input2, targets, margin=1.5, reduction="none")
    torch.testing.assert_close(loss, torch.tensor([0.125, 0.5, 2.0, 0.0]))
    loss = contrastive_loss(input1, input2, targets, 1.5, legacy_version=True, reduction="none")
    torch.testing.assert_close(loss, torch.tensor([0.125, 0.625, 2.0, 0.0]))


def similar_pairs_are_a_squared_error():
    input1, input2, targets = pairs(6, 4)
    loss = contrastive_loss(input1, input2, torch.ones_like(targets), reduction="sum")
    torch.testing.assert_close(loss, F.mse_loss(input1, input2, reduction="sum") / 2)


def numel_beyond_int32():
    input1, input2, targets = pairs(1, 8, dtype=torch.float32)
    count = 2**28 + 8
    many = contrastive_loss(input1.expand(count, 8), input2.expand(count, 8), targets.expand(count))
    torch.testing.assert_close(many, contrastive_loss(input1, input2, targets))


def sums_of_many():
    input1, input2, targets = (x.repeat_interleave(5_000, 0) for x in pairs(1, 1, dtype=torch.float32))
    expected = contrastive_loss(input1[:1], input2[:1], targets[:1])
    torch.testing.assert_close(contrastive_loss(input1, input2, targets), expected, rtol=1.3e-7, atol=0)


INPUT1, INPUT2, TARGETS = pairs(5, 3)

SPEC = OpSpec(
    name="contrastive_loss",
    operator="handgrad::contrastive_loss",
    function=contrastive_loss,
    reference=reference,
    module=ContrastiveLoss,
    samples=[
        Sample("pairs", pairs(6, 4), {"reduction": "none"}),
        Sample("mean", pairs(5, 7), {"margin": 1.25}),
        Sample("legacy", pairs(6, 3), {"legacy_version": True, "reduction": "sum", "margin": 0.9}),
    ],
    large=Sample("large", pairs(401, 319, dtype=torch.float32), {"reduction": "sum"}),
    # A warp keeps 256 numbers of a pair; what is beyond them, of 319, is read again.
    floor_factors={"forward": 1.3, "backward": 1.4, "double_backward": 1.35},
    empty=[
        Sample("no_pairs_none", pairs(0, 3), {"reduction": "none"}),
        Sample("no_pairs_mean", pairs(0, 3), {}),
        Sample("no_embedding", pairs(3, 0), {"reduction": "sum"}),
    ],
    autocast=torch.float32,
    widens=True,
    channels_last=False,
    bad=[
        Bad("margin", lambda: ContrastiveLoss(-1.0), ValueError, r"margin must be a finite number, .*; got -1\.0"),
        Bad("legacy", lambda: ContrastiveLoss(legacy_version="no"), TypeError, "legacy_version must be .* got 'no'"),
        Bad("reduction", lambda: ContrastiveLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "targets",
            lambda: contrastive_loss(INPUT1, INPUT2, TARGETS[:2]),
            RuntimeError,
            r"targets must have shape \(pairs,\), here \(5,\); got \(2,\)",
        ),
        Bad(
            "float_targets",
            lambda: contrastive_loss(INPUT1, INPUT2, TARGETS.double()),
            RuntimeError,
            "targets must be integers or booleans, 1 for similar pairs; got torch.float64",
        ),
        Bad(
            "one_vector",
            lambda: contrastive_loss(INPUT1[0], INPUT2[0], TARGETS[0]),
            RuntimeError,
            r"input1 must have 2 dimensions \(pairs, embedding\); got \(3,\)",
        ),
    ],
    identities={"symmetric": it_is_symmetric, "by_hand": by_hand, "squared_error": similar_pairs_are_a_squared_error},
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("width", [1, 31, 256, 300, 1000])
def test_any_width(width):
    """On a device a thread keeps eight numbers of its row; what is beyond is read again."""
    input1, input2, targets = pairs(7, width)
    actual = with_grads(input1, input2, targets)
    leaves = [x.requires_grad_() for x in (input1, input2)]
    expected = reference(*leaves, targets)
    torch.testing.assert_close(actual, (expected.detach(), *torch.autograd.grad(expected, leaves)))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("similar", [0, 1])
def test_the_same_embedding_twice(legacy, similar):
    """keras#9097, siamese-triplet#18, sentence-transformers#4033: NaN from the root of 0. No direction leads out of it;
    the gradient is 0, and so is the second one."""
    x = torch.randn(2, 3, dtype=torch.float64, generator=reseeded(0)).requires_grad_()
    loss = contrastive_loss(x, x.detach(), torch.full((2,), similar), legacy_version=legacy)
    torch.testing.assert_close(loss, torch.tensor(0.0 if similar else 0.5, dtype=torch.float64))
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    assert grad.eq(0).all()
    (again,) = torch.autograd.grad(grad.sum(), x)
    assert again.isfinite().all()


@pytest.mark.parametrize("legacy", [True, False])
def test_at_the_margin_nothing_is_missing(legacy):
    loss, grad, _ = with_grads(torch.zeros(1, 2), torch.tensor([[0.6, 0.8]]), torch.tensor([0]), 1.0, legacy)
    torch.testing.assert_close(loss, torch.tensor(0.0))
    assert grad.abs().max() < 1.5


def test_which_label_is_similar():
    """keras#9269, siamese_net#7: the paper's Y is 0 for similar pairs, Caffe's label 1. Here it is Caffe's, and a
    boolean says the same."""
    input1, input2, targets = pairs(6, 4)
    assert contrastive_loss(input1[:1], input1[:1], torch.tensor([1])) == 0
    assert contrastive_loss(input1[:1], input1[:1], torch.tensor([0])) > 0
    expected = contrastive_loss(input1, input2, targets)
    for dtype in (torch.bool, torch.uint8, torch.int32):
        torch.testing.assert_close(contrastive_loss(input1, input2, targets.to(dtype)), expected)


def test_each_side_has_its_gradient():
    """caffe#2312: that of the second is the first's negative, whether or not they come from one network."""
    _, grad1, grad2 = with_grads(*pairs(6, 4))
    torch.testing.assert_close(grad1, -grad2, rtol=0, atol=0)


def test_what_is_not_finite():
    input1, input2, targets = pairs(6, 4)
    targets = torch.tensor([0, 1, 0, 1, 0, 1])
    input1[0, 1] = input1[1, 1] = torch.nan
    input1[2, 0] = input1[3, 0] = torch.inf
    for legacy in (True, False):
        loss, grad, _ = with_grads(input1, input2, targets, 1.0, legacy, "none")
        assert loss[:2].isnan().all()
        assert grad[:2, 1].isnan().all()
        # Infinitely far is beyond any margin.
        assert loss[2] == 0
        assert loss[3] == torch.inf
        assert loss[4:].isfinite().all()
