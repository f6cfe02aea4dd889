"""Layers."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.layers.bias_act import BiasAct, bias_act
    from handgrad.layers.blur_pool_2d import BlurPool2d, blur_pool_2d
    from handgrad.layers.carafe import CARAFE, CARAFEPack, carafe
    from handgrad.layers.correlation import Correlation, correlation
    from handgrad.layers.correlation_lookup import CorrBlock, correlation_lookup
    from handgrad.layers.dcnv3 import DCNv3, dcnv3
    from handgrad.layers.dcnv4 import DCNv4, dcnv4
    from handgrad.layers.deform_conv2d import DeformConv2d, DeformConv2dPack, deform_conv2d
    from handgrad.layers.filter_response_norm import FilterResponseNormTlu2d, filter_response_norm
    from handgrad.layers.filtered_lrelu import FilteredLReLU, filtered_lrelu
    from handgrad.layers.global_response_norm import GlobalResponseNorm, global_response_norm
    from handgrad.layers.grid_sample import grid_sample
    from handgrad.layers.guided_filter import GuidedFilter, guided_filter
    from handgrad.layers.joint_bilateral_filter import (
        BilateralFilter,
        JointBilateralFilter,
        bilateral_filter,
        joint_bilateral_filter,
    )
    from handgrad.layers.layer_norm_2d import LayerNorm2d, layer_norm_2d
    from handgrad.layers.local_response_norm import LocalResponseNorm, local_response_norm
    from handgrad.layers.median_filter import MedianFilter, median_filter
    from handgrad.layers.multi_scale_deformable_attention import (
        MultiScaleDeformableAttention,
        multi_scale_deformable_attention,
    )
    from handgrad.layers.ps_roi_align import PSRoIAlign, ps_roi_align
    from handgrad.layers.ps_roi_pool import PSRoIPool, ps_roi_pool
    from handgrad.layers.quick_gelu import QuickGELU, quick_gelu
    from handgrad.layers.rms_norm_2d import RmsNorm2d, rms_norm_2d
    from handgrad.layers.roi_align import RoIAlign, roi_align
    from handgrad.layers.roi_align_rotated import RoIAlignRotated, roi_align_rotated
    from handgrad.layers.roi_pool import RoIPool, roi_pool
    from handgrad.layers.softsplat import softsplat
    from handgrad.layers.spatial_pyramid_pool_2d import SpatialPyramidPool2d, spatial_pyramid_pool_2d
    from handgrad.layers.upfirdn2d import Upfirdn2d, upfirdn2d
    from handgrad.transforms.gaussian_blur import GaussianBlur2d

__all__ = [
    "CARAFE",
    "BiasAct",
    "BilateralFilter",
    "BlurPool2d",
    "CARAFEPack",
    "CorrBlock",
    "Correlation",
    "DCNv3",
    "DCNv4",
    "DeformConv2d",
    "DeformConv2dPack",
    "FilterResponseNormTlu2d",
    "FilteredLReLU",
    "GaussianBlur2d",
    "GlobalResponseNorm",
    "GuidedFilter",
    "JointBilateralFilter",
    "LayerNorm2d",
    "LocalResponseNorm",
    "MedianFilter",
    "MultiScaleDeformableAttention",
    "PSRoIAlign",
    "PSRoIPool",
    "QuickGELU",
    "RmsNorm2d",
    "RoIAlign",
    "RoIAlignRotated",
    "RoIPool",
    "SpatialPyramidPool2d",
    "Upfirdn2d",
    "bias_act",
    "bilateral_filter",
    "blur_pool_2d",
    "carafe",
    "correlation",
    "correlation_lookup",
    "dcnv3",
    "dcnv4",
    "deform_conv2d",
    "filter_response_norm",
    "filtered_lrelu",
    "global_response_norm",
    "grid_sample",
    "guided_filter",
    "joint_bilateral_filter",
    "layer_norm_2d",
    "local_response_norm",
    "median_filter",
    "multi_scale_deformable_attention",
    "ps_roi_align",
    "ps_roi_pool",
    "quick_gelu",
    "rms_norm_2d",
    "roi_align",
    "roi_align_rotated",
    "roi_pool",
    "softsplat",
    "spatial_pyramid_pool_2d",
    "upfirdn2d",
]
