"""Multi-similarity loss: its spec, and what is peculiar to it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from handgrad.losses import MultiSimilarityLoss, multi_similarity_loss
from handgrad.losses.multi_similarity_loss import _checked_numbers, _loss
from handgrad.testing import Bad, OpSpec, Sample, matrix
from set_losses import labelled, reduced, results, set_of_everything, two_among


def reference(embeddings, labels, alpha=2.0, beta=50.0, base=0.5, epsilon=None, reduction="mean"):
    numbers = _checked_numbers(alpha, beta, base, epsilon)
    return reduced(_loss.reference(embeddings[None], labels[None], *numbers)[0], reduction)


def the_papers_loop():
    """Anchor by anchor, as the paper's own code has it: those without a pair left on a side are passed over there, and
    here cost what the other side has left, which is nothing with its mining."""
    embeddings, labels = labelled(24, 4, 5)
    cosines = F.normalize(embeddings) @ F.normalize(embeddings).T
    for epsilon in (0.1, 0.4):
        total = 0.0
        for i, row in enumerate(cosines):
            same = (labels == labels[i]) & (torch.arange(24) != i)
            positives, negatives = row[same], row[labels != labels[i]]
            kept_n = negatives[negatives + epsilon > positives.min()]
            kept_p = positives[positives - epsilon < negatives.max()]
            total += (1 + torch.exp(-2 * (kept_p - 0.5)).sum()).log() / 2
            total += (1 + torch.exp(40 * (kept_n - 0.5)).sum()).log() / 40
        torch.testing.assert_close(multi_similarity_loss(embeddings, labels, 2, 40, 0.5, epsilon), total / 24)


def lengths_do_not_matter():
    embeddings, labels = labelled(9, 4, 3)
    longer = embeddings * torch.linspace(0.01, 300, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(multi_similarity_loss(longer, labels), multi_similarity_loss(embeddings, labels))


def one_pair_of_many(count):
    """Of all pairs mining leaves those of the first sample, and of the last its positive, whose cosine is 0."""
    loss = multi_similarity_loss(*two_among(count), 2.0, 10.0, 0.5, epsilon=-0.5, reduction="sum")
    of_first = math.log1p(math.exp(1)) / 2 + math.log1p((count - 2) * math.exp(5)) / 10
    torch.testing.assert_close(loss.item(), of_first, rtol=1e-5, atol=0)


EMBEDDINGS, LABELS = labelled(6, 3, 3)

SPEC = OpSpec(
    **set_of_everything(
        {
            "name": "multi_similarity_loss",
            "operator": "handgrad::multi_similarity_loss",
            "function": multi_similarity_loss,
            "reference": reference,
            "module": MultiSimilarityLoss,
            "samples": [
                Sample("all_pairs", labelled(6, 3, 3), {"alpha": 2.0, "beta": 8.0, "reduction": "none"}),
                Sample("mined", labelled(5, 3, 2), {"beta": 6.0, "epsilon": 0.3, "reduction": "mean"}),
                Sample("sum", labelled(5, 4, 2), {"alpha": 5.0, "beta": 3.0, "base": 0.1, "reduction": "sum"}),
            ],
            "large": Sample(
                "large", labelled(397, 11, 83, torch.float32), {"beta": 10.0, "epsilon": 0.1, "reduction": "sum"}
            ),
            "empty": [
                Sample("none_of_none", labelled(0, 3, 2), {"reduction": "none"}),
                Sample("mean_of_none", labelled(0, 3, 2), {"reduction": "mean"}),
                Sample("no_width", labelled(3, 0, 2), {"reduction": "sum"}),
            ],
            "lenient": {"epsilon": lambda value: value is None},
            "bad": [
                Bad("alpha", lambda: MultiSimilarityLoss(0.0), ValueError, r"alpha must be .*more than 0; got 0\.0"),
                Bad("beta", lambda: MultiSimilarityLoss(beta=-1), ValueError, "beta must be .* got -1"),
                Bad("base", lambda: MultiSimilarityLoss(base=math.inf), ValueError, "base must be a finite .* got inf"),
                Bad("epsilon", lambda: MultiSimilarityLoss(epsilon="0.1"), TypeError, "epsilon must be .* or None"),
                Bad("reduction", lambda: MultiSimilarityLoss(reduction="avg"), ValueError, "reduction must .* 'avg'"),
                Bad(
                    "labels_shape",
                    lambda: multi_similarity_loss(EMBEDDINGS, LABELS[:4]),
                    RuntimeError,
                    r"labels must be int64, one for each of the embeddings, here \(1, 6\); got \(1, 4\) of int64",
                ),
                Bad(
                    "float_labels",
                    lambda: multi_similarity_loss(EMBEDDINGS, LABELS.float()),
                    RuntimeError,
                    "labels must be int64, .* of float32",
                ),
            ],
            "identities": {"paper": the_papers_loop, "lengths": lengths_do_not_matter},
            # Vectors, rows, the embeddings' gradient.
            "device_calls": {"forward": (2, 6, 0), "backward": (3, 8, 0), "double_backward": (3, 12, 0)},
            # A warp looks at its row several times, and with it at labels of 8 bytes, from a cache: 14.9, 10.6 and 7.3
            # times.
            "floor_factors": {"forward": 15.0, "backward": 10.7, "double_backward": 7.4},
            "numel_beyond_int32": lambda: one_pair_of_many(46_400),
            "sums_of_many": lambda: one_pair_of_many(700),
        }
    )
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("epsilon", [None, 0.1, -0.2])
@pytest.mark.parametrize("numbers", [(2.0, 50.0, 0.5), (10.0, 3.0, 0.2)])
def test_sets_of_many_sizes(epsilon, numbers):
    """Of one chunk of anchors and of several, labels without a partner among them."""
    kwargs = dict(zip(("alpha", "beta", "base"), numbers, strict=True), epsilon=epsilon)
    for count, classes in ((1, 1), (2, 1), (3, 2), (90, 40), (180, 7)):
        given = labelled(count, 5, classes)
        actual = results(multi_similarity_loss, *given, **kwargs)
        torch.testing.assert_close(actual, results(reference, *given, **kwargs))


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("epsilon", [None, 0.3])
def test_gradcheck(epsilon):
    embeddings, labels = labelled(6, 3, 2)

    def function(leaf):
        return multi_similarity_loss(leaf, labels, 2.0, 5.0, 0.4, epsilon, reduction="none")

    assert gradcheck(function, embeddings.requires_grad_(), check_forward_ad=True)
    assert gradgradcheck(function, embeddings, check_fwd_over_rev=True)


@pytest.mark.parametrize("epsilon", [None, 0.1])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5]])
def test_a_side_without_pairs(epsilon, labels):
    """SupContrast#141, pytorch-metric-learning#660: NaN for an anchor without a positive. Here a side without pairs
    costs nothing; with mining, which compares the two, the other does not either."""
    embeddings, labels = labelled(4, 3, 2)[0], torch.tensor(labels)
    losses, grad, *second = results(multi_similarity_loss, embeddings, labels, epsilon=epsilon)
    torch.testing.assert_close(losses, results(reference, embeddings, labels, epsilon=epsilon)[0])
    assert losses.gt(0).all() if epsilon is None else losses.eq(0).all()
    assert all(tensor.isfinite().all() for tensor in (grad, *second))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_exponents(dtype):
    """exp(beta (1 - base)) leaves the range of float16 at the defaults, e^25, and that of float32 at a beta of 200."""
    embeddings, labels = labelled(8, 4, 4)
    embeddings[1:] = embeddings[:1] + 1e-2 * embeddings[1:]
    given = embeddings.to(dtype)
    for beta in (50.0, 400.0):
        actual = results(multi_similarity_loss, given, labels, beta=beta)
        exact = results(reference, given.double(), labels, beta=beta)
        torch.testing.assert_close(actual[0].double(), exact[0], rtol=1e-5, atol=1e-5)
        assert all(tensor.isfinite().all() for tensor in actual)


def test_labels_of_any_size():
    """pytorch-metric-learning#744 and #723: what is compared are labels, as whole numbers of 64 bits."""
    embeddings, labels = labelled(9, 4, 3)
    names = torch.tensor([2**53, 2**53 + 1, -(2**60)])
    torch.testing.assert_close(
        multi_similarity_loss(embeddings, names[labels]), multi_similarity_loss(embeddings, labels)
    )


def test_vectors_of_zeros():
    """A vector of zeros is at right angles to all, and nothing moves it."""
    embeddings, labels = labelled(6, 3, 2)
    embeddings[1] = 0
    actual = results(multi_similarity_loss, embeddings, labels)
    torch.testing.assert_close(actual, results(reference, embeddings, labels))
    assert actual[1][1].eq(0).all()


@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_nan_spoils_what_it_belongs_to(epsilon):
    embeddings, labels = labelled(6, 3, 2)
    embeddings[2, 0] = math.nan
    assert multi_similarity_loss(embeddings, labels, epsilon=epsilon).isnan()
