"""Layers."""

from handgrad.layers.deform_conv2d import DeformConv2d, DeformConv2dPack, deform_conv2d
from handgrad.layers.local_response_norm import LocalResponseNorm, local_response_norm

__all__ = ["DeformConv2d", "DeformConv2dPack", "LocalResponseNorm", "deform_conv2d", "local_response_norm"]
