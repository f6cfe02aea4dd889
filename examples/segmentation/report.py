"""The picture."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from shared.files import write_whole

from .data import Picture
from .evaluation import Matched

WRONG = (255, 40, 40)
_HEADER, _BETWEEN = 16, 6


def draw(picture: Picture, matched: Matched, path: Path) -> None:
    """The image, the truth and what was found, side by side. A nucleus that was found has the same colour twice; red
    are what was missed and what is not there."""
    scale = 2 if max(picture.pixels.shape) <= 600 else 1
    grey = (picture.pixels.clamp(0, 1) ** 0.7 * 255).byte().numpy()
    shown = np.repeat(grey[..., None], 3, 2)
    truth = {number: _colour(number) for number in range(1, int(matched.truth.max()) + 1)}
    found = {number: truth[partner] for number, partner in matched.partners.items()}
    truth |= dict.fromkeys(matched.missed, WRONG)
    found |= dict.fromkeys(matched.wrong, WRONG)
    panels = {
        "image": shown,
        "truth": _tinted(shown, matched.truth, truth),
        "prediction": _tinted(shown, matched.found, found),
    }
    height, width = (scale * side for side in grey.shape)
    whole = Image.new("RGB", (3 * width + 2 * _BETWEEN, height + _HEADER), "white")
    pen = ImageDraw.Draw(whole)
    for i, (title, panel) in enumerate(panels.items()):
        left = i * (width + _BETWEEN)
        pen.text((left + 2, 2), title, fill="black")
        whole.paste(Image.fromarray(panel).resize((width, height), Image.Resampling.NEAREST), (left, _HEADER))
    buffer = io.BytesIO()
    whole.save(buffer, format="png")
    write_whole(path, buffer.getvalue())


def _colour(number: int) -> tuple[int, int, int]:
    """One of many, neighbours in number far apart, none of them red."""
    red, green, blue = colorsys.hsv_to_rgb(0.12 + 0.76 * (number * 0.618034 % 1), 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _tinted(shown: np.ndarray, numbers: Tensor, colours: dict[int, tuple[int, int, int]]) -> np.ndarray:
    table = np.zeros((int(numbers.max()) + 1, 3))
    for number, colour in colours.items():
        table[number] = colour
    own = table[numbers.numpy()]
    coloured = own.sum(-1, keepdims=True) > 0
    return np.where(coloured, 0.35 * shown + 0.65 * own, shown).astype(np.uint8)
