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
    empty=[
        Sample("no_images_none", (torch.zeros(0, 3, 4), torch.zeros(0, 4, dtype=torch.long)), {"per_image": True}),
        Sample("no_positions", (torch.zeros(2, 3, 0), torch.zeros(2, 0, dtype=torch.long)), {"reduction": "none"}),
        Sample("nothing_all", (torch.zeros(0, 3, 0), torch.zeros(0, 0, dtype=torch.long)), {"classes": "all"}),
    ],
    autocast=torch.float32,
    widens=True,
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
            r"inputs must have two classes at least.* got \(4, 1, 5\).*lovasz_hinge_loss",
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
    # Of a list of classes, which of them are in it.
    saves=64,
)

test_matrix = matrix(SPEC)
