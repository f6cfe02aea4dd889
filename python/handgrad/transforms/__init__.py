"""Transforms of images."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.transforms.adjust_colors import (
        adjust_brightness,
        adjust_colors,
        adjust_contrast,
        adjust_hue,
        adjust_saturation,
        rgb_to_grayscale,
    )
    from handgrad.transforms.batched import Batched
    from handgrad.transforms.classes import (
        CenterCrop,
        ColorJitter,
        Grayscale,
        Normalize,
        RandomAffine,
        RandomCrop,
        RandomGrayscale,
        RandomHorizontalFlip,
        RandomPerspective,
        RandomResizedCrop,
        RandomRotation,
        RandomVerticalFlip,
        Resize,
        ToDtype,
    )
    from handgrad.transforms.fusion import Fused, fuse
    from handgrad.transforms.resized_crop import batched_resized_crop, resized_crop
    from handgrad.transforms.warp import affine, perspective, rotate, warp

__all__ = [
    "Batched",
    "CenterCrop",
    "ColorJitter",
    "Fused",
    "Grayscale",
    "Normalize",
    "RandomAffine",
    "RandomCrop",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "ToDtype",
    "adjust_brightness",
    "adjust_colors",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "affine",
    "batched_resized_crop",
    "fuse",
    "perspective",
    "resized_crop",
    "rgb_to_grayscale",
    "rotate",
    "warp",
]
