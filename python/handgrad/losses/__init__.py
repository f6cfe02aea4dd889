"""Losses."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.losses.asymmetric_loss import AsymmetricLoss, asymmetric_loss
    from handgrad.losses.sigmoid_focal_loss import SigmoidFocalLoss, sigmoid_focal_loss

__all__ = ["AsymmetricLoss", "SigmoidFocalLoss", "asymmetric_loss", "sigmoid_focal_loss"]
