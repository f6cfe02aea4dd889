"""Losses."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.losses.adaptive_wing_loss import AdaptiveWingLoss, adaptive_wing_loss
    from handgrad.losses.asymmetric_loss import AsymmetricLoss, asymmetric_loss
    from handgrad.losses.clip_loss import ClipLoss, clip_loss
    from handgrad.losses.complete_box_iou_loss import CompleteBoxIoULoss, complete_box_iou_loss
    from handgrad.losses.contrastive_loss import ContrastiveLoss, contrastive_loss
    from handgrad.losses.dice_loss import DiceLoss, dice_loss
    from handgrad.losses.distance_box_iou_loss import DistanceBoxIoULoss, distance_box_iou_loss
    from handgrad.losses.efficient_box_iou_loss import EfficientBoxIoULoss, efficient_box_iou_loss
    from handgrad.losses.focal_tversky_loss import FocalTverskyLoss, focal_tversky_loss
    from handgrad.losses.gaussian_focal_loss import GaussianFocalLoss, gaussian_focal_loss
    from handgrad.losses.generalized_box_iou_loss import GeneralizedBoxIoULoss, generalized_box_iou_loss
    from handgrad.losses.generalized_dice_loss import GeneralizedDiceLoss, generalized_dice_loss
    from handgrad.losses.info_nce_loss import InfoNCELoss, info_nce_loss
    from handgrad.losses.infogain_loss import InfogainLoss, infogain_loss
    from handgrad.losses.jaccard_loss import JaccardLoss, jaccard_loss
    from handgrad.losses.knowledge_distillation_loss import KnowledgeDistillationLoss, knowledge_distillation_loss
    from handgrad.losses.local_normalized_cross_correlation_loss import (
        LocalNormalizedCrossCorrelationLoss,
        local_normalized_cross_correlation_loss,
    )
    from handgrad.losses.lovasz_hinge_loss import LovaszHingeLoss, lovasz_hinge_loss
    from handgrad.losses.lovasz_softmax_loss import LovaszSoftmaxLoss, lovasz_softmax_loss
    from handgrad.losses.margin_softmax_loss import MarginSoftmaxLoss, margin_softmax_loss
    from handgrad.losses.ms_ssim import MSSSIM, MSSSIMLoss, ms_ssim, ms_ssim_loss
    from handgrad.losses.multi_similarity_loss import MultiSimilarityLoss, multi_similarity_loss
    from handgrad.losses.nt_xent_loss import NTXentLoss, nt_xent_loss
    from handgrad.losses.overlap_sums import overlap_sums
    from handgrad.losses.probiou_loss import ProbIoULoss, probiou_loss
    from handgrad.losses.quality_focal_loss import QualityFocalLoss, quality_focal_loss
    from handgrad.losses.rotated_box_iou_loss import RotatedBoxIoULoss, rotated_box_iou_loss
    from handgrad.losses.scylla_box_iou_loss import ScyllaBoxIoULoss, scylla_box_iou_loss
    from handgrad.losses.siglip_loss import SigLipLoss, siglip_loss
    from handgrad.losses.sigmoid_focal_loss import SigmoidFocalLoss, sigmoid_focal_loss
    from handgrad.losses.softmax_focal_loss import SoftmaxFocalLoss, softmax_focal_loss
    from handgrad.losses.ssim import SSIM, SSIMLoss, ssim, ssim_loss
    from handgrad.losses.supervised_contrastive_loss import SupervisedContrastiveLoss, supervised_contrastive_loss
    from handgrad.losses.triplet_loss import TripletLoss, triplet_loss
    from handgrad.losses.tversky_loss import TverskyLoss, tversky_loss
    from handgrad.losses.varifocal_loss import VarifocalLoss, varifocal_loss
    from handgrad.losses.wing_loss import WingLoss, wing_loss

__all__ = [
    "MSSSIM",
    "SSIM",
    "AdaptiveWingLoss",
    "AsymmetricLoss",
    "ClipLoss",
    "CompleteBoxIoULoss",
    "ContrastiveLoss",
    "DiceLoss",
    "DistanceBoxIoULoss",
    "EfficientBoxIoULoss",
    "FocalTverskyLoss",
    "GaussianFocalLoss",
    "GeneralizedBoxIoULoss",
    "GeneralizedDiceLoss",
    "InfoNCELoss",
    "InfogainLoss",
    "JaccardLoss",
    "KnowledgeDistillationLoss",
    "LocalNormalizedCrossCorrelationLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "MSSSIMLoss",
    "MarginSoftmaxLoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "ProbIoULoss",
    "QualityFocalLoss",
    "RotatedBoxIoULoss",
    "SSIMLoss",
    "ScyllaBoxIoULoss",
    "SigLipLoss",
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
    "SupervisedContrastiveLoss",
    "TripletLoss",
    "TverskyLoss",
    "VarifocalLoss",
    "WingLoss",
    "adaptive_wing_loss",
    "asymmetric_loss",
    "clip_loss",
    "complete_box_iou_loss",
    "contrastive_loss",
    "dice_loss",
    "distance_box_iou_loss",
    "efficient_box_iou_loss",
    "focal_tversky_loss",
    "gaussian_focal_loss",
    "generalized_box_iou_loss",
    "generalized_dice_loss",
    "info_nce_loss",
    "infogain_loss",
    "jaccard_loss",
    "knowledge_distillation_loss",
    "local_normalized_cross_correlation_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "margin_softmax_loss",
    "ms_ssim",
    "ms_ssim_loss",
    "multi_similarity_loss",
    "nt_xent_loss",
    "overlap_sums",
    "probiou_loss",
    "quality_focal_loss",
    "rotated_box_iou_loss",
    "scylla_box_iou_loss",
    "siglip_loss",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
    "ssim",
    "ssim_loss",
    "supervised_contrastive_loss",
    "triplet_loss",
    "tversky_loss",
    "varifocal_loss",
    "wing_loss",
]
