"""Triplet loss: its spec, and what is peculiar to it."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from handgrad.losses import TripletLoss, triplet_loss
from handgrad.losses.triplet_loss import _checked_numbers, _loss
from handgrad.testing import Bad, OpSpec, Sample, matrix
from set_losses import labelled, reduced, results, set_of_everything, two_among

MININGS = ["hard", "all", "all_positive"]


def reference(embeddings, labels, margin=0.2, soft=False, mining="hard", squared=False, reduction="mean"):
    numbers = _checked_numbers(margin, soft, mining, squared)
    return reduced(_loss.reference(embeddings[None], labels[None], *numbers)[0], reduction)


def every_triplet_by_torch():
    """torch's triplet_margin_loss of every triplet, one after the other."""
    embeddings, labels = labelled(7, 3, 3)
    triplets = [
        (a, p, n)
        for a, p, n in itertools.product(range(7), repeat=3)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    for margin in (0.1, 1.5):
        costs = torch.stack(
            [
                F.triplet_margin_loss(*(embeddings[i][None] for i in triplet), margin=margin, eps=0)
                for triplet in triplets
            ]
        )
        torch.testing.assert_close(triplet_loss(embeddings, labels, margin, mining="all"), costs.mean())
        torch.testing.assert_close(
            triplet_loss(embeddings, labels, margin, mining="all_positive"), costs[costs > 0].mean()
        )
        hardest = [costs[[t[0] == a for t in triplets]].max() for a in range(7)]
        torch.testing.assert_close(triplet_loss(embeddings, labels, margin), torch.stack(hardest).mean())


def moved_embeddings_are_the_same():
    embeddings, labels = labelled(9, 4, 3)
    for mining in MININGS:
        torch.testing.assert_close(
            triplet_loss(embeddings + 1000, labels, mining=mining), triplet_loss(embeddings, labels, mining=mining)
        )


def renamed_labels_are_the_same():
    embeddings, labels = labelled(9, 4, 3)
    names = torch.tensor([2**62, -5, 10**6])
    torch.testing.assert_close(triplet_loss(embeddings, names[labels]), triplet_loss(embeddings, labels))


def one_anchor_of_many(count):
    """Of all anchors two have a positive; sums and indices go over so many pairs."""
    loss = triplet_loss(*two_among(count))
    torch.testing.assert_close(loss.item(), (math.sqrt(2) + 0.2 + 0.2) / 2, rtol=1e-5, atol=0)


EMBEDDINGS, LABELS = labelled(6, 3, 3)

SPEC = OpSpec(
    **set_of_everything(
        {
            "name": "triplet_loss",
            "operator": "handgrad::triplet_loss",
            "function": triplet_loss,
            "reference": reference,
            "module": TripletLoss,
            "samples": [
                Sample("hard", labelled(6, 3, 3), {"margin": 5.0, "reduction": "none"}),
                Sample("all_soft", labelled(5, 2, 2), {"soft": True, "mining": "all", "reduction": "mean"}),
                Sample(
                    "squared",
                    labelled(5, 3, 2),
                    {"margin": 30.0, "mining": "all_positive", "squared": True, "reduction": "sum"},
                ),
            ],
            "large": Sample("large", labelled(397, 11, 83, torch.float32), {"soft": True, "reduction": "sum"}),
            "empty": [
                Sample("none_of_none", labelled(0, 3, 2), {"reduction": "none"}),
                Sample("mean_of_none", labelled(0, 3, 2), {"reduction": "mean", "mining": "all"}),
                Sample("no_width", labelled(3, 0, 2), {"reduction": "sum"}),
            ],
            "bad": [
                Bad("margin", lambda: TripletLoss(math.nan), ValueError, "margin must be a finite number; got nan"),
                Bad("mining", lambda: TripletLoss(mining="easy"), ValueError, "mining must be 'hard', .* got 'easy'"),
                Bad("soft", lambda: TripletLoss(soft=1), TypeError, "soft must be True or False; got 1"),
                Bad("reduction", lambda: TripletLoss(reduction="avg"), ValueError, "reduction must be .* 'avg'"),
                Bad(
                    "labels_shape",
                    lambda: triplet_loss(EMBEDDINGS, LABELS[:4]),
                    RuntimeError,
                    r"labels must be int64, one for each of the embeddings, here \(1, 6\); got \(1, 4\) of int64",
                ),
                Bad(
                    "embeddings_rank",
                    lambda: triplet_loss(EMBEDDINGS[0], LABELS),
                    RuntimeError,
                    r"embeddings must have shape \(N, D\), .*; got \(3,\) of float64",
                ),
            ],
            "identities": {
                "every_triplet": every_triplet_by_torch,
                "moved": moved_embeddings_are_the_same,
                "renamed": renamed_labels_are_the_same,
            },
            # Vectors (of distances less their mean), squared lengths, rows, columns, the embeddings' gradient.
            "device_calls": {"forward": (4, 7, 0), "backward": (6, 9, 0), "double_backward": (8, 14, 0)},
            # A warp looks at its row several times, and with it at labels of 8 bytes, from a cache: 13.4, 9.3 and 6.8
            # times.
            "floor_factors": {"forward": 13.5, "backward": 9.5, "double_backward": 7.0},
            "numel_beyond_int32": lambda: one_anchor_of_many(46_400),
            "sums_of_many": lambda: one_anchor_of_many(700),
        }
    )
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_sets_of_many_sizes(mining, soft, squared):
    """Of one chunk of anchors and of several, labels without a partner among them."""
    kwargs = {"margin": 0.7, "soft": soft, "mining": mining, "squared": squared}
    for count, classes in ((2, 1), (3, 2), (90, 40), (45, 4)):
        given = labelled(count, 5, classes)
        torch.testing.assert_close(results(triplet_loss, *given, **kwargs), results(reference, *given, **kwargs))


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck(mining, soft):
    embeddings, labels = labelled(6, 2, 2)

    def function(leaf):
        return triplet_loss(leaf, labels, 9.0, soft, mining, reduction="none")

    assert gradcheck(function, embeddings.requires_grad_(), check_forward_ad=True)
    assert gradgradcheck(function, embeddings, check_fwd_over_rev=True)


# ---- equal embeddings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equal_embeddings(mining, dtype):
    """tensorflow#30199: positives that equal their anchor make the whole gradient NaN, through the root at 0. Here two
    equal embeddings do not move each other, and others move as they would without them."""
    embeddings, labels = labelled(8, 4, 4)
    embeddings[4:] = embeddings[:4]
    given = embeddings.to(dtype)
    actual = results(triplet_loss, given, labels, mining=mining, margin=3.0)
    assert all(tensor.isfinite().all() for tensor in actual)
    expected = results(reference, given.double(), labels, mining=mining, margin=3.0)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-5}.get(dtype, 3e-2)
    for ours, theirs in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mining", MININGS)
def test_collapsed_embeddings(mining):
    """pytorch-metric-learning#20: all in one point, each triplet costs the margin, and nothing moves."""
    embeddings, labels = labelled(1, 4, 1)[0].expand(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    losses, grad, *second = results(triplet_loss, embeddings, labels, mining=mining, margin=0.3)
    torch.testing.assert_close(losses, torch.full((6,), 0.3, dtype=torch.float64))
    assert grad.eq(0).all()
    assert all(tensor.eq(0).all() for tensor in second)


def test_near_embeddings_far_from_the_origin():
    """A distance of 1e-3 between vectors of length 1,000, which a difference of products in float32 would lose."""
    embeddings, labels = labelled(8, 16, 4, spread=1e-3)
    far = (embeddings + 1000 * torch.ones(16, dtype=torch.float64)).float()
    actual = results(triplet_loss, far, labels, mining="all", margin=1.0)
    expected = results(reference, far.double(), labels, mining="all", margin=1.0)
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=1e-5, atol=0)
    assert (actual[1].double() - expected[1]).norm() < 1e-2 * expected[1].norm()


# ---- anchors without triplets, ties, NaN -----------------------------------------------------------------------------


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5]])
def test_no_triplet_at_all(mining, labels):
    """pytorch-metric-learning#107, tensorflow/addons#2447 and #1676, triplet-loss-pytorch#3: NaN, for want of a triplet
    to divide by. Here the mean is 0, with a gradient of 0."""
    embeddings = labelled(4, 3, 2)[0].requires_grad_()
    for reduction in ("mean", "sum"):
        loss = triplet_loss(embeddings, torch.tensor(labels), mining=mining, reduction=reduction)
        assert loss == 0
        assert torch.autograd.grad(loss, embeddings)[0].eq(0).all()


def test_anchors_without_a_positive_or_a_negative_do_not_count():
    embeddings, labels = labelled(7, 3, 3)
    lonely = labels.clone()
    lonely[6] = 50
    losses = triplet_loss(embeddings, lonely, 2.0, reduction="none")
    assert losses[6] == 0
    torch.testing.assert_close(triplet_loss(embeddings, lonely, 2.0), losses[:6].mean())


def test_of_equally_hard_ones_the_first():
    embeddings = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 2])
    embeddings.requires_grad_()
    loss = triplet_loss(embeddings, labels, margin=9.0, reduction="none")[0]
    (grad,) = torch.autograd.grad(loss, embeddings)
    assert grad[1, 0] == 1
    assert grad[3, 1] == -1
    assert grad[[2, 4]].eq(0).all()


def test_a_triplet_on_its_margin_costs_nothing_and_moves_nothing():
    embeddings = torch.tensor([[0.0], [1.0], [-2.0]], dtype=torch.float64).requires_grad_()
    loss = triplet_loss(embeddings, torch.tensor([0, 0, 1]), margin=1.0, reduction="none")
    assert loss[0] == 0
    assert torch.autograd.grad(loss[0], embeddings)[0].eq(0).all()


@pytest.mark.parametrize("mining", MININGS)
def test_nan_spoils_what_it_belongs_to(mining):
    embeddings, labels = labelled(6, 3, 2)
    embeddings[2, 0] = math.nan
    assert triplet_loss(embeddings, labels, mining=mining).isnan()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integers_of_other_types(dtype):
    embeddings, labels = labelled(6, 3, 2)
    torch.testing.assert_close(triplet_loss(embeddings, labels.to(dtype)), triplet_loss(embeddings, labels))
