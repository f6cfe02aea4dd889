"""The network: a small encoder, whose output is the embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Scale, whole


class Encoder(nn.Module):
    """Four 3x3 convolutions, with batch norm; the mean over what is left of the image is the embedding."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.features = 4 * width
        self.body = nn.Sequential(
            *_convolution(channels, width, 2),
            *_convolution(width, 2 * width, 2),
            *_convolution(2 * width, 3 * width, 1),
            *_convolution(3 * width, self.features, 2),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, height, width) to (N, features)."""
        return self.body(images).mean((2, 3))


def _convolution(channels: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, width, 3, stride, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def build(channels: int, width: int, seed: int) -> Encoder:
    torch.manual_seed(seed)
    # Channels last: convolutions of few channels take four fifths of the time then.
    return Encoder(channels, width).to(memory_format=torch.channels_last)


@torch.no_grad()
def embed(encoder: Encoder, pixels: Tensor, size: int, scale: Scale, batch: int = 500) -> Tensor:
    """Embeddings of unit length, (N, features)."""
    encoder.eval()
    return torch.cat([F.normalize(encoder(whole(part, size, scale))) for part in pixels.split(batch)])
