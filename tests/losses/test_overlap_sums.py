"""The sums of overlap losses: their spec, and what is peculiar to them."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from handgrad.losses import overlap_sums
from handgrad.losses.overlap_sums import overlap_sums_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix
from overlap_losses import ACTIVATIONS, classes, one_hot, soft


def reference(inputs, targets, activation, ignore_index=None, squared=False):
    targets = targets.unsqueeze(1) if targets.dim() < inputs.dim() else targets
    return overlap_sums_reference(inputs, targets, ACTIVATIONS[activation], ignore_index, squared)


def predictions_of_a_softmax_add_up_to_the_positions():
    logits, targets = soft(3, 4, 5, 6)
    total = overlap_sums(logits, targets, "softmax")[..., 1].sum(1)
    torch.testing.assert_close(total, torch.full((3,), 30.0, dtype=torch.float64))


def a_probability_is_its_own_activation():
    logits, targets = soft(3, 4, 5, 6)
    for activation, made in (("sigmoid", logits.sigmoid()), ("softmax", logits.softmax(1))):
        torch.testing.assert_close(
            overlap_sums(logits, targets, activation, squared=True), overlap_sums(made, targets, "none", squared=True)
        )


def classes_are_one_hot():
    logits, found = classes(3, 4, 5, 6)
    torch.testing.assert_close(
        overlap_sums(logits, found, "softmax"), overlap_sums(logits, one_hot(found, 4), "softmax")
    )


def numel_beyond_int32():
    n = 2**30 + 64
    one = torch.tensor([[[0.5], [-0.5]]]), torch.tensor([[[1.0], [0.25]]])
    many = overlap_sums(*(tensor.expand(1, 2, n) for tensor in one), "sigmoid")
    torch.testing.assert_close(many / n, overlap_sums(*one, "sigmoid"), rtol=1e-6, atol=0)


INPUTS, TARGETS = soft(2, 3, 4)

SPEC = OpSpec(
    name="overlap_sums",
    operator="handgrad::overlap_sums",
    function=overlap_sums,
    reference=reference,
    module=None,
    samples=[
        Sample("softmax", soft(2, 3, 7), {"activation": "softmax"}),
        Sample("sigmoid", soft(2, 2, 2, 3), {"activation": "sigmoid", "squared": True}),
        Sample("none", soft(3, 2), {"activation": "none", "ignore_index": 7}),
    ],
    large=Sample("large", classes(2, 3, 211, 157, dtype=torch.float32), {"activation": "softmax"}),
    empty=[
        Sample("no_batch", soft(0, 3, 4), {"activation": "softmax"}),
        Sample("no_positions", soft(2, 3, 0), {"activation": "softmax"}),
        Sample("no_classes", soft(2, 0, 4), {"activation": "sigmoid"}),
    ],
    autocast=torch.float32,
    widens=True,
    device_calls={"forward": (2, 2, 0)},
    lenient={"ignore_index": lambda value: value is None or (type(value) is int and abs(value) < 2**63)},
    bad=[
        Bad("activation", lambda: overlap_sums(INPUTS, TARGETS, "relu"), ValueError, "activation must be .* 'relu'"),
        Bad("squared", lambda: overlap_sums(INPUTS, TARGETS, "none", None, 1), TypeError, "squared must be True or"),
        Bad(
            "shape",
            lambda: overlap_sums(INPUTS, TARGETS[:, :2], "none"),
            RuntimeError,
            r"targets must have the shape of inputs, \(2, 3, 4\), or that without .*; got \(2, 2, 4\)",
        ),
    ],
    identities={
        "total": predictions_of_a_softmax_add_up_to_the_positions,
        "activated": a_probability_is_its_own_activation,
        "one_hot": classes_are_one_hot,
    },
    numel_beyond_int32=numel_beyond_int32,
)

test_matrix = matrix(SPEC)


def second(function, moving):
    """Values, gradients, and the gradients of these along a direction."""
    leaves = [tensor.detach().requires_grad_() for tensor in moving]
    sums = function(*leaves)
    along = torch.linspace(-1, 1, sums.numel(), dtype=sums.dtype).view_as(sums).requires_grad_()
    grads = torch.autograd.grad(sums, leaves, along, create_graph=True)
    directions = [torch.linspace(1, -2, grad.numel(), dtype=grad.dtype).view_as(grad) for grad in grads]
    return sums, grads, torch.autograd.grad(grads, [*leaves, along], directions, materialize_grads=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 1])
@pytest.mark.parametrize("kind", ["classes", "integers", "numbers"])
def test_every_kind_of_target_and_all_derivatives(activation, squared, ignore_index, kind):
    """Of more positions than a tile has, and of odd numbers of them."""
    logits, found = classes(2, 3, 23, 61)
    inputs = logits.sigmoid() if activation == "none" else logits
    targets = {
        "classes": found,
        "integers": (one_hot(found, 3) * 2 - (logits > 0).double()).to(torch.int16),
        "numbers": one_hot(found, 3) * 0.5 + (logits > 1).double(),
    }[kind]
    moving, fixed = ((inputs, targets), ()) if kind == "numbers" else ((inputs,), (targets,))
    results = [
        second(lambda *given, of=function: of(*given, *fixed, activation, ignore_index, squared), moving)
        for function in (overlap_sums, reference)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck_with_classes(activation):
    logits, found = classes(2, 3, 5)

    def function(inputs):
        return overlap_sums(inputs, found, activation, ignore_index=2, squared=True)

    assert gradcheck(function, logits.requires_grad_(), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, logits, check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integers_of_every_type(dtype):
    logits, found = classes(2, 3, 50)
    expected = overlap_sums(logits, one_hot(found, 3), "softmax")
    torch.testing.assert_close(overlap_sums(logits, found.to(dtype), "softmax"), expected)
    torch.testing.assert_close(overlap_sums(logits, found.to(dtype)[:, None], "softmax"), expected)
    torch.testing.assert_close(overlap_sums(logits, one_hot(found, 3, dtype), "softmax"), expected)
    torch.testing.assert_close(overlap_sums(logits, one_hot(found, 3, torch.bool), "softmax"), expected)


def test_of_one_channel_one_is_the_foreground():
    logits, targets = soft(2, 1, 5)
    mask = targets > 0.5
    expected = overlap_sums(logits, mask.double(), "sigmoid")
    for given in (mask, mask[:, 0], mask[:, 0].long(), mask[:, 0].double()):
        torch.testing.assert_close(overlap_sums(logits, given, "sigmoid"), expected)


@pytest.mark.parametrize("channels", [1000, 20000])
def test_of_so_many_classes_that_a_tile_is_small(channels):
    """On devices, of so many that it does not fit into shared memory."""
    logits, found = classes(1, channels, 9, dtype=torch.float32)
    results = []
    for function in (overlap_sums, reference):
        leaf = logits.detach().requires_grad_()
        sums = function(leaf, found, "softmax")
        results.append((sums, *torch.autograd.grad((sums * torch.linspace(-1, 1, 3)).sum(), leaf)))
    torch.testing.assert_close(*results)


def test_no_class_is_lost_without_a_word():
    """On the CPU an error message; elsewhere, where asking would make the host wait, NaN."""
    logits, found = classes(2, 3, 4)
    found[1, 2] = 3
    if torch.ops.handgrad.overlap_sums.default and _raises():
        with pytest.raises(
            RuntimeError, match="targets must be classes, at least 0 and below the 3 channels of inputs"
        ):
            overlap_sums(logits, found, "softmax")
    else:
        sums = overlap_sums(logits, found, "softmax")
        assert sums[1, :, 2].isnan().all()
        assert sums[0].isfinite().all()
    assert reference(logits, found, "softmax")[1, :, 2].isnan().all()


def _raises():
    from handgrad.sdk.loading import LOADED

    return LOADED["handgrad"].emulated is None and torch.get_default_device().type == "cpu"
