"""Softmax focal loss: its spec, and what is peculiar to it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import SoftmaxFocalLoss, sigmoid_focal_loss, softmax_focal_loss
from handgrad.losses.softmax_focal_loss import _loss
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

INFINITY = float("inf")


def reference(inputs, targets, gamma=2.0, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """The kind's losses of rows, and a mean that counts rows by itself."""
    losses = _loss.losses(inputs, targets, weight, gamma, ignore_index, label_smoothing)
    if reduction != "mean":
        return losses if reduction == "none" else losses.sum()
    if targets.is_floating_point():
        return losses.mean()
    of_rows = torch.ones_like(losses) if weight is None else weight.to(losses.dtype)[targets.clamp(0)]
    return losses.sum() / (of_rows * (targets != ignore_index)).sum()


def numbered(*shape, dtype=torch.float64, ignored=None):
    """Logits, and the class of each row; every fourth row has the class ``ignored``."""
    generator = reseeded(len(shape))
    logits = 2 * torch.randn(*shape, dtype=dtype, generator=generator)
    targets = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    if ignored is not None:
        targets.view(-1)[::4] = ignored
    return logits, targets


def likely(*shape, dtype=torch.float64):
    """Logits and probabilities."""
    generator = reseeded(len(shape))
    logits = 2 * torch.randn(*shape, dtype=dtype, generator=generator)
    return logits, torch.randn(*shape, dtype=dtype, generator=generator).softmax(1)


WEIGHT = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)


def gamma_zero_is_cross_entropy():
    for (inputs, targets), reduction, smoothing, weighted in itertools.product(
        [numbered(7, 4, ignored=2), numbered(2, 4, 3, 5, ignored=-100), likely(7, 4), likely(2, 4, 3)],
        ["none", "mean", "sum"],
        [0.0, 0.2],
        [False, True],
    ):
        kwargs = {
            "weight": WEIGHT if weighted else None,
            "ignore_index": 2 if inputs.dim() == 2 and not targets.is_floating_point() else -100,
            "label_smoothing": smoothing,
            "reduction": reduction,
        }
        ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        loss, expected = softmax_focal_loss(ours, targets, 0.0, **kwargs), F.cross_entropy(theirs, targets, **kwargs)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            torch.autograd.grad(loss.sum(), ours), torch.autograd.grad(expected.sum(), theirs), msg=str(kwargs)
        )


def numbers_are_probabilities_of_one():
    inputs, targets = numbered(6, 5)
    hot = F.one_hot(targets, 5).double()
    for kwargs in ({}, {"label_smoothing": 0.3, "gamma": 1.5}):
        torch.testing.assert_close(
            softmax_focal_loss(inputs, targets, reduction="none", **kwargs),
            softmax_focal_loss(inputs, hot, reduction="none", **kwargs),
        )


def of_two_classes_it_is_the_sigmoid_focal_loss():
    inputs, targets = numbered(9, 2)
    expected = sigmoid_focal_loss(inputs[:, 1] - inputs[:, 0], targets.double(), alpha=-1, gamma=2)
    torch.testing.assert_close(softmax_focal_loss(inputs, targets, reduction="none"), expected)


def shifted_logits_are_the_same():
    inputs, targets = numbered(3, 5, 4)
    shift = torch.randn(3, 1, 4, dtype=torch.float64, generator=reseeded(8))
    torch.testing.assert_close(softmax_focal_loss(inputs, targets), softmax_focal_loss(inputs + shift, targets))


def numel_beyond_int32():
    classes, positions = 64, 2**25 + 8
    inputs = torch.linspace(-1, 1, classes).view(1, classes, 1)
    targets = torch.tensor([[3]])
    many = softmax_focal_loss(inputs.expand(1, classes, positions), targets.expand(1, positions))
    torch.testing.assert_close(many, softmax_focal_loss(inputs, targets))


INPUTS, TARGETS = numbered(4, 3)

SPEC = OpSpec(
    name="softmax_focal_loss",
    operator="handgrad::softmax_focal_loss",
    function=softmax_focal_loss,
    reference=reference,
    module=SoftmaxFocalLoss,
    samples=[
        Sample("rows", numbered(3, 8), {"reduction": "none"}),
        Sample(
            "weighted_mean",
            numbered(2, 4, 3, ignored=1),
            {"weight": WEIGHT, "ignore_index": 1, "reduction": "mean", "gamma": 1.5},
        ),
        Sample("smoothed_images", numbered(2, 3, 2, 2), {"label_smoothing": 0.2, "reduction": "sum"}),
        Sample("probabilities", likely(2, 3, 2, 2), {"gamma": 0.5, "reduction": "none"}),
        Sample("smoothed_probabilities", likely(3, 4), {"weight": WEIGHT, "label_smoothing": 0.25, "gamma": 1.25}),
    ],
    large=Sample("large", numbered(3, 21, 61, 29, dtype=torch.float32, ignored=-100), {"reduction": "sum"}),
    empty=[
        Sample("no_batch_none", numbered(0, 3), {"reduction": "none"}),
        Sample("no_positions_sum", numbered(2, 3, 0), {"reduction": "sum"}),
        Sample("nothing_mean", numbered(0, 3, 2), {"reduction": "mean"}),
        Sample("no_probabilities_mean", likely(0, 3), {"reduction": "mean"}),
    ],
    own=["weight"],
    autocast=torch.float32,
    widens=True,
    lenient={
        "ignore_index": lambda value: isinstance(value, int) and value == -1000,
        "weight": lambda value: value is None,
    },
    bad=[
        Bad("gamma", lambda: SoftmaxFocalLoss(-1.0), ValueError, r"gamma must be a finite number, .*; got -1\.0"),
        Bad("reduction", lambda: SoftmaxFocalLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad(
            "smoothing",
            lambda: SoftmaxFocalLoss(label_smoothing=1.5),
            ValueError,
            r"label_smoothing must be .*got 1\.5",
        ),
        Bad("ignore_index", lambda: SoftmaxFocalLoss(ignore_index=1.5), TypeError, r"ignore_index must be .*got 1\.5"),
        Bad(
            "ignored_probabilities",
            lambda: softmax_focal_loss(*likely(3, 4), ignore_index=1),
            ValueError,
            "ignore_index must be negative where targets are probabilities.* got 1",
        ),
        Bad(
            "rows",
            lambda: softmax_focal_loss(INPUTS, TARGETS[:2]),
            RuntimeError,
            r"targets must be class numbers, int64 of shape \(4,\), .* got \(2,\) of int64",
        ),
        Bad(
            "no_classes",
            lambda: softmax_focal_loss(INPUTS[:, :0], TARGETS),
            RuntimeError,
            r"inputs must have shape \(batch, classes, ...\) with 1 to .*got \(4, 0\)",
        ),
        Bad(
            "weight_shape",
            lambda: softmax_focal_loss(INPUTS, TARGETS, weight=WEIGHT),
            RuntimeError,
            r"weight must have shape \(classes,\), here \(3,\); got \(4,\)",
        ),
        Bad(
            "weight_grad",
            lambda: softmax_focal_loss(INPUTS, TARGETS, weight=WEIGHT[:3].clone().requires_grad_()),
            ValueError,
            "weight must not require grad",
        ),
        Bad(
            "bool_targets",
            lambda: softmax_focal_loss(INPUTS, TARGETS > 0),
            RuntimeError,
            "targets must be class numbers, .* of bool",
        ),
    ],
    identities={
        "cross_entropy": gamma_zero_is_cross_entropy,
        "one_hot": numbers_are_probabilities_of_one,
        "two_classes": of_two_classes_it_is_the_sigmoid_focal_loss,
        "shifted": shifted_logits_are_the_same,
    },
    numel_beyond_int32=numel_beyond_int32,
)

test_matrix = matrix(SPEC)


def both_layouts(inputs):
    """Logits with positions innermost, and with classes innermost."""
    return inputs, inputs.movedim(1, -1).contiguous().movedim(-1, 1)


def second(loss, inputs):
    (first,) = torch.autograd.grad(loss, inputs, create_graph=True)
    direction = torch.linspace(-1, 1, inputs.numel(), dtype=inputs.dtype).view(inputs.shape)
    return first.detach(), torch.autograd.grad(first, inputs, direction)[0]


# ---- any number of classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 2, 5), (2, 15, 40), (2, 16, 7), (5, 33, 3), (2, 100, 45), (3, 1000), (3, 7001)])
@pytest.mark.parametrize("kind", ["numbers", "probabilities"])
def test_any_number_of_classes(shape, kind):
    """Rows that fill a part of a tile, a tile, several; on a device those of a thread, a warp, a block, and those that
    no shared memory holds."""
    inputs, targets = numbered(*shape, ignored=-100) if kind == "numbers" else likely(*shape)
    exact = inputs.clone().requires_grad_()
    expected = second(reference(exact, targets), exact)
    for arranged in both_layouts(inputs):
        for dtype in (torch.float64, torch.float32):
            ours = arranged.to(dtype).requires_grad_()
            given = targets if kind == "numbers" else targets.to(dtype)
            loss = softmax_focal_loss(ours, given)
            torch.testing.assert_close(loss.double(), reference(exact, targets), rtol=1.3e-6, atol=1e-7)
            for actual, wanted in zip(second(loss, ours), expected, strict=True):
                torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-7)


def test_many_classes_of_few_positions():
    """50,000 classes: a row is beyond a first-level cache, and beyond a block's shared memory."""
    inputs, targets = numbered(3, 50_000, dtype=torch.float32)
    inputs.requires_grad_()
    loss = softmax_focal_loss(inputs, targets, gamma=0)
    expected = F.cross_entropy(inputs, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs))


# ---- targets that are ignored, or none -------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mean_does_not_count_what_is_ignored(smoothing):
    """segmentation_models.pytorch#852, pytorch#30984: a mean over all rows is too small. Any number, in range or not,
    negative or not (focal_loss_torch#16, pytorch-multi-class-focal-loss#1 and #2), may be the one that is ignored."""
    inputs, targets = numbered(8, 4)
    for ignored in (-100, -1, 0, 3, 255):
        marked = targets.clone()
        marked[::3] = ignored
        kept = marked != ignored
        kwargs = {"label_smoothing": smoothing, "weight": WEIGHT}
        torch.testing.assert_close(
            softmax_focal_loss(inputs, marked, ignore_index=ignored, **kwargs),
            softmax_focal_loss(inputs[kept], marked[kept], **kwargs),
        )


def test_ignored_rows_are_not_looked_at():
    """No NaN of a row that does not count reaches the loss or a gradient."""
    inputs, targets = numbered(4, 3)
    inputs[0], inputs[1] = float("nan"), INFINITY
    targets[:2] = -100
    for arranged, smoothing in itertools.product([inputs, inputs.T.contiguous().T], [0.0, 0.1]):
        ours = arranged.clone().requires_grad_()
        loss = softmax_focal_loss(ours, targets, label_smoothing=smoothing)
        torch.testing.assert_close(loss, softmax_focal_loss(inputs[2:], targets[2:], label_smoothing=smoothing))
        first, again = second(loss, ours)
        assert first[:2].eq(0).all()
        assert again[:2].eq(0).all()
        assert first[2:].isfinite().all()


def test_nothing_but_ignored_rows():
    """The mean is NaN and the gradient 0, as torch has them; a sum is 0."""
    inputs, targets = numbered(3, 4)
    targets[:] = -100
    for loss_of in (softmax_focal_loss, lambda *args: F.cross_entropy(*args)):
        leaf = inputs.clone().requires_grad_()
        loss = loss_of(leaf, targets)
        assert loss.isnan()
        assert torch.autograd.grad(loss, leaf)[0].eq(0).all()
    assert softmax_focal_loss(inputs, targets, reduction="sum") == 0


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_number_that_is_no_class(wrong, smoothing):
    inputs, targets = numbered(4, 3, dtype=torch.float32)
    targets[1] = wrong
    inputs.requires_grad_()
    if not LOADED["handgrad"].emulated and inputs.is_cpu:
        with pytest.raises(RuntimeError, match=f"targets must be .* below 3, .* or ignore_index, -100; got {wrong}"):
            softmax_focal_loss(inputs, targets, label_smoothing=smoothing)
        return
    # A device is not waited for: its rows are NaN.
    loss = softmax_focal_loss(inputs, targets, label_smoothing=smoothing, reduction="none")
    assert loss.isnan().tolist() == [False, True, False, False]
    (grad,) = torch.autograd.grad(loss.sum(), inputs)
    assert grad.isnan().all(1).tolist() == [False, True, False, False]
    assert not grad[[0, 2, 3]].isnan().any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int16])
def test_integers_of_other_types(dtype):
    inputs, targets = numbered(4, 3, ignored=2)
    ours = softmax_focal_loss(inputs, targets.to(dtype), ignore_index=2)
    torch.testing.assert_close(ours, softmax_focal_loss(inputs, targets, ignore_index=2))


def test_one_row_without_a_batch():
    inputs, targets = numbered(1, 3)
    for reduction in ("none", "mean", "sum"):
        ours = softmax_focal_loss(inputs[0], targets[0], 0.0, reduction=reduction)
        torch.testing.assert_close(ours, F.cross_entropy(inputs[0], targets[0], reduction=reduction))
    inputs, targets = likely(1, 3)
    torch.testing.assert_close(softmax_focal_loss(inputs[0], targets[0], 0.0), F.cross_entropy(inputs[0], targets[0]))


def test_weights_scale_rows_and_the_mean_divides_by_them():
    """Not by the number of rows, and no second time (focal-loss-pytorch#6 divided by the number of classes)."""
    inputs, targets = numbered(50, 4)
    of_rows = softmax_focal_loss(inputs, targets, reduction="none")
    weighted = softmax_focal_loss(inputs, targets, weight=WEIGHT, reduction="none")
    torch.testing.assert_close(weighted, of_rows * WEIGHT[targets])
    mean = softmax_focal_loss(inputs, targets, weight=WEIGHT)
    torch.testing.assert_close(mean, weighted.sum() / WEIGHT[targets].sum())
    torch.testing.assert_close(softmax_focal_loss(inputs, targets, weight=7 * WEIGHT), mean)


# ---- infinite logits, and those that are certain ---------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("shape", [(4, 5), (4, 40), (4, 5, 3)])
def test_masked_classes(gamma, shape):
    """Logits of minus infinity, beside targets that are other classes, count as classes that are not there: in the
    value, and with zeros for gradients. torch has NaN for probabilities (pytorch/xla#2553, optax#896)."""
    inputs, targets = numbered(*shape)
    masked, others = [0, 3], [c for c in range(shape[1]) if c not in (0, 3)]
    targets = torch.tensor(others)[targets % len(others)]
    inputs[:, masked] = -INFINITY
    hot = F.one_hot(targets, shape[1]).movedim(-1, 1).double()
    rest, position = inputs[:, others], torch.zeros(shape[1], dtype=torch.int64)
    position[others] = torch.arange(len(others))
    expected_input = rest.clone().requires_grad_()
    expected = second(softmax_focal_loss(expected_input, position[targets], gamma), expected_input)[0]
    for arranged in both_layouts(inputs):
        for given in (targets, hot):
            ours = arranged.clone().requires_grad_()
            loss = softmax_focal_loss(ours, given, gamma, reduction="mean")
            torch.testing.assert_close(loss, softmax_focal_loss(rest, position[targets], gamma))
            first, again = second(loss, ours)
            torch.testing.assert_close(first[:, others], expected)
            assert first[:, masked].eq(0).all()
            assert again.isfinite().all()


def test_an_impossible_target_is_infinitely_wrong():
    """As torch: an infinite loss, and the finite limit of its gradient."""
    inputs = torch.tensor([[-INFINITY, 1.0, 0.0]])
    for gamma in (0.0, 0.5, 2.0):
        leaf = inputs.clone().requires_grad_()
        loss = softmax_focal_loss(leaf, torch.tensor([0]), gamma)
        assert loss == INFINITY
        (grad,) = torch.autograd.grad(loss, leaf)
        expected_leaf = inputs.clone().requires_grad_()
        (expected,) = torch.autograd.grad(F.cross_entropy(expected_leaf, torch.tensor([0])), expected_leaf)
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("row", [[INFINITY, 0.0, 1.0], [-INFINITY] * 3, [float("nan"), 0.0, 1.0], [INFINITY] * 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_rows_without_a_softmax_are_nan(row, smoothing):
    """As torch, in that row alone."""
    inputs = torch.tensor([row, [0.0, 1.0, 2.0]])
    for target in (0, 1):
        targets = torch.tensor([target, target])
        leaf, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        loss = softmax_focal_loss(leaf, targets, 0.0, label_smoothing=smoothing, reduction="none")
        expected = F.cross_entropy(theirs, targets, label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(loss, expected, equal_nan=True)
        assert loss.isnan().tolist() == [True, False]
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        assert grad.isnan().all(1).tolist() == [True, False]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("gap", [20.0, 60.0, 90.0, 200.0, 1e4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_certain_predictions(gamma, gap, smoothing):
    """1 - p keeps its digits where p rounds to 1, and where it underflows no power of it makes NaN: Focal-Loss#11,
    kornia#918, LDAM-DRW#17, keras-retinanet#706 for gamma below 1, optax#1267 for gamma 0."""
    inputs = torch.tensor([[gap, 0.0, 1.0, -1.0], [0.0, 1.0, gap, -1.0]])
    targets = torch.tensor([0, 0])
    if gap == 20:
        exact_leaf = inputs.double().requires_grad_()
        exact = reference(exact_leaf, targets, gamma, label_smoothing=smoothing, reduction="none")
        (exact_grad,) = torch.autograd.grad(exact.sum(), exact_leaf, create_graph=True)
    for arranged in (inputs, inputs.T.contiguous().T):
        leaf = arranged.clone().requires_grad_()
        loss = softmax_focal_loss(leaf, targets, gamma, label_smoothing=smoothing, reduction="none")
        (grad,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
        (again,) = torch.autograd.grad((grad * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum(), leaf)
        assert loss.isfinite().all()
        assert grad.isfinite().all()
        assert again.isfinite().all()
        if gap == 20:
            torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-37)
            torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-5, atol=1e-37)
        if gap < 90 and smoothing == 0:
            rest = (inputs[0, 1:].double() - gap).exp().sum()
            wanted = (rest / (1 + rest)) ** gamma * torch.log1p(rest)
            torch.testing.assert_close(loss[0].double(), wanted, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_of_half_types_do_not_overflow(dtype):
    """A sum over many rows is beyond float16: it is float32, as a mean is."""
    inputs = torch.zeros(40_000, 3, dtype=dtype)
    inputs[:, 0] = 5
    targets = torch.full((40_000,), 1)
    mean = softmax_focal_loss(inputs, targets, 0.0)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, F.cross_entropy(inputs[:1].float(), targets[:1]))


def test_gradients_of_probabilities():
    """Also where one is 0, and of weighted classes."""
    inputs, targets = likely(3, 4)
    targets[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    targets.requires_grad_()
    loss = softmax_focal_loss(inputs, targets, weight=WEIGHT, reduction="sum")
    (grad,) = torch.autograd.grad(loss, targets)
    log_p = inputs.log_softmax(1)
    torch.testing.assert_close(grad, -WEIGHT * (1 - log_p.exp()) ** 2 * log_p)
