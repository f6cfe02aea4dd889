"""The picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from shared.detections import Matched
from shared.files import write_whole

from .data import Photo

RIGHT, WRONG, MISSED = (64, 224, 96), (255, 72, 48), (64, 144, 255)


def draw(photo: Photo, matched: Matched, path: Path) -> None:
    """The photo with what was found: green what is right, red what is not, blue what was missed."""
    picture = Image.fromarray(photo.pixels.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(picture)
    groups: Sequence[tuple[Tensor, tuple[int, int, int]]] = (
        (matched.missed, MISSED),
        (matched.wrong, WRONG),
        (matched.right, RIGHT),
    )
    for boxes, colour in groups:
        for box in boxes.tolist():
            pen.rectangle(box, outline=colour, width=2)
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    write_whole(path, buffer.getvalue())
