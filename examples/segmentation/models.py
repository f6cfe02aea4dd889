"""The network: a small U-Net, and what it says of a whole image."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import CLASSES, Picture


class UNet(nn.Module):
    """Ronneberger et al., 2015, with ``width`` channels at full resolution and twice as many at each of the ``depth``
    halvings below; edges are padded, so that what comes out has the size of what goes in."""

    def __init__(self, width: int, depth: int = 2, classes: int = len(CLASSES)) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList([_convolutions(1, width), *(_convolutions(a, b) for a, b in pairs)])
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs[::-1])
        self.join = nn.ModuleList(_convolutions(2 * a, a) for a, _ in pairs[::-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, height, width), sides multiples of ``step``, to logits (N, classes, height, width)."""
        kept = []
        for level, block in enumerate(self.down):
            images = block(images if level == 0 else F.max_pool2d(images, 2))
            kept.append(images)
        images = kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            images = join(torch.cat([kept.pop(), up(images)], 1))
        return self.head(images)

    @property
    def step(self) -> int:
        return 2 ** len(self.up)

    @property
    def reach(self) -> int:
        """How many pixels away the network looks, at the most: two 3x3 convolutions at each resolution down and up,
        and a halving between each two, each pixel as wide as that resolution's."""
        down = sum(2 * 2**level for level in range(len(self.down)))
        up = sum(2 * 2**level for level in range(len(self.up)))
        return down + up + self.step - 1


def _convolutions(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def build(width: int, seed: int) -> UNet:
    torch.manual_seed(seed)
    # Channels last: convolutions of few channels take two thirds of the time then.
    return UNet(width).to(memory_format=torch.channels_last)


@torch.no_grad()
def classify(model: UNet, picture: Picture, tile: int = 512) -> Tensor:
    """The class of each pixel, (height, width). Tile by tile, each with as much around it as the network looks at, so
    that any size fits into memory and no seam shows."""
    model.eval()
    height, width = picture.pixels.shape
    step, margin = model.step, -(-model.reach // model.step) * model.step
    # The network pads with zeros at the image's own edges; this fills up to a size that it can halve.
    pixels = F.pad(picture.pixels[None, None], (0, -width % step, 0, -height % step), mode="replicate")
    found = torch.empty(height, width, dtype=torch.int64)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            above, before = min(top, margin), min(left, margin)
            part = pixels[..., top - above : top + tile + margin, left - before : left + tile + margin]
            classes = model(part)[0].argmax(0)[above:, before:]
            rows, columns = min(tile, height - top), min(tile, width - left)
            found[top : top + rows, left : left + columns] = classes[:rows, :columns]
    return found
