"""The picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from shared.detections import Matched
from shared.files import write_whole

from .data import Scene, corners

RIGHT, WRONG, MISSED = (64, 224, 96), (255, 72, 48), (64, 144, 255)


def draw(scenes: Sequence[Scene], matches: Sequence[Matched], path: Path, columns: int = 3, zoom: int = 2) -> None:
    """Scenes with what was found: green what is right, red what is not, blue what was missed."""
    rows = [_row(scenes[k : k + columns], matches[k : k + columns], zoom) for k in range(0, len(scenes), columns)]
    picture = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    write_whole(path, buffer.getvalue())


def _row(scenes: Sequence[Scene], matches: Sequence[Matched], zoom: int) -> Image.Image:
    tiles = [_tile(scene, matched, zoom) for scene, matched in zip(scenes, matches, strict=True)]
    row = Image.new("RGB", (sum(tile.width for tile in tiles), tiles[0].height))
    for index, tile in enumerate(tiles):
        row.paste(tile, (index * tile.width, 0))
    return row


def _tile(scene: Scene, matched: Matched, zoom: int) -> Image.Image:
    levels = (scene.pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    tile = Image.fromarray(levels)
    tile = tile.resize((tile.width * zoom, tile.height * zoom), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(tile)
    groups: Sequence[tuple[Tensor, tuple[int, int, int]]] = (
        (matched.missed, MISSED),
        (matched.wrong, WRONG),
        (matched.right, RIGHT),
    )
    for boxes, colour in groups:
        for corner in (corners(boxes) * zoom).tolist():
            pen.polygon([tuple(point) for point in corner], outline=colour, width=2)
    return tile
