"""Steps of activations in plain PyTorch, for references."""

from __future__ import annotations

import torch
from torch import Tensor


def cut_off(y: Tensor, clamp: float) -> Tensor:
    """``y`` between ``-clamp`` and ``clamp``, on whose borders its gradient is 0 in every version of torch. Not clamp:
    older versions of ONNX's Clip know no float64."""
    y = torch.where(y <= -clamp, -clamp, y)
    return torch.where(y >= clamp, clamp, y)
