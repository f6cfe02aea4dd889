"""Jaccard loss: its spec, and what is peculiar to it; what all overlap losses keep to is in test_overlap_losses.py."""

import torch

from handgrad.losses import JaccardLoss, jaccard_loss, tversky_loss
from handgrad.losses.jaccard_loss import jaccard_loss_reference
from handgrad.testing import matrix
from overlap_losses import one_hot, overlap_loss_spec, soft


def with_errors_counted_whole_it_is_the_tversky_loss():
    logits, targets = soft(3, 4, 5, 6)
    expected = tversky_loss(logits, targets, "softmax", alpha=1.0, beta=1.0)
    torch.testing.assert_close(jaccard_loss(logits, targets, "softmax"), expected)


SPEC = overlap_loss_spec(
    jaccard_loss,
    JaccardLoss,
    jaccard_loss_reference,
    {"tversky": with_errors_counted_whole_it_is_the_tversky_loss},
    {"squared": True, "smooth": 0.3, "eps": 1e-3},
)

test_matrix = matrix(SPEC)


def test_of_hard_predictions_it_is_the_intersection_over_union():
    truth, found = torch.tensor([[0, 0, 0, 1, 1, 2]]), torch.tensor([[0, 0, 1, 1, 2, 2]])
    loss = jaccard_loss(one_hot(found, 3), truth, "none", smooth=0.0, reduction="none")
    torch.testing.assert_close(1 - loss, torch.tensor([[2 / 3, 1 / 3, 1 / 2]], dtype=torch.float64))
