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
    from handgrad.transforms.adjust_sharpness import adjust_sharpness
    from handgrad.transforms.adjust_tones import adjust_tones, autocontrast, equalize, invert, posterize, solarize
    from handgrad.transforms.auto_augment import AugMix, AutoAugment, RandAugment, TrivialAugmentWide
    from handgrad.transforms.batched import Batched
    from handgrad.transforms.classes import (
        CenterCrop,
        ColorJitter,
        ElasticTransform,
        GaussianBlur,
        Grayscale,
        Normalize,
        RandomAdjustSharpness,
        RandomAffine,
        RandomAutocontrast,
        RandomCrop,
        RandomEqualize,
        RandomErasing,
        RandomGrayscale,
        RandomHorizontalFlip,
        RandomInvert,
        RandomPerspective,
        RandomPosterize,
        RandomResizedCrop,
        RandomRotation,
        RandomSolarize,
        RandomVerticalFlip,
        Resize,
        ToDtype,
    )
    from handgrad.transforms.elastic import elastic
    from handgrad.transforms.fusion import Fused, fuse
    from handgrad.transforms.gaussian_blur import gaussian_blur
    from handgrad.transforms.mix_classes import CutMix, MixUp
    from handgrad.transforms.mixing import cutmix, erase, mixup, mosaic
    from handgrad.transforms.mosaics import Mosaic
    from handgrad.transforms.paste import paste
    from handgrad.transforms.resized_crop import batched_resized_crop, resized_crop
    from handgrad.transforms.warp import affine, perspective, rotate, warp

__all__ = [
    "AugMix",
    "AutoAugment",
    "Batched",
    "CenterCrop",
    "ColorJitter",
    "CutMix",
    "ElasticTransform",
    "Fused",
    "GaussianBlur",
    "Grayscale",
    "MixUp",
    "Mosaic",
    "Normalize",
    "RandAugment",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomAutocontrast",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "ToDtype",
    "TrivialAugmentWide",
    "adjust_brightness",
    "adjust_colors",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "adjust_sharpness",
    "adjust_tones",
    "affine",
    "autocontrast",
    "batched_resized_crop",
    "cutmix",
    "elastic",
    "equalize",
    "erase",
    "fuse",
    "gaussian_blur",
    "invert",
    "mixup",
    "mosaic",
    "paste",
    "perspective",
    "posterize",
    "resized_crop",
    "rgb_to_grayscale",
    "rotate",
    "solarize",
    "warp",
]
