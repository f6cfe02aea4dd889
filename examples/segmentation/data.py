"""Images with masks of nuclei: where they come from, the classes of their pixels, and the views cut out of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from shared.files import UserError, files_from_package

# A microscope's image of 125 nuclei in a wheel on the package index, BSD-3 (Schmidt, Weigert and others).
PACKAGE = "stardist==0.9.2"
_FOLDER = "stardist/data/images/"
_IMAGE, _MASK = "img2d.tif", "mask2d.tif"
_MEMBERS = {
    _IMAGE: "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
    _MASK: "59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f",
}
# Wheels differ from Python to Python and from machine to machine, but not in these files, and nothing else of one is
# looked at: this one will do for all.
_WHEEL = ("--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64")
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".webp")

CLASSES = ("background", "inside", "boundary")
BACKGROUND, INSIDE, BOUNDARY = range(3)

# A pixel of a nucleus that has another nucleus this near, in pixels, is boundary.
_NEAR = 2


@dataclass(frozen=True)
class Picture:
    name: str
    pixels: Tensor  #: (height, width), float32: 0 is dark, 1 nearly the brightest
    nuclei: Tensor  #: (height, width), int64: the number of the nucleus at each pixel, 0 is the background


@dataclass(frozen=True)
class Pictures:
    train: list[Picture]
    test: list[Picture]


def open_pictures(folder: Path | None, test: Sequence[str], gap: int, cache: Path) -> Pictures:
    """The images in ``folder``, or the nuclei; ``test`` names those that are kept from training. Of a single image, one
    half is kept, and between the halves ``gap`` pixels are left out."""
    if folder is None:
        members = {_FOLDER + name: sha256 for name, sha256 in _MEMBERS.items()}
        found = files_from_package(PACKAGE, members, cache, _WHEEL)
        pairs = {"nuclei": (found / _IMAGE, found / _MASK)}
    elif not folder.is_dir():
        raise UserError(f"--data must name a folder with the folders images and masks, but {folder} is not there")
    else:
        pairs = _pairs(folder)
    for name in test:
        if name not in pairs:
            raise UserError(f"--test names {name!r}, but the images are {', '.join(pairs)}")
    read = {name: _read(*paths) for name, paths in pairs.items()}
    if len(read) == 1 and not test:
        return _halves(*read.popitem(), gap)
    test = test or [list(read)[-1]]
    if set(read) == set(test):
        raise UserError("--test names all images, so that none is left to train on")
    pictures = [_picture(name, *arrays) for name, arrays in read.items()]
    return Pictures([p for p in pictures if p.name not in test], [p for p in pictures if p.name in test])


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    images, masks = (
        {path.stem: path for path in sorted((folder / part).glob("*")) if path.suffix.lower() in SUFFIXES}
        for part in ("images", "masks")
    )
    for name, path in images.items():
        if name not in masks:
            raise UserError(f"{path} has no mask of the same name in {folder / 'masks'} ({', '.join(SUFFIXES)})")
    if not images:
        raise UserError(f"--data must hold images and masks of the same names, but {folder / 'images'} has no image")
    return {name: (path, masks[name]) for name, path in images.items()}


def _read(image: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels, nuclei = _array(image, ("L", "I", "F", "I;16", "I;16B")), _array(mask)
    if pixels.ndim == 3:
        pixels = pixels.mean(-1)
    if nuclei.ndim != 2 or nuclei.dtype.kind not in "iub":
        raise UserError(f"the mask {mask} must hold the number of the thing at each pixel, 0 where there is none")
    if nuclei.shape != pixels.shape:
        sizes = " and ".join(f"{width}x{height}" for height, width in (pixels.shape, nuclei.shape))
        raise UserError(f"the image {image} and its mask have different sizes, {sizes}")
    if not nuclei.any():
        raise UserError(f"the mask {mask} holds nothing but background")
    return pixels.astype(np.float32), nuclei.astype(np.int64)


def _array(path: Path, grey: Sequence[str] = ()) -> np.ndarray:
    """Numbers as they are in the file; but where ``grey`` names modes, what has none of them becomes colours."""
    try:
        with Image.open(path) as opened:
            return np.array(opened.convert("RGB") if grey and opened.mode not in grey else opened)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"the image {path} cannot be read: {error}") from error


def _picture(name: str, pixels: np.ndarray, nuclei: np.ndarray) -> Picture:
    # Microscopes' scales differ, and a few pixels may be far brighter than the rest.
    low, high = np.percentile(pixels, (1, 99))
    scaled = (pixels - low) / max(float(high - low), 1e-6)
    return Picture(name, torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(nuclei))


def _halves(name: str, arrays: tuple[np.ndarray, np.ndarray], gap: int) -> Pictures:
    axis = int(arrays[0].shape[1] >= arrays[0].shape[0])
    length = arrays[0].shape[axis]
    end = (length - gap) // 2
    if end < gap:
        raise UserError(
            f"{name} is too small to be split: it needs {3 * gap} pixels, and has {length}; add another image"
        )
    # Each half is scaled by itself, as if the other did not exist.
    first, second = (
        [array.take(range(*places), axis) for array in arrays] for places in ((0, end), (end + gap, length))
    )
    for part in (first, second):
        if not part[1].any():
            raise UserError(f"one half of {name} holds nothing but background; add another image")
    sides = ("left", "right") if axis else ("upper", "lower")
    train, test = (_picture(f"{name}-{side}", *part) for side, part in zip(sides, (first, second), strict=True))
    return Pictures([train], [test])


def count(nuclei: Tensor) -> int:
    return int((nuclei.unique() > 0).sum())


def classes_of(nuclei: Tensor) -> Tensor:
    """The class of each pixel. Boundaries are where nuclei touch or nearly do: what must not be one thing, else."""
    numbers = nuclei.double()[None, None]
    there = nuclei > 0
    window, pad = 2 * _NEAR + 1, _NEAR
    highest = F.max_pool2d(numbers, window, 1, pad)[0, 0]
    # Where there is no nucleus, a number above all others, which no lowest is.
    lowest = -F.max_pool2d(torch.where(there, -numbers, -torch.inf), window, 1, pad)[0, 0]
    boundary = there & ((highest != nuclei) | (lowest != nuclei))
    return torch.where(boundary, BOUNDARY, there.long())


# ---- views -----------------------------------------------------------------------------------------------------------


def training_views(pictures: Sequence[Picture], number: int, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``number`` squares of ``size`` pixels, (1, size, size), with their classes, (size, size): from random places,
    larger images giving more of them, turned, scaled by 0.8 to 1.25 and changed in light. Equal seeds, equal views."""
    generator = torch.Generator().manual_seed(seed)
    areas = torch.tensor([float(picture.pixels.numel()) for picture in pictures])

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    for _ in range(number):
        picture = pictures[int(torch.multinomial(areas, 1, generator=generator))]
        height, width = picture.pixels.shape
        side = min(round(size / draw(0.8, 1.25)), height, width)
        left, top = round(draw(0, width - side)), round(draw(0, height - side))
        pixels, nuclei = (
            part[None, None, top : top + side, left : left + side].double() for part in (picture.pixels, picture.nuclei)
        )
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)[0].float()
        nuclei = F.interpolate(nuclei, (size, size), mode="nearest-exact")[0]
        turns, flip = int(draw(0, 4)), draw(0, 1) < 0.5
        pixels, nuclei = (torch.rot90(part, turns, (1, 2)) for part in (pixels, nuclei))
        if flip:
            pixels, nuclei = pixels.flip(2), nuclei.flip(2)
        pixels = pixels * draw(0.7, 1.4) + draw(-0.1, 0.1)
        yield pixels, classes_of(nuclei[0].long())
