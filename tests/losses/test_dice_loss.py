"""Dice loss: its spec, and what is peculiar to it; what all overlap losses keep to is in test_overlap_losses.py."""

import torch

from handgrad.losses import DiceLoss, dice_loss, jaccard_loss
from handgrad.losses.dice_loss import dice_loss_reference
from handgrad.testing import matrix
from overlap_losses import overlap_loss_spec, soft


def it_is_a_function_of_the_jaccard_loss():
    logits, targets = soft(3, 4, 5, 6)
    jaccard = jaccard_loss(logits, targets, "softmax", smooth=0.0, reduction="none")
    expected = jaccard / (2 - jaccard)
    torch.testing.assert_close(dice_loss(logits, targets, "softmax", smooth=0.0, reduction="none"), expected)


SPEC = overlap_loss_spec(
    dice_loss,
    DiceLoss,
    dice_loss_reference,
    {"jaccard": it_is_a_function_of_the_jaccard_loss},
    {"squared": True, "smooth": 0.3, "eps": 1e-3},
)

test_matrix = matrix(SPEC)


def test_a_small_denominator_is_eps_and_a_constant():
    inputs, targets = torch.full((1, 1, 4), 1e-3, requires_grad=True), torch.zeros(1, 1, 4)
    targets[..., 0] = 2e-3
    loss = dice_loss(inputs, targets, "none", smooth=0.0, eps=0.5)
    torch.testing.assert_close(loss, torch.tensor(1 - 2 * 2e-6 / 0.5))
    (grad,) = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(grad, -2 * targets / 0.5)


def test_squares_are_v_nets():
    logits, targets = soft(2, 3, 50)
    p = logits.softmax(1)
    expected = 1 - 2 * (p * targets).sum(2) / ((p**2).sum(2) + (targets**2).sum(2))
    actual = dice_loss(logits, targets, "softmax", squared=True, smooth=0.0, reduction="none")
    torch.testing.assert_close(actual, expected)
