"""Images of classes: where they come from, what is kept for the test, and the views that are learnt from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from handgrad.transforms import batched_resized_crop
from shared import mnist
from shared.files import UserError

FASHION, DIGITS = "fashion", "digits"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_IDX = "train-images-idx3-ubyte"

# A view is a part of an image: this much of its area, this aspect ratio, lighter or darker by this.
_AREA, _ASPECT, _LIGHT = (0.75, 1.0), (3 / 4, 4 / 3), (0.9, 1.1)


@dataclass(frozen=True)
class Images:
    pixels: Tensor  #: (N, channels, height, width), uint8
    labels: Tensor  #: (N,), int64

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, keep: Tensor) -> Images:
        return Images(self.pixels[keep], self.labels[keep])


@dataclass(frozen=True)
class Parts:
    name: str
    classes: list[str]
    train: Images
    test: Images
    mirrored: bool  #: whether an image's mirror image is of its class


def open_images(where: str, most: int, size: int, seed: int, cache: Path) -> Parts:
    """Fashion-MNIST, digits, or what is in a folder; ``most`` images to train on, drawn with ``seed``."""
    if where == DIGITS:
        parts = _digits(cache)
    elif where == FASHION:
        parts = _fashion(cache)
    elif not Path(where).is_dir():
        raise UserError(f"--data must be {FASHION}, {DIGITS} or a folder of images, but {where} is not there")
    elif any((Path(where) / name).is_file() for name in (_IDX, f"{_IDX}.gz")):
        parts = _idx(Path(where), where, [])
    else:
        parts = _folder(Path(where), size)
    train = parts.train.take(_shuffled(len(parts.train), seed)[:most])
    if len(train.labels.unique()) < 2:
        raise UserError("there must be two classes at least to tell apart")
    return Parts(parts.name, parts.classes, train, parts.test, parts.mirrored)


def _shuffled(number: int, seed: int) -> Tensor:
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed))


def _fashion(cache: Path) -> Parts:
    try:
        folder = mnist.fashion_mnist(cache)
    except UserError as error:
        raise UserError(
            f"{error}; --data names a folder with its four files, and --data {DIGITS} needs pip only"
        ) from None
    return _idx(folder, "Fashion-MNIST", list(mnist.FASHION_CLASSES), mirrored=True)


def _idx(folder: Path, name: str, classes: list[str], mirrored: bool = False) -> Parts:
    train, test = (_images(*mnist.read_idx(folder, part)) for part in ("train", "t10k"))
    if not len(train) or not len(test):
        raise UserError(f"{folder} must hold images to train on and to test on")
    number = 1 + int(max(train.labels.max(), test.labels.max()))
    return Parts(name, classes or [str(i) for i in range(number)], train, test, mirrored)


def _digits(cache: Path) -> Parts:
    images = _images(*mnist.read_mnist_table(mnist.mnist_table(cache)))
    return Parts("MNIST", [str(i) for i in range(10)], *_split(images), False)


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels.astype(np.int64)))


def _split(images: Images) -> tuple[Images, Images]:
    """Three quarters of each class, and the rest; always the same, whatever the seed."""
    order = _shuffled(len(images), 0)
    kept = []
    for label in images.labels.unique():
        members = order[images.labels[order] == label]
        kept.append(members[: len(members) // 4])
    is_kept = torch.zeros(len(images), dtype=torch.bool)
    is_kept[torch.cat(kept)] = True
    return images.take(~is_kept), images.take(is_kept)


def _folder(folder: Path, size: int) -> Parts:
    """A folder of images for each class, or two of such, train and test."""
    divided = all((folder / part).is_dir() for part in ("train", "test"))
    roots = [folder / "train", folder / "test"] if divided else [folder]
    classes = sorted(path.name for path in roots[0].iterdir() if path.is_dir())
    read = []
    for root in roots:
        pixels, labels = [], []
        for label, name in enumerate(classes):
            paths = sorted(path for path in (root / name).glob("*") if path.suffix.lower() in SUFFIXES)
            if len(paths) < 4 and not (divided and paths):
                raise UserError(f"{root / name} must hold images of a class, 4 at least; it holds {len(paths)}")
            pixels += [_read(path, size) for path in paths]
            labels += [label] * len(paths)
        if not labels:
            raise UserError(f"{root} must hold a folder of images for each class")
        read.append(Images(torch.stack(pixels), torch.tensor(labels)))
    train, test = read if divided else _split(read[0])
    return Parts(str(folder), classes, train, test, True)


def _read(path: Path, size: int) -> Tensor:
    """In colours, the largest square in the middle, (3, size, size)."""
    try:
        with Image.open(path) as opened:
            square = ImageOps.fit(opened.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"the image {path} cannot be read: {error}") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


# ---- views -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """What makes numbers around 0 of an image's levels."""

    mean: list[float]  #: of each channel
    std: list[float]

    @classmethod
    def of(cls, images: Images) -> Scale:
        # A thousand images are enough to know.
        std, mean = torch.std_mean(images.pixels[:1000].float() / 255, (0, 2, 3))
        return cls(mean.tolist(), std.clamp(min=1e-3).tolist())


def whole(pixels: Tensor, size: int, scale: Scale) -> Tensor:
    """Images as they are, (N, channels, size, size)."""
    boxes = torch.tensor([[0, 0, *pixels.shape[2:]]]).expand(len(pixels), 4)
    return batched_resized_crop(pixels, boxes, size, dtype=torch.float32, mean=scale.mean, std=scale.std)


def training_views(
    parts: Parts, steps: int, batch: int, size: int, scale: Scale, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step, two views of each of ``batch`` images, (2 batch, channels, size, size), the first views before the
    second, and the images' labels, (batch,). No image comes again before all have come. Equal seeds, equal views."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    batch = min(batch, len(parts.train))
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(parts.train), generator=generator)
        now, order = order[:batch], order[batch:]
        pixels = parts.train.pixels[now].repeat(2, 1, 1, 1)
        height, width = pixels.shape[2:]
        boxes = _boxes(len(pixels), height, width, generator)
        # All images in one call, each with a box and a mirror of its own.
        views = batched_resized_crop(
            pixels,
            boxes,
            size,
            horizontal_flip=(torch.rand(len(pixels), generator=generator) < 0.5) & parts.mirrored,
            dtype=torch.float32,
            mean=scale.mean,
            std=scale.std,
        )
        light = torch.empty(len(pixels), 1, 1, 1).uniform_(*_LIGHT, generator=generator)
        yield views * light, parts.train.labels[now]


def _boxes(number: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Top, left, height and width of ``number`` parts of an image, in whole pixels."""
    area = torch.empty(number).uniform_(*_AREA, generator=generator) * height * width
    aspect = torch.empty(number).uniform_(*map(math.log, _ASPECT), generator=generator).exp()
    sides = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], 1).round().long()
    room = torch.tensor([height, width])
    sides = torch.minimum(sides, room).clamp(min=1)
    places = (torch.rand(number, 2, generator=generator) * (room - sides + 1)).long()
    return torch.cat([places, sides], 1)
