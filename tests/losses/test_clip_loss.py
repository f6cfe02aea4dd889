"""The loss of CLIP: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import ClipLoss, clip_loss, info_nce_loss
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


def reference(image_features, text_features, logit_scale, normalize=True, reduction="mean"):
    """Two of torch's cross entropies."""
    logits = plain_logits(image_features, text_features, logit_scale, normalize)
    count = logits.shape[-1]
    if not logits.numel():
        return plain_reduction(logits.sum(-1), reduction)
    targets = torch.arange(count).expand(logits.shape[:-1])
    of_images = F.cross_entropy(logits.reshape(-1, count), targets.flatten(), reduction="none")
    of_texts = F.cross_entropy(logits.mT.reshape(-1, count), targets.flatten(), reduction="none")
    return plain_reduction((of_images + of_texts).view(targets.shape) / 2, reduction)


def sides_may_be_swapped():
    images, texts = embeddings((5, 3), (5, 3))
    ours = derivatives(clip_loss, (images, texts), logit_scale=3.0)
    theirs = derivatives(clip_loss, (texts, images), logit_scale=3.0)
    for k in (1, 2):
        torch.testing.assert_close(ours[0], theirs[0])
        torch.testing.assert_close(ours[k][0], theirs[k][1])


def two_of_info_nce():
    images, texts = embeddings((2, 5, 3), (2, 5, 3))
    one_by_one = info_nce_loss(images, texts, 0.2) + info_nce_loss(texts, images, 0.2)
    torch.testing.assert_close(clip_loss(images, texts, 5.0), one_by_one / 2)


def every_pair_counts(count):
    """The sums of some rows over all of so many keys."""
    rows = torch.linspace(-1, 1, count).view(count, 1)
    some = torch.tensor([0, count // 2, count - 1])
    losses = clip_loss(rows, rows, 1.0, normalize=False, reduction="none")
    # The matrix is symmetric.
    logits = rows[some].double() @ rows.T.double()
    expected = logits.logsumexp(1) - rows[some, 0].double() ** 2
    torch.testing.assert_close(losses[some].double(), expected, rtol=1e-5, atol=1e-5)


SPEC = OpSpec(
    name="clip_loss",
    operator="handgrad::clip_loss",
    function=clip_loss,
    reference=reference,
    module=ClipLoss,
    samples=[
        Sample("learnt", (*embeddings((2, 3, 5), (2, 3, 5)), numbers(0.5, 1.5)), {"normalize": False}),
        Sample("rows", (*embeddings((2, 3, 2), (2, 3, 2)), numbers(2.0, 0.8)), {"reduction": "none"}),
        Sample("sum", (*embeddings((2, 4, 2), (2, 4, 2)), numbers(1.2, 0.3)), {"reduction": "sum"}),
    ],
    large=Sample(
        "large",
        (*embeddings((2, 311, 37), (2, 311, 37), dtype=torch.float32), numbers(0.3, 0.5).float()),
        {"normalize": False, "reduction": "sum"},
    ),
    # The rows of the matrix pass through the second level of the cache, and at 37 features they are many times the
    # embeddings: what was counted, rounded up.
    floor_factors={"forward": 12.0, "backward": 18.3, "double_backward": 21.8},
    empty=[
        Sample("no_batch_none", (*embeddings((0, 3, 4), (0, 3, 4)), numbers()), {"reduction": "none"}),
        Sample("no_pairs_sum", (*embeddings((2, 0, 4), (2, 0, 4)), numbers(1, 2)), {"reduction": "sum"}),
        Sample("nothing_mean", (*embeddings((2, 0, 4), (2, 0, 4)), numbers(1, 2)), {"reduction": "mean"}),
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
    device_calls={"forward": (5, 7, 0), "backward": (5, 10, 0), "double_backward": (5, 14, 0)},
    bad=[
        *bad_calls(
            clip_loss,
            ("image_features", "text_features"),
            (*embeddings((2, 3, 4), (2, 3, 4)), numbers(1, 2)),
        ),
        Bad(
            "more_texts",
            lambda: clip_loss(*embeddings((3, 4), (4, 4)), 1.0),
            RuntimeError,
            r"text_features must have the shape of image_features, \(3, 4\); got \(4, 4\)",
        ),
        *(
            Bad(
                f"scale_{value}",
                lambda value=value: clip_loss(*embeddings((3, 4), (3, 4)), value),
                ValueError,
                rf"logit_scale must be a finite number above 0, or a tensor; got {value}",
            )
            for value in (0.0, -1.0, INFINITY)
        ),
    ],
    identities={"swapped": sides_may_be_swapped, "two_sides": two_of_info_nce},
    # 2,152,960,000 pairs.
    numel_beyond_int32=lambda: every_pair_counts(46_400),
    sums_of_many=lambda: every_pair_counts(600),
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize(
    ("count", "features"), [(1, 1), (70, 3), (530, 5), pytest.param(1100, 2, marks=pytest.mark.tiers("whole"))]
)
def test_any_size(count, features):
    """Matrices of a part of a chunk of rows, of several, and of several blocks of columns."""
    tensors = (*embeddings((count, features), (count, features)), numbers(1.6)[0])
    expected = derivatives(reference, tensors, normalize=False)
    torch.testing.assert_close(derivatives(clip_loss, tensors, normalize=False), expected)


@pytest.mark.tiers("whole")
def test_matrices_are_never_in_memory():
    images, texts = (x.requires_grad_() for x in embeddings((1200, 32), (1200, 32), dtype=torch.float32))

    def train():
        clip_loss(images, texts, 10.0).backward()

    train()
    assert allocated(train) < 20 * 4 * images.numel()


def test_one_pair():
    loss, first, second = derivatives(clip_loss, embeddings((1, 4), (1, 4)), logit_scale=100.0)
    assert loss == 0
    for grad in (*first, *second):
        torch.testing.assert_close(grad, torch.zeros_like(grad))


def test_a_scale_that_is_learnt_by_its_logarithm():
    """As open_clip and transformers have it, with the gradient of the parameter and not of its exponential."""
    images, texts = embeddings((5, 4), (5, 4))
    grads = []
    for loss_of in (ClipLoss(), reference):
        parameter = torch.nn.Parameter(torch.tensor(1 / 0.07, dtype=torch.float64).log())
        loss_of(images, texts, parameter.exp()).backward()
        grads.append(parameter.grad)
    torch.testing.assert_close(*grads)


def test_a_scale_of_float32_beside_half_features():
    images, texts = (x.bfloat16() for x in embeddings((5, 4), (5, 4)))
    scale = torch.tensor(14.0, requires_grad=True)
    loss = clip_loss(images, texts, scale)
    assert loss.dtype is torch.float32
    loss.backward()
    assert scale.grad.dtype is torch.float32


def test_the_largest_scale():
    """100, at which exp of a logit is beyond float32: nothing overflows, nor do sums of columns."""
    images, texts = embeddings((8, 3), (8, 3), dtype=torch.float32)
    loss, first, _ = derivatives(clip_loss, (images, texts), logit_scale=100.0)
    expected, wanted, _ = derivatives(reference, (images.double(), texts.double()), logit_scale=100.0)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    for actual, grad in zip(first, wanted, strict=True):
        torch.testing.assert_close(actual.double(), grad, rtol=1e-3, atol=1e-3)


def test_growing_and_shrinking_columns():
    """The largest logit of a column in its first chunk of rows, in its last, or in none of them."""
    images, texts = embeddings((600, 2), (600, 2))
    order = (images @ texts[0]).argsort()
    for rows in (order, order.flip(0)):
        tensors = (images[rows], texts[rows])
        ours = derivatives(clip_loss, tensors, logit_scale=40.0, normalize=False)
        torch.testing.assert_close(ours, derivatives(reference, tensors, logit_scale=40.0, normalize=False))


def test_features_without_a_length():
    images, texts = embeddings((3, 4), (3, 4), dtype=torch.float32)
    images[1] = 0
    loss, first, second = derivatives(clip_loss, (images, texts), logit_scale=5.0)
    torch.testing.assert_close(loss, reference(images, texts, 5.0))
    assert first[0][1].eq(0).all()
    assert all(grad.isfinite().all() for grad in (*first, *second))


@pytest.mark.parametrize("value", [INFINITY, float("nan")])
def test_what_is_not_finite_spoils_all(value):
    """An image is in the denominators of all texts."""
    images, texts = embeddings((4, 3), (4, 3), dtype=torch.float32)
    images[2, 0] = value
    assert clip_loss(images, texts, 5.0, reduction="none").isnan().all()
