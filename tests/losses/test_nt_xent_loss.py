"""NT-Xent: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import NTXentLoss, info_nce_loss, nt_xent_loss, supervised_contrastive_loss
from handgrad.testing import Bad, OpSpec, Sample, matrix
from handgrad.testing.ticks.memory import allocated
from pairwise_losses import (
    INFINITY,
    NUMBERS,
    bad_calls_of_one,
    derivatives,
    embeddings,
    numbers,
    plain_logits,
    plain_reduction,
)


def reference(embeddings, temperature=0.5, normalize=True, reduction="mean"):
    """Row by row: the row without itself, of which the other view's number is the class."""
    rows = embeddings.shape[-2]
    logits = plain_logits(embeddings, embeddings, 1 / temperature, normalize)
    if not embeddings.numel():
        return plain_reduction(logits.sum(-1), reduction)
    losses = []
    for i in range(rows):
        other = (i + rows // 2) % rows
        candidates = torch.cat([logits[..., i, :i], logits[..., i, i + 1 :]], -1)
        losses.append(candidates.logsumexp(-1) - logits[..., i, other])
    return plain_reduction(torch.stack(losses, -1), reduction)


def a_label_for_each_image():
    """The supervised loss with a label for each image."""
    (both,) = embeddings((8, 3))
    labels = torch.arange(4).repeat(2)
    for reduction in ("none", "mean", "sum"):
        torch.testing.assert_close(
            nt_xent_loss(both, 0.3, reduction=reduction),
            supervised_contrastive_loss(both, labels, 0.3, reduction=reduction),
        )


def views_may_be_swapped():
    first, second = embeddings((4, 3), (4, 3))
    torch.testing.assert_close(nt_xent_loss(torch.cat([first, second])), nt_xent_loss(torch.cat([second, first])))


def every_pair_counts(count):
    """The sums of some rows over all of so many keys."""
    rows = torch.linspace(-1, 1, count).view(count, 1)
    some = torch.tensor([0, count // 2, count - 1])
    losses = nt_xent_loss(rows, 1.0, normalize=False, reduction="none")
    logits = rows[some].double() @ rows.T.double()
    logits[range(3), some] = -INFINITY
    expected = logits.logsumexp(1) - logits[range(3), (some + count // 2) % count]
    torch.testing.assert_close(losses[some].double(), expected, rtol=1e-5, atol=1e-5)


SPEC = OpSpec(
    name="nt_xent_loss",
    operator="handgrad::nt_xent_loss",
    function=nt_xent_loss,
    reference=reference,
    module=NTXentLoss,
    samples=[
        Sample("learnt", (*embeddings((2, 8, 3)), numbers(0.5, 1.5)), {"normalize": False}),
        Sample("rows", embeddings((2, 4, 2)), {"temperature": 0.7, "reduction": "none"}),
        Sample("sum", embeddings((2, 6, 2)), {"temperature": 1.0, "normalize": False, "reduction": "sum"}),
    ],
    large=Sample(
        "large",
        embeddings((2, 310, 37), dtype=torch.float32),
        {"temperature": 3.0, "normalize": False, "reduction": "sum"},
    ),
    # The rows of the matrix pass through the second level of the cache, and at 37 features they are many times the
    # embeddings: what was counted, rounded up.
    floor_factors={"forward": 15.4, "backward": 19.6, "double_backward": 24.2},
    empty=[
        Sample("no_batch_none", embeddings((0, 4, 4)), {"reduction": "none"}),
        Sample("no_images_sum", embeddings((2, 0, 4)), {"reduction": "sum"}),
        Sample("nothing_mean", embeddings((2, 0, 4)), {"reduction": "mean"}),
    ],
    autocast=torch.float32,
    widens=True,
    channels_last=False,
    # Rows divided by their lengths, of small samples.
    saves=8192,
    lenient=NUMBERS,
    # Rows of the matrix, and sums of each.
    device_scratch=2**20,
    # Each matrix of the batch by itself.
    device_calls={"forward": (3, 3, 0), "backward": (3, 5, 0), "double_backward": (3, 7, 0)},
    bad=[
        *bad_calls_of_one(nt_xent_loss, embeddings((2, 4, 3))),
        Bad(
            "odd",
            lambda: nt_xent_loss(*embeddings((5, 3))),
            RuntimeError,
            r"embeddings must be an even number of rows, .*; got \(5, 3\)",
        ),
        Bad("temperature", lambda: NTXentLoss(0.0), ValueError, r"temperature must be a finite number above 0"),
    ],
    identities={"labels": a_label_for_each_image, "swapped": views_may_be_swapped},
    # 2,152,960,000 pairs.
    numel_beyond_int32=lambda: every_pair_counts(46_400),
    sums_of_many=lambda: every_pair_counts(600),
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize(("rows", "features"), [(2, 1), (70, 3), (530, 5)])
def test_any_size(rows, features):
    """Matrices of a part of a chunk of rows, and of several."""
    tensors = (*embeddings((rows, features)), numbers(0.6)[0])
    expected = derivatives(reference, tensors, normalize=False)
    torch.testing.assert_close(derivatives(nt_xent_loss, tensors, normalize=False), expected)


@pytest.mark.tiers("whole")
def test_matrices_are_never_in_memory():
    """pytorch-metric-learning#547: 120 GB for 1,200 embeddings."""
    (rows,) = (x.requires_grad_() for x in embeddings((1200, 32), dtype=torch.float32))

    def train():
        nt_xent_loss(rows).backward()

    train()
    assert allocated(train) < 20 * 4 * rows.numel()


def test_one_image():
    """Its views have only each other: no loss, and no gradient."""
    loss, first, second = derivatives(nt_xent_loss, embeddings((2, 4)))
    assert loss == 0
    for grad in (*first, *second):
        torch.testing.assert_close(grad, torch.zeros_like(grad))


def test_a_row_is_no_candidate_of_its_own():
    """However long: its product with itself, the largest of all, is in no denominator."""
    (rows,) = embeddings((6, 3), dtype=torch.float32)
    rows[2] *= 1e4
    loss = nt_xent_loss(rows, 1.0, normalize=False, reduction="none")
    torch.testing.assert_close(loss.double(), reference(rows.double(), 1.0, False, "none"), rtol=1e-5, atol=1e-5)
    assert loss.isfinite().all()


def test_equal_views():
    """The other view is as near as it can be; the rest still counts (SupContrast#98)."""
    (first,) = embeddings((4, 3))
    both = torch.cat([first, first])
    torch.testing.assert_close(nt_xent_loss(both), reference(both))
    assert nt_xent_loss(both) > 0


def test_views_without_a_length():
    rows = torch.zeros(4, 3, requires_grad=True)
    loss = nt_xent_loss(rows)
    torch.testing.assert_close(loss, torch.tensor(3.0).log())
    assert torch.autograd.grad(loss, rows)[0].eq(0).all()


@pytest.mark.parametrize("value", [INFINITY, float("nan")])
def test_what_is_not_finite_is_in_every_denominator(value):
    (rows,) = embeddings((6, 3), dtype=torch.float32)
    rows[1, 0] = value
    assert nt_xent_loss(rows, reduction="none").isnan().all()


def test_half_embeddings():
    """pytorch-metric-learning#6, #121: half types are taken, and computed in float32."""
    (rows,) = (x.half() for x in embeddings((8, 64)))
    loss = nt_xent_loss(rows, 0.05)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss.double(), reference(rows.double(), 0.05), rtol=1e-5, atol=1e-5)


def test_it_is_not_two_of_info_nce():
    """Both views are among the candidates here."""
    first, second = (F.normalize(x, dim=1) for x in embeddings((4, 3), (4, 3)))
    candidates = torch.cat([second, first, second])[torch.tensor([0, 1, 2, 3, 5, 6, 7, 4])]
    assert nt_xent_loss(torch.cat([first, second])) != info_nce_loss(first, candidates, 0.5)
