"""Lovász-softmax loss: its spec, and what is peculiar to it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from handgrad.losses import LovaszSoftmaxLoss, lovasz_softmax_loss
from handgrad.losses.lovasz_softmax_loss import _loss
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from sorted_losses import IGNORED, ignoring, jaccard_loss_of_sets, numbered, reference_losses, with_grad


def reference(
    inputs, targets, classes="present", per_image=False, ignore_index=None, from_logits=True, reduction="mean"
):
    weight = None
    if not isinstance(classes, str):
        weight = torch.tensor([float(c in classes) for c in range(inputs.shape[1])], dtype=inputs.dtype)
    return reference_losses(
        _loss,
        inputs,
        targets,
        weight,
        from_logits,
        classes == "present",
        per_image=per_image,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def likely(*shape):
    """Probabilities, and the class at each position."""
    logits, targets = numbered(*shape)
    return logits.softmax(1), targets


def of_certain_predictions_it_is_the_jaccard_loss():
    generator = reseeded(1)
    guesses, targets = (torch.randint(0, 4, (2, 30), generator=generator) for _ in range(2))
    certain = F.one_hot(guesses, 4).movedim(-1, 1).double()
    expected = torch.stack([jaccard_loss_of_sets(guesses == c, targets == c) for c in range(4)]).mean()
    torch.testing.assert_close(lovasz_softmax_loss(certain, targets, from_logits=False), expected.double())


def shifted_logits_are_the_same():
    inputs, targets = numbered(2, 4, 9)
    torch.testing.assert_close(lovasz_softmax_loss(inputs + 3, targets), lovasz_softmax_loss(inputs, targets))


def one_image_is_a_batch():
    inputs, targets = numbered(3, 4, 5, 2)
    each = [lovasz_softmax_loss(x[None], t[None]) for x, t in zip(inputs, targets, strict=True)]
    actual = lovasz_softmax_loss(inputs, targets, per_image=True, reduction="none")
    torch.testing.assert_close(actual, torch.stack(each))
    torch.testing.assert_close(lovasz_softmax_loss(inputs, targets, per_image=True), torch.stack(each).mean())


def it_is_the_largest_of_all_orders():
    """The extension is the support function of what errors can weigh: any other order gives no more."""
    generator = reseeded(2)
    errors, foreground = torch.rand(7, dtype=torch.float64, generator=generator), torch.tensor([1, 0, 1, 0, 0, 1, 0])
    every = foreground.sum()
    sums = []
    for order in itertools.permutations(range(7)):
        wrong, before, total = torch.zeros(7, dtype=torch.bool), 0.0, 0.0
        for index in order:
            wrong[index] = True
            missed = (wrong & (foreground == 1)).sum()
            after = 1 - (every - missed) / (every + (wrong & (foreground == 0)).sum())
            total, before = total + errors[index] * (after - before), after
        sums.append(total)
    p = torch.where(foreground == 1, 1 - errors, errors)
    actual = lovasz_softmax_loss(torch.stack([1 - p, p])[None], foreground[None], [1], from_logits=False)
    torch.testing.assert_close(actual, torch.stack(sums).max())


def numel_beyond_int32():
    """Many classes, of which two are there."""
    classes, positions = 2**17 + 8, 2**14
    inputs, targets = torch.full((1, 1, 1), 0.25), torch.arange(positions)[None] % 2
    expected = lovasz_softmax_loss(inputs.expand(1, 2, positions), targets, from_logits=False)
    many = inputs.expand(1, classes, positions)
    torch.testing.assert_close(lovasz_softmax_loss(many, targets * (classes - 1), from_logits=False), expected)


def sums_of_many():
    """Where all is wrong by a quarter, the weights add up to 1."""
    targets = torch.arange(50_000)[None] % 2
    inputs = torch.where(torch.arange(2)[:, None] == targets, 0.75, 0.25)[None]
    loss = lovasz_softmax_loss(inputs, targets, from_logits=False)
    torch.testing.assert_close(loss, torch.tensor(0.25), rtol=1.3e-7, atol=0)


INPUTS, TARGETS = numbered(4, 3, 5)

SPEC = OpSpec(
    name="lovasz_softmax_loss",
    operator="handgrad::lovasz_softmax_loss",
    function=lovasz_softmax_loss,
    reference=reference,
    module=LovaszSoftmaxLoss,
    samples=[
        Sample("images", numbered(3, 3, 4, absent=1), {"per_image": True, "reduction": "none"}),
        Sample("batch", ignoring(numbered(2, 4, 2, 3)), {"ignore_index": IGNORED}),
        Sample("all", numbered(2, 4, 5, absent=2), {"classes": "all", "reduction": "sum", "per_image": True}),
        Sample("listed", numbered(2, 3, 4), {"classes": [0, 2]}),
        Sample("probabilities", likely(2, 3, 2, 3), {"from_logits": False}),
    ],
    large=Sample("large", ignoring(numbered(3, 7, 61, 29, dtype=torch.float32)), {"ignore_index": IGNORED}),
    # Errors, their order and the weights of each go through memory between the kernels around torch's sort.
    floor_factors={"forward": 9.6, "backward": 9.1, "double_backward": 7.8},
    empty=[
        Sample("no_images_none", (torch.zeros(0, 3, 4), torch.zeros(0, 4, dtype=torch.long)), {"per_image": True}),
        Sample("no_positions", (torch.zeros(2, 3, 0), torch.zeros(2, 0, dtype=torch.long)), {"reduction": "none"}),
        Sample("nothing_all", (torch.zeros(0, 3, 0), torch.zeros(0, 0, dtype=torch.long)), {"classes": "all"}),
    ],
    autocast=torch.float32,
    widens=True,
    # Without it what is no class is; on a device that is NaN, and nothing is waited for.
    lenient={"ignore_index": lambda value: value is None or (isinstance(value, int) and value == -1000)},
    bad=[
        Bad("classes", lambda: LovaszSoftmaxLoss("some"), ValueError, "classes must be .* got 'some'"),
        Bad("class", lambda: LovaszSoftmaxLoss([0, -1]), ValueError, r'classes must be "present", .* got -1'),
        Bad(
            "too_large_a_class",
            lambda: lovasz_softmax_loss(INPUTS, TARGETS, [3]),
            ValueError,
            r"classes must be below the 3 classes of inputs; got \[3\]",
        ),
        Bad("per_image", lambda: LovaszSoftmaxLoss(per_image="no"), TypeError, "per_image must be .* got 'no'"),
        Bad("reduction", lambda: LovaszSoftmaxLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad("ignore_index", lambda: LovaszSoftmaxLoss(ignore_index=1.5), TypeError, r"ignore_index must be .*got 1\.5"),
        Bad(
            "shapes",
            lambda: lovasz_softmax_loss(INPUTS, TARGETS[:, :2]),
            RuntimeError,
            r"targets must be .* integers of shape \(4, 5\) for inputs of \(4, 3, 5\); got \(4, 2\) of torch.int64",
        ),
        Bad(
            "one_class",
            lambda: lovasz_softmax_loss(INPUTS[:, :1], TARGETS),
            ValueError,
            r"inputs must have two classes at least.* got \(4, 1, 5\).*Lovász hinge loss",
        ),
        Bad(
            "no_classes",
            lambda: lovasz_softmax_loss(INPUTS[:, :0], TARGETS),
            RuntimeError,
            r"inputs must have shape \(N, C, ...\), of one class at least; got \(4, 0, 5\)",
        ),
    ],
    identities={
        "jaccard": of_certain_predictions_it_is_the_jaccard_loss,
        "shifted": shifted_logits_are_the_same,
        "one_image": one_image_is_a_batch,
        "largest": it_is_the_largest_of_all_orders,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    # Errors, counts, what classes count, weights or a sum; torch's sort beside them.
    device_calls={"forward": (5, 9, 0), "backward": (5, 9, 0), "double_backward": (5, 10, 0)},
    # Errors, sorted ones with their indices, and what torch's sort takes.
    device_scratch=4 * 2**20,
    # Of a list of classes, which of them are in it; of a mean, the gradient of each image's loss.
    saves=64,
)

test_matrix = matrix(SPEC)


# ---- what others do --------------------------------------------------------------------------------------------------


def by_the_authors_formula(logits, targets, present=True):
    """Of all positions together: for each class its sorted errors times differences of the Jaccard losses."""
    p, losses = logits.softmax(1).movedim(1, 0).flatten(1), []
    for c in range(logits.shape[1]):
        foreground = (targets.flatten() == c).to(p.dtype)
        if present and not foreground.any():
            continue
        errors, order = (foreground - p[c]).abs().sort(descending=True, stable=True)
        foreground = foreground[order]
        jaccard = 1 - (foreground.sum() - foreground.cumsum(0)) / (foreground.sum() + (1 - foreground).cumsum(0))
        losses.append(torch.dot(errors, torch.cat([jaccard[:1], jaccard.diff()])))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("shape", [(2, 5, 300), (1, 3, 8, 9), (2, 2, 3, 4, 5), (40, 4)])
@pytest.mark.parametrize("present", [True, False])
def test_values_and_gradients_of_the_authors_code(shape, present):
    inputs, targets = numbered(*shape, absent=1)
    expected = with_grad(by_the_authors_formula, inputs, targets, present)
    for arranged in (inputs, inputs.movedim(1, -1).contiguous().movedim(-1, 1)):
        actual = with_grad(lovasz_softmax_loss, arranged, targets, "present" if present else "all")
        torch.testing.assert_close(actual, expected)


def test_many_positions_keep_their_digits():
    """Differences of half a million float32 scores have lost most of theirs: those of the authors' code have."""
    inputs, targets = numbered(2, 3, 40_000, dtype=torch.float32)
    expected = with_grad(by_the_authors_formula, inputs.double(), targets)
    loss, grad = with_grad(lovasz_softmax_loss, inputs, targets)
    torch.testing.assert_close(loss.double(), expected[0], rtol=1e-6, atol=0)
    # Of neighbours in the order of float64 some few change places in float32.
    assert (grad.double() - expected[1]).norm() < 1e-5 * expected[1].norm()


# ---- absent classes, ignored positions -------------------------------------------------------------------------------


def test_absent_classes():
    """LovaszSoftmax#20: trained with every class counted, present or not, a network did not learn. By default only
    present ones are; the others' loss is the largest probability that they are given, and nothing of it is 0."""
    inputs, targets = numbered(2, 5, 30, absent=2)
    each = [lovasz_softmax_loss(inputs, targets, [c]) for c in range(5)]
    torch.testing.assert_close(lovasz_softmax_loss(inputs, targets), torch.stack(each[:3]).mean())
    torch.testing.assert_close(lovasz_softmax_loss(inputs, targets, "all"), torch.stack(each).mean())
    torch.testing.assert_close(each[4], inputs.softmax(1)[:, 4].max())


def test_an_image_counts_the_classes_that_it_has():
    inputs, targets = numbered(3, 4, 20)
    targets[0] = 2
    per_image = lovasz_softmax_loss(inputs, targets, per_image=True, reduction="none")
    torch.testing.assert_close(per_image[0], lovasz_softmax_loss(inputs[:1], targets[:1], [2]))


def test_a_foreground_that_no_target_is_of():
    """LovaszSoftmax#26: one class of a list is asked for and not there."""
    inputs, targets = numbered(2, 2, 10, absent=1)
    loss, grad = with_grad(lovasz_softmax_loss, inputs, targets, [1])
    torch.testing.assert_close(loss, inputs.softmax(1)[:, 1].max())
    assert (grad != 0).sum() == 2


@pytest.mark.parametrize("per_image", [True, False])
def test_nothing_counts(per_image):
    """LovaszSoftmax#14: a batch, or an image of one, of ignored pixels has a loss of 0 and zeros for gradients; it was
    an IndexError, and is an empty tensor in segmentation_models_pytorch."""
    inputs, targets = numbered(2, 3, 8)
    targets[0] = IGNORED
    loss, grad = with_grad(lovasz_softmax_loss, inputs, targets, per_image=True, ignore_index=IGNORED, reduction="none")
    assert loss[0] == 0
    assert grad[0].eq(0).all()
    torch.testing.assert_close(loss[1], lovasz_softmax_loss(inputs[1:], targets[1:]))
    targets[:] = IGNORED
    loss, grad = with_grad(lovasz_softmax_loss, inputs, targets, per_image=per_image, ignore_index=IGNORED)
    assert loss == 0
    assert grad.eq(0).all()


def test_ignored_positions_are_not_looked_at():
    inputs, targets = ignoring(numbered(2, 3, 20))
    spoilt = torch.where((targets == IGNORED)[:, None], torch.nan, inputs)
    for per_image in (True, False):
        kwargs = {"per_image": per_image, "ignore_index": IGNORED}
        expected = with_grad(lovasz_softmax_loss, inputs, targets, **kwargs)
        torch.testing.assert_close(with_grad(lovasz_softmax_loss, spoilt, targets, **kwargs), expected)
    kept = targets.flatten() != IGNORED
    flat = inputs.movedim(1, 0).flatten(1)[:, kept][None]
    torch.testing.assert_close(expected[0], lovasz_softmax_loss(flat, targets.flatten()[kept][None]))


def test_a_class_can_be_ignored():
    """Of a class that is one of the inputs' channels: it has no foreground then."""
    inputs, targets = numbered(2, 3, 20)
    kept = targets.flatten() != 0
    flat = inputs.movedim(1, 0).flatten(1)[:, kept][None]
    expected = lovasz_softmax_loss(flat, targets.flatten()[kept][None])
    torch.testing.assert_close(lovasz_softmax_loss(inputs, targets, ignore_index=0), expected)


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_number_that_is_no_class(wrong):
    inputs, targets = numbered(2, 3, 10)
    targets[1, 3] = wrong
    if not LOADED["handgrad"].emulated and inputs.is_cpu:
        with pytest.raises(RuntimeError, match=f"targets must be classes, .* below 3, or ignore_index; got {wrong}"):
            lovasz_softmax_loss(inputs, targets)
        return
    # A device is not waited for.
    loss, grad = with_grad(lovasz_softmax_loss, inputs, targets, per_image=True, reduction="none")
    assert loss.isnan().tolist() == [False, True]
    assert grad[1, :, 3].isnan().all()
    assert grad[0].isfinite().all()


# ---- targets, layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int16])
def test_targets_of_other_types_and_with_a_channel(dtype):
    inputs, targets = numbered(2, 3, 4, 5)
    expected = lovasz_softmax_loss(inputs, targets)
    torch.testing.assert_close(lovasz_softmax_loss(inputs, targets.to(dtype)), expected)
    torch.testing.assert_close(lovasz_softmax_loss(inputs, targets[:, None].to(dtype)), expected)


def test_positions_of_any_strides():
    inputs, targets = numbered(2, 3, 4, 5)
    for per_image in (True, False):
        expected = lovasz_softmax_loss(inputs, targets, per_image=per_image)
        turned = lovasz_softmax_loss(inputs.mT, targets.mT, per_image=per_image)
        torch.testing.assert_close(turned, expected)


def test_probabilities_are_used_as_they_are():
    """segmentation_models_pytorch takes `from_logits=False` and applies a softmax all the same."""
    inputs, targets = numbered(2, 3, 20)
    torch.testing.assert_close(
        lovasz_softmax_loss(inputs.softmax(1), targets, from_logits=False), lovasz_softmax_loss(inputs, targets)
    )


# ---- kinks, ties, and what is not finite -----------------------------------------------------------------------------


def test_equal_errors_weigh_in_their_order():
    """Any order of them is a subgradient; this one is the same on every device and in every run."""
    inputs, targets = torch.full((1, 2, 4), 0.5, dtype=torch.float64), torch.tensor([[1, 0, 1, 0]])
    loss, grad = with_grad(lovasz_softmax_loss, inputs, targets, [1], from_logits=False)
    torch.testing.assert_close(loss, torch.full_like(loss, 0.5))
    torch.testing.assert_close(grad[0, 1], torch.tensor([-1 / 2, 1 / 6, -1 / 3, 0], dtype=torch.float64))


def test_perfect_predictions_have_no_gradient():
    targets = torch.tensor([[0, 1, 2, 1]])
    certain = F.one_hot(targets, 3).movedim(-1, 1).double()
    for inputs, from_logits in ((certain, False), (2000 * certain, True)):
        loss, grad = with_grad(lovasz_softmax_loss, inputs, targets, "all", from_logits=from_logits)
        assert loss == 0
        assert grad.eq(0).all()


def test_masked_classes():
    """Logits of minus infinity are classes of probability 0."""
    inputs, targets = numbered(2, 3, 10)
    masked = torch.cat([inputs, torch.full((2, 1, 10), -torch.inf)], 1)
    loss, grad = with_grad(lovasz_softmax_loss, masked, targets)
    expected = with_grad(lovasz_softmax_loss, inputs, targets)
    torch.testing.assert_close((loss, grad[:, :3]), expected)
    assert grad[:, 3].eq(0).all()


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_not_hidden(spoilt):
    inputs, targets = numbered(2, 3, 10)
    inputs[1, 0, 4] = spoilt
    loss, grad = with_grad(lovasz_softmax_loss, inputs, targets, per_image=True, reduction="none")
    if spoilt != spoilt:
        assert loss.isnan().tolist() == [False, True]
        assert grad[1, :, 4].isnan().all()
    # An infinite logit is of NaN probability, as torch's softmax has it.
    assert torch.isnan(torch.softmax(inputs[1, :, 4], 0)).all()
    assert loss.isnan().tolist() == [False, True]


def test_one_position():
    inputs, targets = numbered(1, 3)
    torch.testing.assert_close(lovasz_softmax_loss(inputs, targets), 1 - inputs.softmax(1)[0, targets[0]])
