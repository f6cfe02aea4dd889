"""Transforms of images."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.transforms.resized_crop import batched_resized_crop, resized_crop

__all__ = ["batched_resized_crop", "resized_crop"]
