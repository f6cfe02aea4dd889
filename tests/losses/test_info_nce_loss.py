"""InfoNCE: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import InfoNCELoss, info_nce_loss
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


def reference(queries, keys, temperature=0.1, normalize=True, reduction="mean"):
    """torch's cross entropy of each query's number."""
    logits = plain_logits(queries, keys, 1 / temperature, normalize)
    if not logits.numel():
        return plain_reduction(logits.sum(-1), reduction)
    targets = torch.arange(queries.shape[-2]).expand(logits.shape[:-1])
    losses = F.cross_entropy(logits.reshape(-1, keys.shape[-2]), targets.flatten(), reduction="none")
    return plain_reduction(losses.view(targets.shape), reduction)


def a_queue_of_negatives():
    """Keys beyond the queries are in every denominator, and nobody's positive."""
    queries, keys, queue = embeddings((4, 3), (4, 3), (5, 3))
    loss = info_nce_loss(queries, torch.cat([keys, queue]), 0.5, reduction="none")
    queries, keys, queue = (F.normalize(x, dim=1) for x in (queries, keys, queue))
    own = (queries * keys).sum(1, keepdim=True) / 0.5
    others = torch.cat([queries @ keys.T, queries @ queue.T], 1) / 0.5
    torch.testing.assert_close(loss, (others.logsumexp(1, keepdim=True) - own).squeeze(1))


def a_batch_is_problem_by_problem():
    queries, keys = embeddings((3, 5, 4), (3, 6, 4))
    temperatures = numbers(0.1, 0.5, 2.0)
    whole = info_nce_loss(queries, keys, temperatures, reduction="none")
    for b in range(3):
        alone = info_nce_loss(queries[b], keys[b], temperatures[b], reduction="none")
        torch.testing.assert_close(whole[b], alone)


def lengths_do_not_matter():
    queries, keys = embeddings((5, 4), (5, 4))
    for factor in (1e-6, 1e6):
        torch.testing.assert_close(info_nce_loss(factor * queries, keys / factor), info_nce_loss(queries, keys))


def every_pair_counts(count):
    """The sums of some rows over all of so many keys."""
    queries = torch.linspace(-1, 1, count).view(count, 1)
    some = torch.tensor([0, count // 2, count - 1])
    losses = info_nce_loss(queries, queries, 1.0, normalize=False, reduction="none")
    logits = queries[some].double() @ queries.T.double()
    expected = logits.logsumexp(1) - queries[some, 0].double() ** 2
    torch.testing.assert_close(losses[some].double(), expected, rtol=1e-5, atol=1e-5)


SPEC = OpSpec(
    name="info_nce_loss",
    operator="handgrad::info_nce_loss",
    function=info_nce_loss,
    reference=reference,
    module=InfoNCELoss,
    samples=[
        Sample("learnt", (*embeddings((2, 3, 5), (2, 3, 5)), numbers(0.5, 1.5)), {"normalize": False}),
        Sample("rows", embeddings((2, 3, 2), (2, 5, 2)), {"temperature": 0.7, "reduction": "none"}),
        Sample("sum", embeddings((2, 4, 3), (2, 4, 3)), {"temperature": 1.0, "normalize": False, "reduction": "sum"}),
    ],
    large=Sample(
        "large",
        embeddings((2, 311, 37), (2, 333, 37), dtype=torch.float32),
        {"temperature": 3.0, "normalize": False, "reduction": "sum"},
    ),
    # The rows of the matrix pass through the second level of the cache, and at 37 features they are many times the
    # embeddings: what was counted, rounded up.
    floor_factors={"forward": 7.8, "backward": 9.9, "double_backward": 12.4},
    empty=[
        Sample("no_batch_none", embeddings((0, 3, 4), (0, 3, 4)), {"reduction": "none"}),
        Sample("no_queries_sum", embeddings((2, 0, 4), (2, 3, 4)), {"reduction": "sum"}),
        Sample("nothing_mean", embeddings((2, 0, 4), (2, 0, 4)), {"reduction": "mean"}),
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
    device_calls={"forward": (3, 3, 0), "backward": (3, 6, 0), "double_backward": (3, 8, 0)},
    bad=[
        *bad_calls(info_nce_loss, ("queries", "keys"), embeddings((2, 3, 4), (2, 3, 4))),
        *(
            Bad(
                f"temperature_{value}",
                lambda value=value: InfoNCELoss(value),
                ValueError,
                rf"temperature must be a finite number above 0, or a tensor; got {value}",
            )
            for value in (0.0, -0.5)
        ),
    ],
    identities={
        "queue": a_queue_of_negatives,
        "batch": a_batch_is_problem_by_problem,
        "lengths": lengths_do_not_matter,
    },
    # 2,152,960,000 pairs.
    numel_beyond_int32=lambda: every_pair_counts(46_400),
    sums_of_many=lambda: every_pair_counts(600),
)

test_matrix = matrix(SPEC)


# ---- any size --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "keys", "features"),
    [(1, 1, 1), (70, 70, 3), pytest.param(257, 1100, 5, marks=pytest.mark.tiers("whole")), (530, 530, 9)],
)
def test_any_size(count, keys, features):
    """Matrices of a part of a chunk, of several chunks of rows, and of several blocks of columns."""
    tensors = (*embeddings((count, features), (keys, features)), numbers(0.6)[0])
    expected = derivatives(reference, tensors, normalize=False)
    torch.testing.assert_close(derivatives(info_nce_loss, tensors, normalize=False), expected)
    narrow = derivatives(info_nce_loss, tuple(t.float() for t in tensors), normalize=False)
    for actual, wanted in zip(narrow[1] + narrow[2], expected[1] + expected[2], strict=True):
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.tiers("whole")
def test_matrices_are_never_in_memory():
    """pytorch-metric-learning#547 (120 GB for 1,200 embeddings) and #203 (12 GB for 512)."""
    queries, keys = (x.requires_grad_() for x in embeddings((1200, 32), (1200, 32), dtype=torch.float32))

    def train():
        info_nce_loss(queries, keys).backward()

    train()
    assert allocated(train) < 20 * 4 * queries.numel()


# ---- at the edges ----------------------------------------------------------------------------------------------------


def test_one_query_and_its_key():
    """Nothing to be told from: no loss, and no gradient."""
    loss, first, second = derivatives(info_nce_loss, embeddings((1, 4), (1, 4)))
    assert loss == 0
    for grad in (*first, *second):
        torch.testing.assert_close(grad, torch.zeros_like(grad))


def test_equal_keys():
    """The logarithm of their number, for any temperature."""
    queries, keys = embeddings((5, 4), (1, 4))
    loss = info_nce_loss(queries, keys.expand(5, 4), 0.01)
    torch.testing.assert_close(loss, torch.tensor(5.0, dtype=torch.float64).log())


def test_rows_without_a_length():
    """A cosine of 0 with everything, and a gradient of 0: torch's normalize has one of 1e12 there."""
    queries, keys = embeddings((3, 4), (3, 4), dtype=torch.float32)
    queries[1], keys[2] = 0, 0
    loss, first, second = derivatives(info_nce_loss, (queries, keys))
    torch.testing.assert_close(loss, reference(queries, keys))
    assert first[0][1].eq(0).all()
    assert first[1][2].eq(0).all()
    assert all(grad.isfinite().all() for grad in (*first, *second))


@pytest.mark.parametrize("value", [INFINITY, -INFINITY, float("nan")])
def test_what_is_not_finite_stays_in_its_row(value):
    """A query spoils its own loss, a key all of them; never hidden."""
    for which in (0, 1):
        tensors = list(embeddings((4, 3), (4, 3), dtype=torch.float32))
        tensors[which][2, 0] = value
        loss = info_nce_loss(*tensors, reduction="none")
        assert loss.isnan().tolist() == ([False, False, True, False] if which == 0 else [True] * 4)


def test_logits_beyond_float16():
    """Products of half embeddings are taken and summed in float32: 1e5 at a temperature of 0.01 is no infinity."""
    queries, keys = (200 * x.half() for x in embeddings((6, 64), (6, 64)))
    loss = info_nce_loss(queries, keys, 0.01, normalize=False, reduction="none")
    assert loss.dtype is torch.float32
    assert loss.isfinite().all()
    expected = reference(queries.double(), keys.double(), 0.01, False, "none")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_embeddings_are_normalised_in_float32(dtype):
    """pytorch-metric-learning#121: losses that cannot take half types, or round cosines to them."""
    queries, keys = (x.to(dtype) for x in embeddings((6, 64), (6, 64)))
    loss = info_nce_loss(queries, keys, 0.01)
    torch.testing.assert_close(loss.double(), reference(queries.double(), keys.double(), 0.01), rtol=1e-4, atol=1e-5)


def test_large_logits_lose_nothing():
    """Temperatures at which exp of a cosine's quotient is beyond float32."""
    queries, keys = embeddings((8, 4), (8, 4), dtype=torch.float32)
    loss, first, _ = derivatives(info_nce_loss, (queries, keys), temperature=1e-3)
    expected, wanted, _ = derivatives(reference, (queries.double(), keys.double()), temperature=1e-3)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-4)
    for actual, grad in zip(first, wanted, strict=True):
        torch.testing.assert_close(actual.double(), grad, rtol=1e-2, atol=1e-2)


def test_a_temperature_that_is_learnt():
    queries, keys = embeddings((5, 4), (5, 4))
    temperature = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    InfoNCELoss()(queries, keys, temperature).backward()
    expected = temperature.detach().clone().requires_grad_()
    reference(queries, keys, expected).backward()
    torch.testing.assert_close(temperature.grad, expected.grad)


def test_a_temperature_of_float32_beside_half_embeddings():
    queries, keys = (x.bfloat16() for x in embeddings((5, 4), (5, 4)))
    temperature = torch.tensor(0.3, requires_grad=True)
    info_nce_loss(queries, keys, temperature).backward()
    assert temperature.grad.dtype is torch.float32


@pytest.mark.parametrize("bad", [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([[0.1]])])
def test_a_temperature_of_another_shape(bad):
    with pytest.raises(RuntimeError, match="temperature must be a number, or a tensor of shape"):
        info_nce_loss(*embeddings((5, 4), (5, 4), dtype=torch.float32), bad)
