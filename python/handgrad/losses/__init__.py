"""Losses."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.losses.asymmetric_loss import AsymmetricLoss, asymmetric_loss
    from handgrad.losses.quality_focal_loss import QualityFocalLoss, quality_focal_loss
    from handgrad.losses.sigmoid_focal_loss import SigmoidFocalLoss, sigmoid_focal_loss
    from handgrad.losses.varifocal_loss import VarifocalLoss, varifocal_loss

__all__ = [
    "AsymmetricLoss",
    "QualityFocalLoss",
    "SigmoidFocalLoss",
    "VarifocalLoss",
    "asymmetric_loss",
    "quality_focal_loss",
    "sigmoid_focal_loss",
    "varifocal_loss",
]
