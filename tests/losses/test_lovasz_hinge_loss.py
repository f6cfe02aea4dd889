"""Lovász hinge loss: its spec, and what is peculiar to it."""

import pytest
import torch

from handgrad.losses import LovaszHingeLoss, lovasz_hinge_loss
from handgrad.losses.lovasz_hinge_loss import _loss
from handgrad.sdk.loading import LOADED
from handgrad.testing import Bad, OpSpec, Sample, matrix
from sorted_losses import IGNORED, binary, ignoring, jaccard_loss_of_sets, reference_losses, with_grad

INFINITY = float("inf")


def reference(inputs, targets, per_image=True, ignore_index=None, reduction="mean"):
    options = {"per_image": per_image, "ignore_index": ignore_index, "reduction": reduction}
    return reference_losses(_loss, inputs.unsqueeze(1), targets.long(), None, **options)


def of_certain_logits_it_is_the_jaccard_loss():
    """Logits of -1 and 1 have errors of 0 and 2."""
    _, targets = binary(1, 50)
    _, guesses = binary(2, 25)
    guesses = guesses.view(1, 50)
    loss = lovasz_hinge_loss(2.0 * guesses - 1, targets)
    torch.testing.assert_close(loss, 2 * jaccard_loss_of_sets(guesses == 1, targets == 1))


def sides_of_the_margin_count_nothing():
    inputs, targets = binary(2, 30)
    far = torch.where((targets == 1) & (inputs > 0), inputs + 5, inputs)
    near = torch.where((targets == 1) & (inputs > 0), inputs + 1, inputs)
    torch.testing.assert_close(lovasz_hinge_loss(far, targets), lovasz_hinge_loss(near, targets))


def one_image_is_a_batch():
    inputs, targets = binary(3, 4, 5)
    each = [lovasz_hinge_loss(x[None], t[None], per_image=False) for x, t in zip(inputs, targets, strict=True)]
    torch.testing.assert_close(lovasz_hinge_loss(inputs, targets, reduction="none"), torch.stack(each))
    torch.testing.assert_close(lovasz_hinge_loss(inputs, targets), torch.stack(each).mean())


def numel_beyond_int32():
    """Images that share memory; each is sorted by itself."""
    inputs, targets = binary(1, 3, dtype=torch.float32)
    images = 2**13
    many = lovasz_hinge_loss(inputs.expand(images, 3), targets.expand(images, 3))
    torch.testing.assert_close(many, lovasz_hinge_loss(inputs, targets))


def sums_of_many():
    """Where all is wrong by a half, the weights add up to 1."""
    targets = torch.arange(50_000)[None] % 2
    loss = lovasz_hinge_loss(targets - 0.5, targets)
    torch.testing.assert_close(loss, torch.tensor(0.5), rtol=1.3e-7, atol=0)


INPUTS, TARGETS = binary(4, 5)

SPEC = OpSpec(
    name="lovasz_hinge_loss",
    operator="handgrad::lovasz_hinge_loss",
    function=lovasz_hinge_loss,
    reference=reference,
    module=LovaszHingeLoss,
    samples=[
        Sample("images", binary(3, 9), {"reduction": "none"}),
        Sample("batch", ignoring(binary(2, 1, 3, 4)), {"per_image": False, "ignore_index": IGNORED}),
        Sample("sum", binary(2, 7), {"reduction": "sum"}),
    ],
    large=Sample("large", ignoring(binary(3, 251, 29, dtype=torch.float32)), {"ignore_index": IGNORED}),
    # Errors, their order and the weights of each go through memory between the kernels around torch's sort.
    floor_factors={"forward": 4.3, "backward": 4.8, "double_backward": 4.6},
    empty=[
        Sample("no_images_none", (torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.long)), {"reduction": "none"}),
        Sample("no_positions", (torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.long)), {}),
        Sample("nothing", (torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.long)), {"per_image": False}),
    ],
    autocast=torch.float32,
    widens=True,
    lenient={
        # Masks are of floating-point numbers more often than not.
        "targets": lambda value: isinstance(value, torch.Tensor) and value.is_floating_point(),
        # Without it what is neither 0 nor 1 is; on a device that is NaN, and nothing is waited for.
        "ignore_index": lambda value: value is None or (isinstance(value, int) and value == -1000),
    },
    bad=[
        Bad("per_image", lambda: LovaszHingeLoss(per_image="no"), TypeError, "per_image must be .* got 'no'"),
        Bad("reduction", lambda: LovaszHingeLoss(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
        Bad("ignore_index", lambda: LovaszHingeLoss(ignore_index=1.5), TypeError, r"ignore_index must be .*got 1\.5"),
        Bad(
            "shapes",
            lambda: lovasz_hinge_loss(INPUTS[:, None], TARGETS),
            RuntimeError,
            r"targets must be 1 for foreground .*\(4, 1, 5\); got \(4, 5\)",
        ),
        Bad("number", lambda: lovasz_hinge_loss(INPUTS[0, 0], TARGETS[0, 0]), RuntimeError, r"inputs .*\(N, ...\)"),
    ],
    identities={
        "jaccard": of_certain_logits_it_is_the_jaccard_loss,
        "margin": sides_of_the_margin_count_nothing,
        "one_image": one_image_is_a_batch,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    # Of a mean, the gradient of each image's loss.
    saves=64,
    # Errors, counts, what classes count, weights or a sum; torch's sort beside them.
    device_calls={"forward": (5, 9, 0), "backward": (5, 9, 0), "double_backward": (5, 10, 0)},
    # Errors, sorted ones with their indices, and what torch's sort takes.
    device_scratch=4 * 2**20,
)

test_matrix = matrix(SPEC)


# ---- what others do --------------------------------------------------------------------------------------------------


def by_the_authors_formula(logits, labels):
    """Of a flat image: sorted errors times differences of the Jaccard losses."""
    errors, order = (1 - logits * (2 * labels - 1)).sort(descending=True, stable=True)
    labels = labels[order]
    jaccard = 1 - (labels.sum() - labels.cumsum(0)) / (labels.sum() + (1 - labels).cumsum(0))
    return torch.dot(errors.relu(), torch.cat([jaccard[:1], jaccard.diff()]))


def test_values_and_gradients_of_the_authors_code():
    inputs, targets = binary(1, 400)
    for foreground in (targets, torch.zeros_like(targets), torch.ones_like(targets)):
        expected = with_grad(by_the_authors_formula, inputs[0], foreground[0].double())
        loss, grad = with_grad(lovasz_hinge_loss, inputs, foreground)
        torch.testing.assert_close((loss, grad[0]), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.float64])
def test_masks_of_any_type(dtype):
    """Masks are floats beside a binary cross entropy; segmentation_models_pytorch cannot take booleans here."""
    inputs, targets = binary(3, 20)
    torch.testing.assert_close(lovasz_hinge_loss(inputs, targets.to(dtype)), lovasz_hinge_loss(inputs, targets))


@pytest.mark.parametrize("wrong", [2, -1, 0.5, float("nan")])
def test_a_target_that_is_neither(wrong):
    inputs, targets = binary(2, 10)
    targets = targets.double()
    targets[1, 3] = wrong
    if not LOADED["handgrad"].emulated and inputs.is_cpu:
        with pytest.raises(RuntimeError, match="targets must be classes, at least 0 and below 2, or ignore_index"):
            lovasz_hinge_loss(inputs, targets)
        return
    # A device is not waited for.
    loss, grad = with_grad(lovasz_hinge_loss, inputs, targets, reduction="none")
    assert loss.isnan().tolist() == [False, True]
    assert grad[1, 3].isnan()
    assert grad[0].isfinite().all()


def test_nothing_counts():
    """LovaszSoftmax#14: a batch, or an image of one, of ignored pixels has a loss of 0 and zeros for gradients."""
    inputs, targets = binary(2, 10)
    targets[0] = IGNORED
    loss, grad = with_grad(lovasz_hinge_loss, inputs, targets, ignore_index=IGNORED, reduction="none")
    assert loss[0] == 0
    assert grad[0].eq(0).all()
    torch.testing.assert_close(loss[1], lovasz_hinge_loss(inputs[1:], targets[1:]))


def test_ignored_elements_are_not_looked_at():
    inputs, targets = ignoring(binary(2, 20))
    spoilt = torch.where(targets == IGNORED, torch.nan, inputs)
    for per_image in (True, False):
        expected = with_grad(lovasz_hinge_loss, inputs, targets, per_image, IGNORED)
        torch.testing.assert_close(with_grad(lovasz_hinge_loss, spoilt, targets, per_image, IGNORED), expected)
        kept = targets != IGNORED
    flat = lovasz_hinge_loss(inputs[kept][None], targets[kept][None])
    torch.testing.assert_close(expected[0], flat)


def test_an_image_without_foreground_has_its_largest_error():
    """And a gradient there alone; one without errors has neither."""
    inputs, targets = binary(1, 30)
    loss, grad = with_grad(lovasz_hinge_loss, inputs, torch.zeros_like(targets))
    torch.testing.assert_close(loss, 1 + inputs.max())
    torch.testing.assert_close(grad, (inputs == inputs.max()).double())
    loss, grad = with_grad(lovasz_hinge_loss, inputs - 10, torch.zeros_like(targets))
    assert loss == 0
    assert grad.eq(0).all()


def test_one_element():
    for x, t in ((0.25, 1), (0.25, 0), (3.0, 1)):
        loss = lovasz_hinge_loss(torch.tensor([[x]]), torch.tensor([[t]]))
        torch.testing.assert_close(loss, torch.tensor(max(0.0, 1 - x * (2 * t - 1))))


def test_equal_errors_weigh_in_their_order():
    """Any order of them is a subgradient; this one is the same on every device and in every run."""
    inputs, targets = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([[1, 0, 1, 0]])
    loss, grad = with_grad(lovasz_hinge_loss, inputs, targets)
    torch.testing.assert_close(loss, torch.ones_like(loss))
    torch.testing.assert_close(grad, torch.tensor([[-1 / 2, 1 / 6, -1 / 3, 0]], dtype=torch.float64))
    torch.testing.assert_close(grad[0], with_grad(by_the_authors_formula, inputs[0], targets[0].double())[1])


def test_at_the_margin_the_gradient_is_zero():
    """Where an error is 0, as torch's relu has it."""
    _, grad = with_grad(lovasz_hinge_loss, torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([[1, 0, 1]]))
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.0, -0.5]]))


def test_infinite_logits():
    inputs, targets = torch.tensor([[INFINITY, -INFINITY, 0.5]]), torch.tensor([[1, 0, 1]])
    torch.testing.assert_close(lovasz_hinge_loss(inputs, targets), torch.tensor(0.25))
    assert lovasz_hinge_loss(-inputs, targets) == INFINITY
    everything = torch.full((1, 5), INFINITY)
    assert lovasz_hinge_loss(everything, torch.zeros(1, 5, dtype=torch.long)) == INFINITY


def test_nan_is_not_hidden():
    inputs, targets = binary(2, 10)
    inputs[1, 4] = torch.nan
    loss = lovasz_hinge_loss(inputs, targets, reduction="none")
    assert loss.isnan().tolist() == [False, True]


def test_two_channels_are_refused_by_name():
    """mmsegmentation#1036, #1681, #2034: an IndexError of masks that do not fit."""
    with pytest.raises(RuntimeError, match=r"targets must be .* \(2, 2, 4, 4\); got \(2, 4, 4\) .*Lovász-softmax loss"):
        lovasz_hinge_loss(torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))


def test_logits_of_any_strides():
    """mmsegmentation#2034: a view of logits that are not contiguous."""
    inputs, targets = binary(2, 3, 4)
    turned = inputs.movedim(0, -1).contiguous().movedim(-1, 0)
    for per_image in (True, False):
        expected = with_grad(lovasz_hinge_loss, inputs, targets, per_image)
        torch.testing.assert_close(with_grad(lovasz_hinge_loss, turned, targets, per_image), expected)
        torch.testing.assert_close(with_grad(lovasz_hinge_loss, inputs.mT, targets.mT, per_image)[0], expected[0])
