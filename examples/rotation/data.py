"""Scenes with rotated things: pieces of photographs of stone and grass, laid at any angle on aerial photos."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from detection import data as aerial
from handgrad.boxes import rotated_box_iou
from shared.files import UserError, files_from_package

# Photographs of surfaces, grey, in a wheel on the package index. Of each class's, things to train on are cut from the
# upper half and things to measure on from the lower.
PACKAGE = "scikit-image==0.25.2"
_FOLDER = "skimage/data/"
_MEMBERS = {
    "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    "gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
}
# Wheels differ from Python to Python and from machine to machine, but not in these files.
_WHEEL = ("--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux_2_17_x86_64")
CLASSES = ("brick", "grass", "gravel")

_LENGTHS = (24.0, 80.0)  # of the longer side, in pixels
_RATIOS = (1.3, 4.0)  # of the sides
_APART = 0.02  # two things overlap by no more than this IoU


@dataclass(frozen=True)
class Scene:
    pixels: Tensor  #: (3, size, size), float32 from 0 to 1
    #: (N, 5): centre x and y, width and height in pixels, angle in degrees, counter-clockwise; the width is the longer
    boxes: Tensor
    labels: Tensor  #: (N,), from 1 on: 0 is the background


@dataclass(frozen=True)
class Materials:
    """What scenes are made of: those to train on and those to measure on share no pixel."""

    grounds: list[Tensor]  #: (3, height, width), float32 from 0 to 1
    surfaces: list[Tensor]  #: for each class, (height, width), float32 from 0 to 1


def open_materials(cache: Path) -> tuple[Materials, Materials]:
    """To train on, and to measure on."""
    photos = aerial.open_photos(None, [], cache)
    folder = files_from_package(PACKAGE, {_FOLDER + name: sha256 for name, sha256 in _MEMBERS.items()}, cache, _WHEEL)
    surfaces = [_read(folder / name) for name in _MEMBERS]
    halves = [surface.tensor_split(2) for surface in surfaces]
    train, test = (
        Materials([photo.pixels / 255 for photo in some], [half[part] for half in halves])
        for part, some in enumerate((photos.train, photos.test))
    )
    return train, test


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as opened:
            return torch.from_numpy(np.array(opened.convert("L"))) / 255
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"the photograph {path} cannot be read: {error}") from error


def scenes(materials: Materials, count: int, size: int, seed: int) -> Iterator[Scene]:
    """``count`` scenes of ``size`` x ``size`` pixels; equal seeds give equal scenes."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield _scene(materials, size, generator)


def _scene(materials: Materials, size: int, generator: torch.Generator) -> Scene:
    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    ground = materials.grounds[int(draw(0, len(materials.grounds)))]
    side = min(size, *ground.shape[1:])
    left, top = int(draw(0, ground.shape[2] - side + 1)), int(draw(0, ground.shape[1] - side + 1))
    pixels = ground[:, top : top + side, left : left + side]
    pixels = F.interpolate(pixels[None], size=(size, size), mode="bilinear", align_corners=False)[0].clone()
    boxes = torch.zeros(0, 5)
    labels = []
    # As many as find room, of a number that grows with the area.
    for _ in range(max(1, round(draw(0.5, 1.5) * size * size / 6000))):
        length = math.exp(draw(*map(math.log, _LENGTHS)))
        length = min(length, size / 2)
        width = length / draw(*_RATIOS)
        reach = length / 2
        box = torch.tensor([[draw(reach, size - reach), draw(reach, size - reach), length, width, draw(-90, 90)]])
        if len(boxes) and rotated_box_iou(boxes, box).max() > _APART:
            continue
        label = int(draw(0, len(CLASSES)))
        surface = materials.surfaces[label]
        # Where in the photograph the piece is from, how it is turned there, and in which colour it is printed.
        at = (draw(0, 1), draw(0, 1), draw(0, 360))
        colour = torch.tensor([draw(0.5, 1.1) for _ in range(3)])
        _lay(pixels, box[0], surface, at, colour)
        boxes = torch.cat([boxes, box])
        labels.append(1 + label)
    return Scene(pixels.clamp_(0, 1), boxes, torch.tensor(labels, dtype=torch.int64))


def _lay(pixels: Tensor, box: Tensor, surface: Tensor, at: tuple[float, float, float], colour: Tensor) -> None:
    """Lays a piece of ``surface`` on ``pixels``, as large and turned as ``box`` is, with an edge of one pixel."""
    x, y, width, height, degrees = box.tolist()
    across, down = inside(pixels.shape[1:], x, y, degrees)
    cover = (width / 2 + 0.5 - across.abs()).clamp(0, 1) * (height / 2 + 0.5 - down.abs()).clamp(0, 1)
    # The piece's middle is far enough inside the photograph for the whole of it.
    rows, columns = surface.shape
    reach = math.hypot(width, height) / 2 + 1
    turn = math.radians(at[2])
    u = reach + at[0] * (columns - 1 - 2 * reach) + across * math.cos(turn) - down * math.sin(turn)
    v = reach + at[1] * (rows - 1 - 2 * reach) + across * math.sin(turn) + down * math.cos(turn)
    grid = torch.stack([2 * u / (columns - 1) - 1, 2 * v / (rows - 1) - 1], -1)
    piece = F.grid_sample(surface[None, None], grid[None], align_corners=True, padding_mode="border")[0]
    pixels.lerp_(piece * colour[:, None, None], cover)


def inside(shape: torch.Size, x: float, y: float, degrees: float) -> tuple[Tensor, Tensor]:
    """Where each pixel's centre is along the width and the height of a box with this centre and angle."""
    rows, columns = (torch.arange(length) + 0.5 for length in shape)
    right, below = columns - x, (rows - y)[:, None]
    turn = math.radians(degrees)
    return right * math.cos(turn) - below * math.sin(turn), below * math.cos(turn) + right * math.sin(turn)


def corners(boxes: Tensor) -> Tensor:
    """(N, 4, 2): the corners of boxes (N, 5), in turn."""
    x, y, width, height, degrees = boxes.unbind(1)
    turn = degrees.deg2rad()
    across = torch.stack([turn.cos(), -turn.sin()], 1) * width[:, None] / 2
    down = torch.stack([turn.sin(), turn.cos()], 1) * height[:, None] / 2
    centre = torch.stack([x, y], 1)
    return torch.stack(
        [centre - across - down, centre + across - down, centre + across + down, centre - across + down], 1
    )
