"""Margin softmax loss: its spec, and what is peculiar to it."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from handgrad.losses import MarginSoftmaxLoss, margin_softmax_loss
from handgrad.losses.margin_softmax_loss import margin_softmax_loss_reference
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

ARCFACE = {"m1": 1.0, "m2": 0.5, "m3": 0.0}
COSFACE = {"m1": 1.0, "m2": 0.0, "m3": 0.35}
SPHEREFACE = {"m1": 4.0, "m2": 0.0, "m3": 0.0}
COMBINED = {"m1": 1.5, "m2": 0.3, "m3": 0.2}
MARGINS = [ARCFACE, COSFACE, SPHEREFACE, COMBINED]


def reference(embeddings, weight, targets, scale=64.0, m1=1.0, m2=0.5, m3=0.0, ignore_index=-100, reduction="mean"):
    centres = weight.unsqueeze(1) if weight.dim() == 2 else weight
    losses = margin_softmax_loss_reference(embeddings, centres, targets, None, scale, m1, m2, m3, ignore_index)
    if reduction == "none":
        return losses
    return losses.sum() / (targets != ignore_index).sum() if reduction == "mean" else losses.sum()


def call(rows, classes, width, centres=1, dtype=torch.float64, ignored=None):
    """Embeddings, centres, and the class of each row; every fourth row has the class ``ignored``."""
    generator = reseeded(rows + classes)
    shape = (classes, width) if centres == 1 else (classes, centres, width)
    targets = torch.randint(classes, (rows,), generator=generator)
    if ignored is not None:
        targets[::4] = ignored
    embeddings = torch.randn(rows, width, dtype=dtype, generator=generator)
    return embeddings, torch.randn(shape, dtype=dtype, generator=generator), targets


def module_kwargs(sample):
    weight = sample.tensors[1]
    centres = weight.shape[1] if weight.dim() == 3 else 1
    return {
        "num_classes": weight.shape[0],
        "embedding_size": weight.shape[-1],
        "sub_centers": centres,
        **sample.kwargs,
    }


def by_hand(embeddings, weight, targets, scale, of_target):
    cosines = F.linear(F.normalize(embeddings), F.normalize(weight))
    chosen = cosines.gather(1, targets[:, None])
    return F.cross_entropy(scale * cosines.scatter(1, targets[:, None], of_target(chosen)), targets)


def the_papers_formulas():
    """ArcFace's cos(theta + m) while that is below pi, CosFace's cos theta - m, and SphereFace's psi of m = 4."""

    def psi(cosine):
        theta = cosine.acos()
        k = (theta / (math.pi / 4)).floor()
        return (-1) ** k * (4 * theta).cos() - 2 * k

    given = call(40, 9, 5)
    for kwargs, of_target in (
        ({"m2": 0.05}, lambda c: (c.acos() + 0.05).cos()),
        (COSFACE, lambda c: c - 0.35),
        (SPHEREFACE, psi),
    ):
        torch.testing.assert_close(margin_softmax_loss(*given, 16.0, **kwargs), by_hand(*given, 16.0, of_target))


def without_margins_it_is_cross_entropy():
    embeddings, weight, targets = call(12, 7, 4)
    for reduction in ("none", "mean", "sum"):
        logits = 10 * F.linear(F.normalize(embeddings), F.normalize(weight))
        torch.testing.assert_close(
            margin_softmax_loss(embeddings, weight, targets, 10.0, m2=0, reduction=reduction),
            F.cross_entropy(logits, targets, reduction=reduction),
        )


def lengths_do_not_matter():
    embeddings, weight, targets = call(6, 5, 4)
    longer = embeddings * torch.linspace(0.01, 300, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        margin_softmax_loss(longer, 7 * weight, targets), margin_softmax_loss(embeddings, weight, targets)
    )


def equal_classes(count, width):
    """A weight of so many equal rows: the loss follows from that of two."""
    embeddings, targets = torch.linspace(-1, 2, width)[None], torch.tensor([1])
    weight = torch.linspace(1, -0.5, width)[None]
    many = margin_softmax_loss(embeddings, weight.expand(count, width), targets, 4.0)
    two = margin_softmax_loss(embeddings, weight.expand(2, width), targets, 4.0).double()
    expected = F.softplus(two.expm1().log() + math.log(count - 1)).float()
    torch.testing.assert_close(many, expected, rtol=2e-6, atol=0)


def floor(sample):
    """Both tables, and every cosine of the chunk that torch's product has made: read once in the forward, read and
    written in the backward; with what it moves by, and a pass of each, in the double backward."""
    embeddings, weight, _ = sample.tensors
    tables, cosines = 4 * (embeddings.numel() + weight.numel()), 4 * len(embeddings) * len(weight)
    return {
        "forward": tables + cosines,
        "backward": 2 * tables + 2 * cosines,
        "double_backward": 3 * tables + 6 * cosines,
    }


EMBEDDINGS, WEIGHT, TARGETS = call(4, 3, 2)

SPEC = OpSpec(
    name="margin_softmax_loss",
    operator="handgrad::margin_softmax_loss",
    function=margin_softmax_loss,
    reference=reference,
    module=MarginSoftmaxLoss,
    module_kwargs=module_kwargs,
    own=["weight"],
    samples=[
        Sample("arcface", call(3, 4, 3), {"scale": 6.0, "reduction": "none"}),
        Sample(
            "sub_centres_mean",
            call(4, 3, 2, centres=2, ignored=1),
            {"scale": 4.0, **COMBINED, "ignore_index": 1, "reduction": "mean"},
        ),
        Sample("cosface_sum", call(3, 4, 3), {"scale": 8.0, **COSFACE, "reduction": "sum"}),
    ],
    large=Sample("large", call(291, 1201, 13, dtype=torch.float32, ignored=-100), {"scale": 16.0, "reduction": "sum"}),
    empty=[
        Sample("no_rows_none", call(0, 3, 2), {"reduction": "none"}),
        Sample("no_rows_mean", call(0, 3, 2, centres=2), {"reduction": "mean"}),
        Sample("no_width_sum", call(2, 3, 0), {"reduction": "sum"}),
    ],
    rows=["samples", "classes", "samples"],
    shards=[((0, None, 0), 0)],
    channels_last=False,
    autocast=torch.float32,
    widens=True,
    # The losses of rows.
    saves=8 * 291,
    # A chunk of cosines, for the large sample all of them, and its classes as unit vectors; a few numbers a row.
    device_scratch=1_700_000,
    # Rows and their targets, a chunk's classes, the cosines, the rows again; products' operands are views.
    device_calls={"forward": (5, 8, 0), "backward": (7, 11, 0), "double_backward": (10, 23, 0)},
    floor=floor,
    # Each of a block's threads reads what there is one of in its row, which at five classes a thread shows: 1.7, 2 and
    # 2.4 times. A chunk of 100,000 classes has a hundred for each thread.
    floor_factors={"forward": 1.7, "backward": 2.1, "double_backward": 2.3},
    lenient={"ignore_index": lambda value: isinstance(value, int) and value == -1000},
    bad=[
        Bad("scale", lambda: MarginSoftmaxLoss(3, 2, scale=0.0), ValueError, r"scale must be .*more than 0; got 0\.0"),
        Bad("m1", lambda: MarginSoftmaxLoss(3, 2, m1=-1.0), ValueError, r"m1 must be .* got -1\.0"),
        Bad("m2", lambda: MarginSoftmaxLoss(3, 2, m2=4), ValueError, "m2 must be a number from 0 to pi; got 4"),
        Bad("m3", lambda: MarginSoftmaxLoss(3, 2, m3=math.nan), ValueError, "m3 must be a finite number; got nan"),
        Bad("classes", lambda: MarginSoftmaxLoss(0, 2), ValueError, "num_classes must be .* got 0"),
        Bad("reduction", lambda: MarginSoftmaxLoss(3, 2, reduction="avg"), ValueError, "reduction must be .* 'avg'"),
        Bad(
            "weight_shape",
            lambda: margin_softmax_loss(EMBEDDINGS, WEIGHT[:, :1], TARGETS),
            RuntimeError,
            r"weight must have the shape \(C, D\), or \(C, K, D\), .* D as embeddings, 2; got \(3, 1, 1\)",
        ),
        Bad(
            "no_classes",
            lambda: margin_softmax_loss(EMBEDDINGS, WEIGHT[:0], TARGETS),
            RuntimeError,
            r"weight must have the shape .* at least one class .* got \(0, 1, 2\)",
        ),
        Bad(
            "targets_shape",
            lambda: margin_softmax_loss(EMBEDDINGS, WEIGHT, TARGETS[:2]),
            RuntimeError,
            r"targets must be class numbers, int64 of shape \(4,\), .*; got \(2,\) of int64",
        ),
        Bad(
            "bool_targets",
            lambda: margin_softmax_loss(EMBEDDINGS, WEIGHT, TARGETS > 0),
            RuntimeError,
            "targets must be class numbers, .* of bool",
        ),
    ],
    identities={
        "papers": the_papers_formulas,
        "cross_entropy": without_margins_it_is_cross_entropy,
        "lengths": lengths_do_not_matter,
    },
    numel_beyond_int32=lambda: equal_classes(2**25 + 8, 64),
    sums_of_many=lambda: equal_classes(20_000, 3),
)

test_matrix = matrix(SPEC)


def results(function, embeddings, weight, targets, **kwargs):
    """Losses, gradients, and the gradients of these along a direction."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (embeddings, weight)]
    losses = function(*leaves, targets, reduction="none", **kwargs)
    along = torch.linspace(-1, 2, losses.numel(), dtype=losses.dtype).requires_grad_()
    grads = torch.autograd.grad(losses, leaves, along, create_graph=True)
    directions = [torch.linspace(1, -2, grad.numel(), dtype=grad.dtype).view_as(grad) for grad in grads]
    return losses, *grads, *torch.autograd.grad(grads, (along, *leaves), directions)


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "classes", "centres", "width"),
    [
        (700, 90, 1, 6),
        (60, 1100, 2, 5),
        (1100, 10, 3, 4),
        (3, 5000, 1, 2),
        (1, 1, 1, 3),
        (5, 2, 600, 3),
        (70, 70, 1, 1),
    ],
)
def test_tables_of_many_sizes(rows, classes, centres, width):
    """Of one tile, of several that are not whole, more rows than classes and the other way round, classes of more
    centres than a tile has columns; one class, whose loss is 0."""
    given = call(rows, classes, width, centres, ignored=-100)
    for kwargs in ({"scale": 5.0}, {"scale": 3.0, **COMBINED}):
        actual = results(margin_softmax_loss, *given, **kwargs)
        torch.testing.assert_close(actual, results(reference, *given, **kwargs))
    if classes == 1:
        assert actual[0].eq(0).all()


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("margins", MARGINS, ids=str)
def test_gradcheck_of_every_margin(margins):
    embeddings, weight, targets = call(4, 3, 3, centres=2)

    def function(embeddings, weight):
        return margin_softmax_loss(embeddings, weight, targets, 3.0, **margins)

    leaves = (embeddings.requires_grad_(), weight.requires_grad_())
    assert gradcheck(function, leaves, check_forward_ad=True)
    assert gradgradcheck(function, leaves, check_fwd_over_rev=True)


@pytest.mark.tiers("whole")
def test_no_logits_in_memory():
    """pytorch-metric-learning#218 (50,000 classes), AdaFace#123 (2 million), insightface#2183: out of memory. 200,000
    classes beside 256 rows are 205 MB of logits; beside the gradient of the weight, 6.4 MB, less than a tenth of that
    is taken."""
    program = """
import resource, torch
from handgrad.losses import margin_softmax_loss
def run(classes):
    embeddings = torch.randn(256, 8, requires_grad=True)
    weight = torch.randn(classes, 8, requires_grad=True)
    margin_softmax_loss(embeddings, weight, torch.arange(256)).backward()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(1_000)
before = peak()
run(200_000)
print((peak() - before) * 1024)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    weight = 200_000 * 8 * 4
    assert int(done.stdout) < 2 * weight + 4 * 256 * 200_000 / 10


# ---- the margin ------------------------------------------------------------------------------------------------------


def at_angles(angles, margins, dtype=torch.float64, grad=False):
    """The losses of embeddings at these angles from their centres, a second class being at a right angle to all."""
    angles = torch.as_tensor(angles, dtype=torch.float64)
    embeddings = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], 1).to(dtype).requires_grad_(grad)
    weight = torch.tensor([[1.0, 0, 0], [0, 0, 1]], dtype=dtype).requires_grad_(grad)
    targets = torch.zeros(len(angles), dtype=torch.int64)
    return embeddings, weight, margin_softmax_loss(embeddings, weight, targets, 2.0, **margins, reduction="none")


@pytest.mark.parametrize("margins", [*MARGINS, {"m1": 1.0, "m2": 3.1, "m3": 0.0}, {"m1": 0.5, "m2": 0.5, "m3": -0.1}])
def test_a_larger_angle_costs_more(margins):
    """Beyond pi too, where cos(theta + m) would rise again (as insightface's newer CombinedMarginLoss lets it), and
    without a step there (as pytorch-metric-learning has)."""
    losses = at_angles(torch.linspace(0.01, math.pi - 0.01, 400), margins)[2]
    steps = losses.diff()
    assert (steps > 0).all()
    assert steps.max() < 2 * margins["m1"] * math.pi / 400 * 1.1


@pytest.mark.parametrize("margins", MARGINS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_embeddings_on_their_centre_or_opposite(margins, dtype):
    """arcface-pytorch#32, #68 and #91, fast-reid#111, face.evoLVe#117, keras-ArcFace#2: where the cosine is 1, or by
    rounding more, arccos has no finite slope, and everything is NaN after a step. Here the gradient is 0 through the
    target, and finite."""
    generator = reseeded(3)
    centres = torch.randn(6, 40, dtype=torch.float64, generator=generator).to(dtype)
    embeddings = torch.cat([3 * centres, -centres]).detach().requires_grad_()
    weight = centres.clone().requires_grad_()
    targets = torch.arange(6).repeat(2)
    losses = margin_softmax_loss(embeddings, weight, targets, **margins, reduction="none")
    assert losses.isfinite().all()
    assert (losses[6:] > losses[:6]).all()
    first = torch.autograd.grad(losses.sum(), (embeddings, weight), create_graph=True)
    again = torch.autograd.grad(sum(grad.double().square().sum() for grad in first), (embeddings, weight))
    assert all(grad.isfinite().all() for grad in (*first, *again))


@pytest.mark.parametrize("margins", MARGINS)
def test_near_the_ends(margins):
    """Gradients of single precision stay near those of double, however small the angle."""
    for angle in (1e-5, 4e-4, 1e-3, 1e-2, math.pi - 1e-2, math.pi - 1e-5):
        exact, _, loss = at_angles([angle], margins, grad=True)
        (expected,) = torch.autograd.grad(loss, exact)
        rounded, _, loss = at_angles([angle], margins, torch.float32, grad=True)
        (actual,) = torch.autograd.grad(loss, rounded)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=2e-3)


def test_the_slope_is_kept_however_sure_the_row_is():
    """The loss of a row that is right is small, and has its digits: not 0, as lse - logit would be in float32."""
    embeddings, weight, _ = at_angles([0.1], {**ARCFACE, "m2": 0.0}, torch.float32, grad=True)
    sure = margin_softmax_loss(embeddings, weight, torch.tensor([0]), 40.0, m2=0.0)
    exact = math.log1p(math.exp(-40 * math.cos(0.1)))
    torch.testing.assert_close(sure.item(), exact, rtol=1e-5, atol=0)
    assert torch.autograd.grad(sure, embeddings)[0].abs().max() > 0


# ---- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1e-3, 1.0, 2e3])
def test_half_types_with_the_usual_scale(dtype, length):
    """insightface#1664, #2200 and #1555, NaN with fp16 and a scale of 64: squares of embeddings, exponentials of
    logits and sums over classes all leave the range of float16 there. Here they are float32's."""
    embeddings, weight, targets = call(9, 50, 24)
    given = [(length * embeddings).to(dtype), weight.to(dtype)]
    exact = results(reference, *(tensor.double() for tensor in given), targets)
    actual = results(margin_softmax_loss, *given, targets)
    torch.testing.assert_close(actual[0], exact[0].float(), rtol=1e-5, atol=1e-5)
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    for ours, theirs in zip(actual[1:3], exact[1:3], strict=True):
        if theirs.abs().max() < 6e4:
            assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integers_of_other_types(dtype):
    """insightface#1437: labels that were not long, and a loss that never moved."""
    embeddings, weight, targets = call(8, 5, 3, ignored=2)
    expected = margin_softmax_loss(embeddings, weight, targets, ignore_index=2)
    torch.testing.assert_close(margin_softmax_loss(embeddings, weight, targets.to(dtype), ignore_index=2), expected)


def test_embeddings_and_weight_of_two_types():
    embeddings, weight, targets = call(8, 5, 3)
    torch.testing.assert_close(
        margin_softmax_loss(embeddings.half(), weight.float(), targets),
        margin_softmax_loss(embeddings.half().float(), weight.float(), targets),
    )


# ---- targets that are ignored, or none -------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", [-100, -1, 0, 3, 999])
def test_ignored_rows_are_not_looked_at_nor_counted(ignored):
    """insightface marks rows of other processes' classes with -1."""
    embeddings, weight, targets = call(9, 5, 3)
    targets[::3] = ignored
    kept = targets != ignored
    spoilt = embeddings.clone()
    spoilt[~kept] = math.nan
    actual = results(margin_softmax_loss, spoilt, weight, targets, ignore_index=ignored)
    expected = results(reference, embeddings, weight, targets, ignore_index=ignored)
    torch.testing.assert_close(actual, expected)
    assert actual[0][~kept].eq(0).all()
    assert actual[1][~kept].eq(0).all()
    torch.testing.assert_close(
        margin_softmax_loss(spoilt, weight, targets, ignore_index=ignored),
        margin_softmax_loss(embeddings[kept], weight, targets[kept], ignore_index=ignored),
    )


def test_nothing_but_ignored_rows():
    embeddings, weight, targets = call(3, 4, 2)
    targets[:] = -100
    leaves = embeddings.requires_grad_(), weight.requires_grad_()
    loss = margin_softmax_loss(*leaves, targets)
    assert loss.isnan()
    assert margin_softmax_loss(*leaves, targets, reduction="sum") == 0


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_number_that_is_no_class(wrong):
    embeddings, weight, targets = call(4, 3, 2, dtype=torch.float32)
    targets[1] = wrong
    embeddings.requires_grad_()
    if not LOADED["handgrad"].emulated and embeddings.is_cpu:
        with pytest.raises(RuntimeError, match=f"targets must be .* below 3, .* or ignore_index, -100; got {wrong}"):
            margin_softmax_loss(embeddings, weight, targets)
        return
    # A device is not waited for: its rows are NaN.
    loss = margin_softmax_loss(embeddings, weight, targets, reduction="none")
    assert loss.isnan().tolist() == [False, True, False, False]
    (grad,) = torch.autograd.grad(loss.sum(), embeddings)
    assert grad.isnan().all(1).tolist() == [False, True, False, False]


# ---- zeros, ties, NaN ------------------------------------------------------------------------------------------------


def test_vectors_of_zeros():
    """An embedding of zeros is at right angles to all classes, and so is a centre; nothing moves it."""
    embeddings, weight, targets = call(5, 4, 3)
    embeddings[1], weight[2] = 0, 0
    actual = results(margin_softmax_loss, embeddings, weight, targets)
    torch.testing.assert_close(actual, results(reference, embeddings, weight, targets))
    assert all(tensor.isfinite().all() for tensor in actual)
    assert actual[1][1].eq(0).all()
    assert actual[2][2].eq(0).all()


def test_of_equal_centres_one_counts():
    """Of the target's the first; of others' whichever the product has rounded up. All of a class' gradient goes to
    it."""
    embeddings, weight, targets = call(5, 3, 4, centres=3)
    weight[:, 2] = weight[:, 1] = weight[:, 0]
    losses, of_embeddings, of_weight = results(margin_softmax_loss, embeddings, weight, targets)[:3]
    expected = results(margin_softmax_loss, embeddings, weight[:, 0], targets)
    torch.testing.assert_close((losses, of_embeddings, of_weight.sum(1)), expected[:3])
    single = results(margin_softmax_loss, embeddings[:1], weight, targets[:1])[2]
    assert single.ne(0).any(2).sum(1).tolist() == [1, 1, 1]
    assert single[targets[0], 0].ne(0).any()


def test_one_sub_centre_is_none():
    embeddings, weight, targets = call(5, 3, 4)
    torch.testing.assert_close(
        margin_softmax_loss(embeddings, weight[:, None], targets), margin_softmax_loss(embeddings, weight, targets)
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_alone(bad):
    embeddings, weight, targets = call(5, 4, 3)
    embeddings[2, 1] = bad
    losses = margin_softmax_loss(embeddings, weight, targets, reduction="none")
    assert losses.isnan().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("centres", [1, 2])
def test_a_centre_that_is_not_finite_spoils_all(centres):
    embeddings, weight, targets = call(5, 4, 3, centres)
    weight.view(-1)[0] = math.nan
    assert margin_softmax_loss(embeddings, weight, targets, reduction="none").isnan().all()


def test_every_tensor_by_itself():
    """Gradients of the embeddings alone, and of the weight alone."""
    embeddings, weight, targets = call(70, 600, 5)
    expected = results(reference, embeddings, weight, targets, scale=4.0)
    for moving, fixed in itertools.permutations((embeddings, weight)):
        leaf = moving.clone().requires_grad_()
        given = (leaf, fixed) if moving is embeddings else (fixed, leaf)
        losses = margin_softmax_loss(*given, targets, 4.0, reduction="none")
        along = torch.linspace(-1, 2, 70, dtype=torch.float64)
        (grad,) = torch.autograd.grad(losses, leaf, along)
        torch.testing.assert_close(grad, expected[1 if moving is embeddings else 2])


@pytest.mark.tiers("whole")
def test_module_loads_insightface_weights():
    """(classes, width), as insightface's PartialFC has it."""
    head = MarginSoftmaxLoss(7, 4, **COSFACE)
    head.load_state_dict({"weight": torch.randn(7, 4)})
    assert head(torch.randn(3, 4), torch.tensor([0, 1, 6])).isfinite()
    assert MarginSoftmaxLoss(7, 4, sub_centers=3).weight.shape == (7, 3, 4)
