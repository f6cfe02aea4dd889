"""Tversky loss: its spec, and what is peculiar to it; what all overlap losses keep to is in test_overlap_losses.py."""

import torch

from handgrad.losses import TverskyLoss, dice_loss, tversky_loss
from handgrad.losses.tversky_loss import tversky_loss_reference
from handgrad.testing import matrix
from overlap_losses import overlap_loss_spec, soft


def with_errors_counted_half_it_is_the_dice_loss():
    logits, targets = soft(3, 4, 5, 6)
    expected = dice_loss(logits, targets, "softmax", smooth=2.0)
    torch.testing.assert_close(tversky_loss(logits, targets, "softmax", smooth=1.0), expected)


SPEC = overlap_loss_spec(
    tversky_loss,
    TverskyLoss,
    tversky_loss_reference,
    {"dice": with_errors_counted_half_it_is_the_dice_loss},
    {"alpha": 0.3, "beta": 0.9, "smooth": 0.2, "eps": 1e-3},
)

test_matrix = matrix(SPEC)


def test_alpha_is_of_false_positives_and_beta_of_false_negatives():
    """Which of both is which differs between the paper and its copies: ivadomed/ivadomed#256."""
    targets = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    too_much, too_little = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    for predictions, index in ((too_much, 2 / (2 + 0.25)), (too_little, 1 / (1 + 0.75))):
        loss = tversky_loss(predictions, targets, "none", alpha=0.25, beta=0.75, smooth=0.0)
        torch.testing.assert_close(loss, torch.tensor(1 - index))
