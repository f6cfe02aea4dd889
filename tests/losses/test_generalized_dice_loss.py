"""Generalized dice loss: its spec, and what is peculiar to it; what all overlap losses keep to is in
test_overlap_losses.py."""

import pytest
import torch

from handgrad.losses import GeneralizedDiceLoss, dice_loss, generalized_dice_loss
from handgrad.losses.generalized_dice_loss import generalized_dice_loss_reference
from handgrad.testing import matrix
from overlap_losses import classes, one_hot, overlap_loss_spec, soft, with_grad


def of_one_class_it_is_the_dice_loss():
    logits, targets = soft(3, 1, 5, 6)
    expected = dice_loss(logits, targets, "sigmoid", smooth=0.0)
    torch.testing.assert_close(generalized_dice_loss(logits, targets, "sigmoid", smooth=0.0), expected)


def repeating_all_positions_changes_nothing():
    logits, targets = classes(2, 3, 20)
    expected = generalized_dice_loss(logits, targets, "softmax", smooth=0.0)
    many = generalized_dice_loss(logits.repeat(1, 1, 3), targets.repeat(1, 3), "softmax", smooth=0.0)
    torch.testing.assert_close(many, expected)


SPEC = overlap_loss_spec(
    generalized_dice_loss,
    GeneralizedDiceLoss,
    generalized_dice_loss_reference,
    {"dice": of_one_class_it_is_the_dice_loss, "repeated": repeating_all_positions_changes_nothing},
    {"weighting": "simple", "smooth": 0.3},
    together=True,
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize(("weighting", "power"), [("square", 2), ("simple", 1), ("uniform", 0)])
@pytest.mark.parametrize("absent", ["count", "zero"])
def test_a_class_without_a_target_has_a_finite_weight(weighting, power, absent):
    """That of the rarest class there is, or none. It was infinite, then 0 by accident: Project-MONAI/MONAI#4656."""
    logits, targets = classes(2, 4, 30)
    targets[targets == 3] = 0
    p, t = logits.softmax(1), one_hot(targets, 4)
    weight = 1 / t.sum(2)[:, :3] ** power
    last = weight.amax(1, keepdim=True) if absent == "count" else torch.zeros(2, 1)
    weight = torch.cat([weight, last], 1)
    overlap, total = (weight * (p * t).sum(2)).sum(1), (weight * (p + t).sum(2)).sum(1)
    actual = generalized_dice_loss(
        logits, targets, "softmax", weighting=weighting, absent=absent, smooth=0.0, reduction="none"
    )
    torch.testing.assert_close(actual, 1 - 2 * overlap / total)


@pytest.mark.parametrize("smooth", [0.0, 1e-5])
def test_without_any_target_there_is_no_loss_and_no_gradient(smooth):
    logits = torch.zeros(1, 3, 4)
    targets = torch.full((1, 4), 255)
    loss, grad = with_grad(generalized_dice_loss, logits, targets, "softmax", ignore_index=255, smooth=smooth)
    assert loss == 0
    assert not grad.any()


def test_it_lies_between_zero_and_one():
    """Negative ones come of logits taken for predictions: wolny/pytorch-3dunet#6."""
    logits, targets = classes(4, 5, 40)
    loss = generalized_dice_loss(10 * logits, targets, "softmax", reduction="none")
    assert ((loss >= 0) & (loss <= 1)).all()
