"""Boxes."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.boxes.box_iou import box_iou
    from handgrad.boxes.complete_box_iou import complete_box_iou
    from handgrad.boxes.distance_box_iou import distance_box_iou
    from handgrad.boxes.generalized_box_iou import generalized_box_iou
    from handgrad.boxes.mask_matrix_nms import mask_matrix_nms
    from handgrad.boxes.matrix_nms import matrix_nms
    from handgrad.boxes.multi_image_nms import multi_image_nms
    from handgrad.boxes.nms import batched_nms, nms
    from handgrad.boxes.probiou import probiou
    from handgrad.boxes.rotated_box_iou import rotated_box_iou
    from handgrad.boxes.rotated_nms import batched_rotated_nms, rotated_nms
    from handgrad.boxes.soft_nms import soft_nms
    from handgrad.boxes.weighted_boxes_fusion import weighted_boxes_fusion

__all__ = [
    "batched_nms",
    "batched_rotated_nms",
    "box_iou",
    "complete_box_iou",
    "distance_box_iou",
    "generalized_box_iou",
    "mask_matrix_nms",
    "matrix_nms",
    "multi_image_nms",
    "nms",
    "probiou",
    "rotated_box_iou",
    "rotated_nms",
    "soft_nms",
    "weighted_boxes_fusion",
]
