"""Layers."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.layers.blur_pool_2d import BlurPool2d, blur_pool_2d
    from handgrad.layers.deform_conv2d import DeformConv2d, DeformConv2dPack, deform_conv2d
    from handgrad.layers.filter_response_norm import FilterResponseNormTlu2d, filter_response_norm
    from handgrad.layers.global_response_norm import GlobalResponseNorm, global_response_norm
    from handgrad.layers.layer_norm_2d import LayerNorm2d, layer_norm_2d
    from handgrad.layers.local_response_norm import LocalResponseNorm, local_response_norm
    from handgrad.layers.multi_scale_deformable_attention import (
        MultiScaleDeformableAttention,
        multi_scale_deformable_attention,
    )
    from handgrad.layers.quick_gelu import QuickGELU, quick_gelu
    from handgrad.layers.rms_norm_2d import RmsNorm2d, rms_norm_2d
    from handgrad.layers.roi_align import RoIAlign, roi_align
    from handgrad.layers.upfirdn2d import Upfirdn2d, upfirdn2d
    from handgrad.transforms.gaussian_blur import GaussianBlur2d

__all__ = [
    "BlurPool2d",
    "DeformConv2d",
    "DeformConv2dPack",
    "FilterResponseNormTlu2d",
    "GaussianBlur2d",
    "GlobalResponseNorm",
    "LayerNorm2d",
    "LocalResponseNorm",
    "MultiScaleDeformableAttention",
    "QuickGELU",
    "RmsNorm2d",
    "RoIAlign",
    "Upfirdn2d",
    "blur_pool_2d",
    "deform_conv2d",
    "filter_response_norm",
    "global_response_norm",
    "layer_norm_2d",
    "local_response_norm",
    "multi_scale_deformable_attention",
    "quick_gelu",
    "rms_norm_2d",
    "roi_align",
    "upfirdn2d",
]
