"""Which images kernels take in the place of torchvision's own, and what becomes of their kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: What the kernel computes as torchvision does.
DTYPES = (torch.uint8, torch.float32, torch.float64)


def is_picture(inpt: Any) -> bool:
    """Whether the kernel takes it: an image or a video of a type that it computes as torchvision does."""
    from torchvision.tv_tensors import Image, Video

    return type(inpt) in (Tensor, Image, Video) and inpt.dtype in DTYPES and inpt.dim() >= 3 and inpt.numel() > 0


def wrapped(inpt: Tensor, output: Tensor) -> Tensor:
    if type(inpt) is Tensor:
        return output
    from torchvision.tv_tensors import wrap

    return wrap(output, like=inpt)
