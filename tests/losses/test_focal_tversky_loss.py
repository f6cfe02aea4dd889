"""Focal Tversky loss: its spec, and what is peculiar to it; what all overlap losses keep to is in
test_overlap_losses.py."""

import pytest
import torch

from handgrad.losses import FocalTverskyLoss, focal_tversky_loss, tversky_loss
from handgrad.losses.focal_tversky_loss import focal_tversky_loss_reference
from handgrad.testing import matrix
from overlap_losses import overlap_loss_spec, soft, with_grad


def with_gamma_one_it_is_the_tversky_loss():
    logits, targets = soft(3, 4, 5, 6)
    expected = tversky_loss(logits, targets, "softmax", alpha=0.3, beta=0.7)
    torch.testing.assert_close(focal_tversky_loss(logits, targets, "softmax", gamma=1.0), expected)


SPEC = overlap_loss_spec(
    focal_tversky_loss,
    FocalTverskyLoss,
    focal_tversky_loss_reference,
    {"tversky": with_gamma_one_it_is_the_tversky_loss},
    {"alpha": 0.4, "beta": 0.9, "gamma": 1.5, "smooth": 0.2, "eps": 1e-3},
)

test_matrix = matrix(SPEC)


def test_the_power_is_taken_of_each_class():
    """And not of the mean: qubvel-org/segmentation_models.pytorch#734."""
    logits, targets = soft(3, 4, 20)
    each = tversky_loss(logits, targets, "softmax", alpha=0.3, beta=0.7, reduction="none")
    torch.testing.assert_close(focal_tversky_loss(logits, targets, "softmax"), (each**0.75).mean())


@pytest.mark.parametrize("gamma", [0.5, 0.75, 1.0, 2.0])
def test_a_perfect_score_has_finite_derivatives(gamma):
    """Rounding makes the loss less than 0, a power of which is NaN:
    shruti-jadon/Semantic-Segmentation-Loss-Functions#2.
    The slope at 0 is infinite for a gamma below 1; 0 is taken there."""
    targets = torch.tensor([[[1.0, 1.0, 0.0, 1 / 3]]])
    for predictions in (targets.clone(), targets * (1 + 1e-7)):
        loss, grad = with_grad(focal_tversky_loss, predictions, targets, "none", gamma=gamma, smooth=0.0)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()
