"""Losses."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.losses.asymmetric_loss import AsymmetricLoss, asymmetric_loss
    from handgrad.losses.complete_box_iou_loss import CompleteBoxIoULoss, complete_box_iou_loss
    from handgrad.losses.distance_box_iou_loss import DistanceBoxIoULoss, distance_box_iou_loss
    from handgrad.losses.efficient_box_iou_loss import EfficientBoxIoULoss, efficient_box_iou_loss
    from handgrad.losses.gaussian_focal_loss import GaussianFocalLoss, gaussian_focal_loss
    from handgrad.losses.generalized_box_iou_loss import GeneralizedBoxIoULoss, generalized_box_iou_loss
    from handgrad.losses.quality_focal_loss import QualityFocalLoss, quality_focal_loss
    from handgrad.losses.scylla_box_iou_loss import ScyllaBoxIoULoss, scylla_box_iou_loss
    from handgrad.losses.sigmoid_focal_loss import SigmoidFocalLoss, sigmoid_focal_loss
    from handgrad.losses.softmax_focal_loss import SoftmaxFocalLoss, softmax_focal_loss
    from handgrad.losses.varifocal_loss import VarifocalLoss, varifocal_loss

__all__ = [
    "AsymmetricLoss",
    "CompleteBoxIoULoss",
    "DistanceBoxIoULoss",
    "EfficientBoxIoULoss",
    "GaussianFocalLoss",
    "GeneralizedBoxIoULoss",
    "QualityFocalLoss",
    "ScyllaBoxIoULoss",
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
    "VarifocalLoss",
    "asymmetric_loss",
    "complete_box_iou_loss",
    "distance_box_iou_loss",
    "efficient_box_iou_loss",
    "gaussian_focal_loss",
    "generalized_box_iou_loss",
    "quality_focal_loss",
    "scylla_box_iou_loss",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
    "varifocal_loss",
]
