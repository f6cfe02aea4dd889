"""The loss of SigLIP: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import SigLipLoss, siglip_loss
from handgrad.testing import Bad, OpSpec, Sample, matrix
from handgrad.testing.ticks.memory import allocated
from pairwise_losses import (
    INFINITY,
    NUMBERS,
    bad_calls,
    derivatives,
    embeddings,
    numbers,
    plain_logits,
    plain_reduction,
)


def reference(image_features, text_features, logit_scale, logit_bias=0.0, normalize=True, reduction="mean"):
    """torch's binary cross entropy of every pair."""
    logits = plain_logits(image_features, text_features, logit_scale, normalize)
    if isinstance(logit_bias, torch.Tensor) and logit_bias.dim():
        logit_bias = logit_bias[:, None, None]
    logits = logits + logit_bias
    targets = torch.eye(*logits.shape[-2:], dtype=logits.dtype).expand_as(logits)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
    return plain_reduction(losses, reduction)


def a_bias_is_a_feature():
    """A feature of one more on both sides, where lengths do not count."""
    images, texts = embeddings((5, 3), (5, 3))
    ones = images.new_ones(5, 1)
    longer = torch.cat([images, -0.7 * ones], 1), torch.cat([texts, ones], 1)
    torch.testing.assert_close(
        siglip_loss(images, texts, 2.0, -1.4, normalize=False), siglip_loss(*longer, 2.0, normalize=False)
    )


def texts_of_no_image():
    """Add what a negative costs, and nothing else."""
    images, texts, others = embeddings((4, 3), (4, 3), (2, 3))
    whole = siglip_loss(images, torch.cat([texts, others]), 3.0, -1.0, reduction="none")
    extra = F.softplus(plain_logits(images, others, 3.0, True) - 1).sum(1)
    torch.testing.assert_close(whole, siglip_loss(images, texts, 3.0, -1.0, reduction="none") + extra)


def every_pair_counts(count):
    """The sums of some rows over all of so many keys."""
    rows = torch.linspace(-1, 1, count).view(count, 1)
    some = torch.tensor([0, count // 2, count - 1])
    losses = siglip_loss(rows, rows, 1.0, -9.0, normalize=False, reduction="none")
    logits = rows[some].double() @ rows.T.double() - 9
    expected = F.softplus(logits).sum(1) - logits[range(3), some]
    torch.testing.assert_close(losses[some].double(), expected, rtol=1e-5, atol=1e-5)


SPEC = OpSpec(
    name="siglip_loss",
    operator="handgrad::siglip_loss",
    function=siglip_loss,
    reference=reference,
    module=SigLipLoss,
    samples=[
        Sample(
            "learnt", (*embeddings((2, 3, 5), (2, 3, 5)), numbers(0.5, 1.5), numbers(-0.5, 0.3)), {"normalize": False}
        ),
        Sample("rows", (*embeddings((2, 3, 2), (2, 4, 2)), numbers(2, 3), numbers(-1, -2)), {"reduction": "none"}),
        Sample("sum", (*embeddings((2, 4, 2), (2, 4, 2)), numbers(1.2, 0.3), numbers(0, 1)), {"reduction": "sum"}),
    ],
    large=Sample(
        "large",
        (
            *embeddings((2, 311, 37), (2, 333, 37), dtype=torch.float32),
            numbers(0.3, 0.5).float(),
            numbers(-3, -2).float(),
        ),
        {"normalize": False, "reduction": "sum"},
    ),
    # The rows of the matrix pass through the second level of the cache, and at 37 features they are many times the
    # embeddings: what was counted, rounded up.
    floor_factors={"forward": 11.1, "backward": 9.4, "double_backward": 14.3},
    empty=[
        Sample("no_batch_none", (*embeddings((0, 3, 4), (0, 3, 4)), numbers(), numbers()), {"reduction": "none"}),
        Sample(
            "no_images_sum", (*embeddings((2, 0, 4), (2, 3, 4)), numbers(1, 2), numbers(1, 2)), {"reduction": "sum"}
        ),
        Sample("nothing_mean", (*embeddings((2, 0, 4), (2, 0, 4)), numbers(1, 2), numbers(1, 2)), {}),
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
    device_calls={"forward": (3, 3, 0), "backward": (4, 7, 0), "double_backward": (4, 9, 0)},
    bad=[
        *bad_calls(
            siglip_loss,
            ("image_features", "text_features"),
            (*embeddings((2, 3, 4), (2, 3, 4)), numbers(1, 2), numbers(1, 2)),
        ),
        Bad(
            "scale",
            lambda: siglip_loss(*embeddings((3, 4), (3, 4)), -1.0),
            ValueError,
            "logit_scale must be a finite number above 0, or a tensor; got -1",
        ),
        Bad(
            "bias",
            lambda: siglip_loss(*embeddings((3, 4), (3, 4)), 1.0, INFINITY),
            ValueError,
            "logit_bias must be a finite number, or a tensor; got inf",
        ),
    ],
    identities={"bias": a_bias_is_a_feature, "texts": texts_of_no_image},
    # 2,152,960,000 pairs.
    numel_beyond_int32=lambda: every_pair_counts(46_400),
    sums_of_many=lambda: every_pair_counts(600),
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize(
    ("count", "texts", "features"),
    [(1, 1, 1), (70, 70, 3), (530, 530, 5), pytest.param(257, 1100, 2, marks=pytest.mark.tiers("whole"))],
)
def test_any_size(count, texts, features):
    """Matrices of a part of a chunk of rows, of several, and of several blocks of columns."""
    tensors = (*embeddings((count, features), (texts, features)), numbers(1.6)[0], numbers(-2.5)[0])
    expected = derivatives(reference, tensors, normalize=False)
    torch.testing.assert_close(derivatives(siglip_loss, tensors, normalize=False), expected)


@pytest.mark.tiers("whole")
def test_matrices_are_never_in_memory():
    images, texts = (x.requires_grad_() for x in embeddings((1200, 32), (1200, 32), dtype=torch.float32))

    def train():
        siglip_loss(images, texts, 10.0, -10.0).backward()

    train()
    assert allocated(train) < 20 * 4 * images.numel()


def test_the_mean_is_over_images():
    """As in the paper and in open_clip: not over pairs."""
    images, texts = embeddings((5, 4), (5, 4))
    total = siglip_loss(images, texts, 2.0, -1.0, reduction="sum")
    torch.testing.assert_close(siglip_loss(images, texts, 2.0, -1.0), total / 5)


def test_a_scale_and_a_bias_that_are_learnt():
    """By the logarithm of the one, from where the paper starts."""
    images, texts = embeddings((5, 4), (5, 4))
    grads = []
    for loss_of in (SigLipLoss(), reference):
        scale = torch.nn.Parameter(torch.tensor(10.0, dtype=torch.float64).log())
        bias = torch.nn.Parameter(torch.tensor(-10.0, dtype=torch.float64))
        loss_of(images, texts, scale.exp(), bias).backward()
        grads.append((scale.grad, bias.grad))
    torch.testing.assert_close(*grads)


def test_logits_of_any_size():
    """Where exp of a logit overflows the loss is the logit, and where it underflows 0, with gradients of 1 and 0."""
    images = torch.tensor([[1.0], [1.0]])
    texts = torch.tensor([[1e4], [-1e4]])
    loss, first, second = derivatives(siglip_loss, (images, texts), logit_scale=1.0, normalize=False, reduction="none")
    assert loss.tolist() == [0.0, 2e4]
    assert first[1].tolist() == [[1.0], [-1.0]]
    assert all(grad.isfinite().all() for grad in (*first, *second))


def test_features_without_a_length():
    images, texts = embeddings((3, 4), (3, 4), dtype=torch.float32)
    images[1] = 0
    loss, first, second = derivatives(siglip_loss, (images, texts), logit_scale=5.0)
    torch.testing.assert_close(loss, reference(images, texts, 5.0))
    assert first[0][1].eq(0).all()
    assert all(grad.isfinite().all() for grad in (*first, *second))


@pytest.mark.parametrize("value", [INFINITY, float("nan")])
def test_what_is_not_finite_stays_in_its_row(value):
    images, texts = embeddings((4, 3), (4, 3), dtype=torch.float32)
    images[2, 0] = value
    assert siglip_loss(images, texts, 5.0, reduction="none").isnan().tolist() == [False, False, True, False]
