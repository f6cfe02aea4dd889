"""Boxes."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad.boxes.nms import batched_nms, nms
    from handgrad.boxes.soft_nms import soft_nms

__all__ = ["batched_nms", "nms", "soft_nms"]
