"""Supervised contrastive loss: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import SupervisedContrastiveLoss, supervised_contrastive_loss
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


def reference(embeddings, labels, temperature=0.1, normalize=True, reduction="mean"):
    """The paper's equation 2, row by row and positive by positive."""
    logits = plain_logits(embeddings, embeddings, 1 / temperature, normalize)
    if not embeddings.numel():
        return plain_reduction(logits.sum(-1), reduction)
    if logits.dim() == 2:
        logits, labels = logits[None], labels[None]
    losses = []
    for matrix_of, numbers_of in zip(logits, labels.tolist(), strict=True):
        for i, row in enumerate(matrix_of):
            denominator = torch.cat([row[:i], row[i + 1 :]]).logsumexp(0) if len(row) > 1 else row.sum()
            terms = [denominator - row[j] for j, x in enumerate(numbers_of) if x == numbers_of[i] and j != i]
            losses.append(torch.stack(terms).mean() if terms else 0 * row.sum())
    losses = torch.stack(losses).view(logits.shape[:2])
    return plain_reduction(losses if embeddings.dim() == 3 else losses[0], reduction)


def labelled(*labels, features=3, dtype=torch.float64):
    """Embeddings, and these labels: of each problem a list."""
    numbered = torch.tensor(labels)
    return (*embeddings((*numbered.shape, features), dtype=dtype), numbered)


def order_does_not_matter():
    rows, labels = labelled(0, 1, 0, 2, 2, 0)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    losses = supervised_contrastive_loss(rows, labels, reduction="none")
    torch.testing.assert_close(supervised_contrastive_loss(rows[order], labels[order], reduction="none"), losses[order])


def labels_are_names():
    """Of any value, pytorch-metric-learning#744's million and beyond 32 bits."""
    rows, labels = labelled(0, 1, 0, 2, 2, 0)
    names = torch.tensor([-(2**62), 10**6, 2**32])
    torch.testing.assert_close(
        supervised_contrastive_loss(rows, names[labels]), supervised_contrastive_loss(rows, labels)
    )
    # Equal in their lower 32 bits.
    apart = torch.tensor([0, 2**32, 2**33, 2**34, 2**35, 2**36])
    assert supervised_contrastive_loss(rows, apart) == 0


def every_pair_counts(count):
    """The sums of some rows over all of so many keys."""
    rows = torch.linspace(-1, 1, count).view(count, 1)
    labels = torch.arange(count) // 2
    some = torch.tensor([0, count // 2, count - 1])
    losses = supervised_contrastive_loss(rows, labels, 1.0, normalize=False, reduction="none")
    logits = rows[some].double() @ rows.T.double()
    logits[range(3), some] = -INFINITY
    expected = logits.logsumexp(1) - logits[range(3), some ^ 1]
    torch.testing.assert_close(losses[some].double(), expected, rtol=1e-5, atol=1e-5)


def of_classes(*shape, classes=10, dtype=torch.float32):
    return (*embeddings(shape, dtype=dtype), torch.arange(shape[0] * shape[1]).view(shape[:2]) % classes)


SPEC = OpSpec(
    name="supervised_contrastive_loss",
    operator="handgrad::supervised_contrastive_loss",
    function=supervised_contrastive_loss,
    reference=reference,
    module=SupervisedContrastiveLoss,
    samples=[
        Sample("learnt", (*labelled([0, 1, 0, 1, 0], [2, 2, 5, 2, 7]), numbers(0.5, 1.5)), {"normalize": False}),
        Sample("rows", labelled([0, 1, 0, 0], [3, 3, 5, 5]), {"temperature": 0.7, "reduction": "none"}),
        Sample(
            "sum",
            labelled([1, 1, 0, 0, 1], [1, 2, 3, 4, 5], features=2),
            {"temperature": 1.0, "normalize": False, "reduction": "sum"},
        ),
    ],
    large=Sample("large", of_classes(2, 310, 37), {"temperature": 3.0, "normalize": False, "reduction": "sum"}),
    # The rows of the matrix pass through the second level of the cache, and at 37 features they are many times the
    # embeddings: what was counted, rounded up.
    floor_factors={"forward": 44.4, "backward": 42.4, "double_backward": 39.8},
    empty=[
        Sample("no_batch_none", of_classes(0, 4, 4), {"reduction": "none"}),
        Sample("no_rows_sum", of_classes(2, 0, 4), {"reduction": "sum"}),
        Sample("nothing_mean", of_classes(2, 0, 4), {"reduction": "mean"}),
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
        *bad_calls_of_one(supervised_contrastive_loss, labelled([0, 1, 0, 1], [2, 2, 5, 2])),
        Bad(
            "labels",
            lambda: supervised_contrastive_loss(*embeddings((4, 3)), torch.tensor([0, 1, 0])),
            RuntimeError,
            r"labels must have a label for each row of embeddings, \(4,\); got \(3,\)",
        ),
        Bad(
            "bool_labels",
            lambda: supervised_contrastive_loss(*embeddings((2, 3)), torch.tensor([True, False])),
            TypeError,
            "labels must be a tensor of integers, as int64; got one of bool",
        ),
        Bad(
            "temperature",
            lambda: SupervisedContrastiveLoss(0.0),
            ValueError,
            r"temperature must be a finite number above 0",
        ),
    ],
    identities={"order": order_does_not_matter, "names": labels_are_names},
    # 2,152,960,000 pairs.
    numel_beyond_int32=lambda: every_pair_counts(46_400),
    sums_of_many=lambda: every_pair_counts(600),
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize(("rows", "classes"), [(2, 1), (70, 7), (530, 100)])
def test_any_size(rows, classes):
    """Matrices of a part of a chunk of rows, and of several."""
    tensors = (*embeddings((rows, 4)), torch.arange(rows) % classes, numbers(0.6)[0])
    expected = derivatives(reference, tensors, normalize=False)
    torch.testing.assert_close(derivatives(supervised_contrastive_loss, tensors, normalize=False), expected)


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("classes", [1, 10, 1200])
def test_matrices_are_never_in_memory(classes):
    """pytorch-metric-learning#547 (120 GB for 1,200 embeddings of 10 classes) and #203: no list of pairs either."""
    (rows,) = (x.requires_grad_() for x in embeddings((1200, 32), dtype=torch.float32))
    labels = torch.arange(1200) % classes

    def train():
        supervised_contrastive_loss(rows, labels).backward()

    train()
    assert allocated(train) < 20 * 4 * rows.numel()


def test_rows_without_a_positive():
    """SupContrast#141 (and #50, #20): NaN there. They cost nothing, have no gradient as rows of the matrix, are still
    candidates of others, and count in the mean."""
    rows, labels = labelled(0, 1, 1, 3)
    losses, first, _ = derivatives(supervised_contrastive_loss, (rows, labels), reduction="none")
    assert losses[[0, 3]].tolist() == [0, 0]
    torch.testing.assert_close(losses, reference(rows, labels, reduction="none"))
    assert first[0].abs().sum(1).ne(0).all()
    torch.testing.assert_close(supervised_contrastive_loss(rows, labels), losses.sum() / 4)


def test_no_positives_at_all():
    """A loss of 0 with gradients of 0, and not without (pytorch-metric-learning#744)."""
    rows, labels = labelled(0, 1, 2, 3)
    loss, first, second = derivatives(supervised_contrastive_loss, (rows, labels))
    assert loss == 0
    for grad in (*first, *second):
        assert grad.eq(0).all()


@pytest.mark.parametrize("value", [INFINITY, float("nan")])
def test_what_is_not_finite_is_in_every_denominator(value):
    """But for rows without a positive, which are not looked at."""
    rows, labels = labelled(0, 0, 1, 1, 2, dtype=torch.float32)
    rows[1, 0] = value
    losses = supervised_contrastive_loss(rows, labels, reduction="none")
    assert losses.isnan().tolist() == [True] * 4 + [False]


def test_all_labels_equal():
    """Every other row is a positive."""
    rows, labels = labelled(7, 7, 7, 7, 7)
    torch.testing.assert_close(supervised_contrastive_loss(rows, labels), reference(rows, labels))


def test_equal_embeddings():
    """The logarithm of the number of candidates, whatever the labels."""
    rows = torch.ones(6, 3, dtype=torch.float64)
    losses = supervised_contrastive_loss(rows, torch.tensor([0, 0, 1, 1, 1, 2]), reduction="none")
    torch.testing.assert_close(losses, torch.tensor([5.0] * 5 + [1.0], dtype=torch.float64).log())


def test_as_the_authors_have_it():
    """Their code on features (images, views, features), which scales by temperature / 0.07: written out here."""
    (features,) = embeddings((5, 2, 4))
    labels = torch.tensor([0, 1, 0, 2, 1])
    features = F.normalize(features, dim=2)
    rows, numbered = features.transpose(0, 1).flatten(0, 1), labels.repeat(2)
    logits = rows @ rows.T / 0.07
    others = 1 - torch.eye(10)
    positive = (numbered[:, None] == numbered).double() * others
    log_p = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    expected = -((positive * log_p).sum(1) / positive.sum(1)).mean()
    ours = supervised_contrastive_loss(features.flatten(0, 1), labels.repeat_interleave(2), 0.07)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_other_types(dtype):
    rows, labels = labelled(0, 1, 0, 1)
    torch.testing.assert_close(
        supervised_contrastive_loss(rows, labels.to(dtype)), supervised_contrastive_loss(rows, labels)
    )


def test_rows_without_a_length():
    rows = torch.zeros(4, 3, requires_grad=True)
    loss = supervised_contrastive_loss(rows, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(loss, torch.tensor(3.0).log())
    assert torch.autograd.grad(loss, rows)[0].eq(0).all()
