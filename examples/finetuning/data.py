"""Images and labels: where they come from, how they are split, decoded and fed."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import importlib.util
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, UnidentifiedImageError
from rich.progress import Progress
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from handgrad import transforms
from shared import mnist
from shared.files import UserError, make_folder
from shared.options import known_name

from .settings import Settings

TRAIN, VALIDATION, TEST = 0, 1, 2

DEFAULT_SIZE = {"elpv": 160, "coco": 224, "mnist": 64, "fashion-mnist": 64, "cifar10": 64, "svhn": 64}
DEFAULT_AUGMENT = {
    "elpv": "flips",
    "coco": "photo",
    "cifar10": "photo",
    "fashion-mnist": "shift",
    "mnist": "shift",
    "svhn": "shift",
}


@dataclass
class Photos:
    """A set of images, not yet decoded."""

    name: str
    task: str  #: binary, multiclass or multilabel
    classes: list[str]  #: for a binary task the negative class, then the positive one
    labels: Tensor  #: class numbers (N,), or zeros and ones (N, classes) if multilabel
    load: Callable[[int], Image.Image]
    describe: Callable[[int], str]  #: names image i in a message
    split: Tensor | None = None  #: TRAIN, VALIDATION or TEST (N,); None if the dataset has no split of its own
    lines: list[str] = field(default_factory=list)  #: what the user should know about it

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def outputs(self) -> int:
        return 1 if self.task == "binary" else len(self.classes)

    def targets(self, labels: Tensor) -> Tensor:
        """What a sigmoid loss compares the logits with: (N,) or (N, classes) -> (N, outputs) floats."""
        if self.task == "binary":
            return labels.float().unsqueeze(1)
        if self.task == "multiclass":
            return torch.nn.functional.one_hot(labels, len(self.classes)).float()
        return labels.float()

    def take(self, keep: Sequence[int] | Tensor) -> Photos:
        keep = torch.as_tensor(keep, dtype=torch.long)
        places = keep.tolist()
        load, describe = self.load, self.describe
        return replace(
            self,
            labels=self.labels[keep],
            load=lambda i: load(places[i]),
            describe=lambda i: describe(places[i]),
            split=None if self.split is None else self.split[keep],
        )


# ------------------------------------------------------------------------------------------------------------ sources


def open_photos(settings: Settings) -> Photos:
    if settings.data is not None:
        photos = _image_folder(Path(settings.data))
    else:
        root = Path(settings.root)
        source = {
            "elpv": _elpv,
            "mnist": _mnist,
            "fashion-mnist": _fashion_mnist,
            "cifar10": _cifar10,
            "svhn": _svhn,
            "coco": _coco,
        }[settings.dataset]
        photos = source(root, settings)
    if settings.classes:
        photos = _only_classes(photos, settings.classes)
    if settings.positive is not None:
        photos = _one_against_rest(photos, settings.positive)
    elif photos.task == "multiclass" and len(photos.classes) == 2:
        photos = replace(photos, task="binary")
    if photos.task != "multilabel" and len(photos.classes) < 2:
        raise UserError(f"{photos.name} has one class only, {photos.classes[0]}: there is nothing to tell apart")
    return photos


def _elpv(root: Path, settings: Settings) -> Photos:
    folder = root / "elpv"
    if not (folder / "labels.csv").is_file():
        package = importlib.util.find_spec("elpv_dataset")
        if package is None or package.origin is None:
            raise UserError(f"the ELPV photos are not in {folder} nor installed: pip install elpv-dataset")
        folder = Path(package.origin).parent / "data"
    table = folder / "labels.csv"
    try:
        rows = [line.split() for line in table.read_text().splitlines() if line.strip()]
        files, probabilities = [folder / row[0] for row in rows], torch.tensor([float(row[1]) for row in rows])
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{table} cannot be read: {error}") from error
    photos = _from_files("ELPV", files, (probabilities >= 0.5).long(), ["working", "defective"])
    if settings.label_rule == "certain":
        photos = photos.take(torch.nonzero((probabilities == 0) | (probabilities == 1)).flatten())
        rule = "photos that the experts were certain about; defective: probability 1"
    else:
        rule = "all photos; defective: probability of at least 0.5 in the experts' labels (0, 1/3, 2/3 or 1)"
    return replace(photos, lines=[f"labels: {rule}"])


def _image_folder(root: Path) -> Photos:
    if not root.is_dir():
        raise UserError(f"--data must name a folder with one folder of images per class, but {root} is not there")
    parts = [(TRAIN, root / "train"), (VALIDATION, root / "val"), (TEST, root / "test")]
    present = [(part, folder) for part, folder in parts if folder.is_dir()]
    divided = len(present) > 1 and present[0][0] == TRAIN
    if divided and present[-1][0] == VALIDATION:
        present[-1] = (TEST, root / "val")  # the only part beside train is what the result is measured on
    files: list[Path] = []
    labels: list[int] = []
    split: list[int] = []
    classes: list[str] = []
    for part, folder in present if divided else [(TRAIN, root)]:
        try:
            found = torchvision.datasets.ImageFolder(str(folder))
        except (FileNotFoundError, PermissionError) as error:
            raise UserError(
                f"{folder} must hold one folder of images per class: {str(error).splitlines()[0]}"
            ) from error
        classes = classes or found.classes
        if unknown := sorted(set(found.classes) - set(classes)):
            raise UserError(f"{folder} has the class {unknown[0]}, which {root / 'train'} does not have")
        for path, label in found.samples:
            files.append(Path(path))
            labels.append(classes.index(found.classes[label]))
            split.append(part)
    photos = _from_files(str(root), files, torch.tensor(labels), classes)
    return replace(photos, task="multiclass", split=torch.tensor(split) if divided else None)


def _from_files(name: str, files: list[Path], labels: Tensor, classes: list[str]) -> Photos:
    return Photos(name, "binary", classes, labels, lambda i: Image.open(files[i]), lambda i: str(files[i]))


def _mnist(root: Path, settings: Settings) -> Photos:
    if settings.download or (root / "MNIST" / "raw").is_dir():
        return _torchvision_parts("MNIST", torchvision.datasets.MNIST, root, settings, train=(True, False))
    path = mnist.mnist_table(Path(settings.cache))
    images, digits = mnist.read_mnist_table(path)
    name = f"MNIST, {len(digits):,} digits"
    photos = _from_arrays(name, images, torch.from_numpy(digits), [str(i) for i in range(10)])
    return replace(photos, lines=[f"source: {path.name} of the package {mnist.MNIST_PACKAGE}"])


def _fashion_mnist(root: Path, settings: Settings) -> Photos:
    raw = root / "FashionMNIST" / "raw"
    if not raw.is_dir() and not settings.download and mnist.FASHION_FOLDER.is_dir():
        root = Path(settings.cache)
        raw = make_folder(root / "FashionMNIST" / "raw")
        for packed in mnist.FASHION_FOLDER.glob("*-ubyte.gz"):
            target = raw / packed.stem
            if not target.is_file():
                with gzip.open(packed) as source, open(target.with_suffix(".part"), "wb") as copy:
                    shutil.copyfileobj(source, copy)
                os.replace(target.with_suffix(".part"), target)
    return _torchvision_parts("Fashion-MNIST", torchvision.datasets.FashionMNIST, root, settings, train=(True, False))


def _cifar10(root: Path, settings: Settings) -> Photos:
    return _torchvision_parts("CIFAR-10", torchvision.datasets.CIFAR10, root, settings, train=(True, False))


def _svhn(root: Path, settings: Settings) -> Photos:
    return _torchvision_parts("SVHN", torchvision.datasets.SVHN, root, settings, split=("train", "test"))


def _torchvision_parts(name: str, kind: Any, root: Path, settings: Settings, **part: tuple[object, object]) -> Photos:
    """Training and test part of one of torchvision's datasets that hold their images in memory."""
    ((keyword, values),) = part.items()
    images, labels, split = [], [], []
    for number, value in ((TRAIN, values[0]), (TEST, values[1])):
        try:
            found = kind(str(root), download=settings.download, **{keyword: value})
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{name} could not be read from {root} ({reason}): --root names its place") from error
        pixels = np.asarray(found.data)
        images.append(np.moveaxis(pixels, 1, -1) if name == "SVHN" else pixels)
        labels.append(torch.as_tensor(np.asarray(found.labels if name == "SVHN" else found.targets)).long())
        split.append(torch.full((len(pixels),), number))
        classes = [str(i) for i in range(10)] if name == "SVHN" else list(found.classes)
    photos = _from_arrays(name, np.concatenate(images), torch.cat(labels), classes)
    return replace(photos, split=torch.cat(split))


def _from_arrays(name: str, images: np.ndarray, labels: Tensor, classes: list[str]) -> Photos:
    def load(i: int) -> Image.Image:
        return Image.fromarray(images[i])

    return Photos(name, "multiclass", classes, labels, load, lambda i: f"image {i} of {name}")


def _coco(root: Path, settings: Settings) -> Photos:
    """Which of COCO's kinds of thing are in a photo; val2017 is the test part if it is there."""
    files: list[Path] = []
    rows: list[Tensor] = []
    split: list[int] = []
    numbers: dict[int, int] = {}
    classes: list[str] = []
    for part, year in ((TRAIN, "train2017"), (TEST, "val2017")):
        table = root / "annotations" / f"instances_{year}.json"
        if part == TEST and not table.is_file():
            continue
        if not table.is_file():
            raise UserError(f"COCO's annotations are not in {root}: {table} is missing; --root names their place")
        if not (root / year).is_dir():
            raise UserError(f"COCO's photos are not in {root}: the folder {root / year} is missing")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells on stdout how long it took to read
                found = torchvision.datasets.CocoDetection(str(root / year), str(table))
        except ModuleNotFoundError as error:
            raise UserError("reading COCO needs pycocotools: pip install pycocotools") from error
        except (ValueError, KeyError, OSError, TypeError, AssertionError) as error:
            raise UserError(f"{table} is not a file of COCO's annotations: {error}") from error
        coco = found.coco
        if not numbers:
            categories = sorted(coco.loadCats(coco.getCatIds()), key=lambda category: category["id"])
            numbers = {category["id"]: i for i, category in enumerate(categories)}
            classes = [category["name"] for category in categories]
        for image in found.ids:
            row = torch.zeros(len(classes))
            for note in coco.loadAnns(coco.getAnnIds(image)):
                if note["category_id"] not in numbers:
                    raise UserError(
                        f"{table} has an object of the class {note['category_id']}, which it does not define"
                    )
                row[numbers[note["category_id"]]] = 1
            files.append(root / year / coco.loadImgs(image)[0]["file_name"])
            rows.append(row)
            split.append(part)
    if not files:
        raise UserError(f"COCO's annotations in {root} name no photo")
    photos = _from_files("COCO", files, torch.stack(rows), classes)
    part_of = torch.tensor(split)
    return replace(photos, task="multilabel", split=part_of if (part_of == TEST).any() else None)


def _only_classes(photos: Photos, names: Sequence[str]) -> Photos:
    chosen = [_class_number(photos, name, "--classes") for name in dict.fromkeys(names)]
    classes = [photos.classes[i] for i in chosen]
    if photos.task == "multilabel":
        return replace(photos, classes=classes, labels=photos.labels[:, chosen])
    keep = torch.nonzero(torch.isin(photos.labels, torch.tensor(chosen))).flatten()
    number = torch.full((len(photos.classes),), -1)
    number[chosen] = torch.arange(len(chosen))
    return replace(photos.take(keep), classes=classes, labels=number[photos.labels[keep]])


def _one_against_rest(photos: Photos, name: str) -> Photos:
    wanted = _class_number(photos, name, "--positive")
    labels = photos.labels[:, wanted] if photos.task == "multilabel" else photos.labels == wanted
    others = [other for other in photos.classes if other != name]
    rest = others[0] if len(others) == 1 and photos.task != "multilabel" else f"not {name}"
    return replace(photos, task="binary", classes=[rest, name], labels=labels.long())


def _class_number(photos: Photos, name: str, option: str) -> int:
    try:
        return photos.classes.index(known_name("class", photos.classes)(name))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{option}: {error}") from error


# ------------------------------------------------------------------------------------------------ splitting, decoding


def assign(photos: Photos, seed: int) -> Tensor:
    """TRAIN, VALIDATION or TEST for every photo: 60, 15 and 25 in 100, in each class; the dataset's own parts stay."""
    split = torch.full((len(photos),), TRAIN) if photos.split is None else photos.split.clone()
    groups = None if photos.task == "multilabel" else photos.labels.numpy()
    if groups is not None:
        counts = torch.bincount(photos.labels[split == TRAIN], minlength=len(photos.classes))
        if few := [
            f"{name} ({count})" for name, count in zip(photos.classes, counts.tolist(), strict=True) if count < 4
        ]:
            raise UserError(f"every class needs at least 4 training images, but these have less: {', '.join(few)}")
    for part, share in ((TEST, 0.25), (VALIDATION, 0.2)):  # 0.2 of the remaining 75 in 100 are 15
        if (split == part).any():
            continue
        pool = torch.nonzero(split == TRAIN).flatten().numpy()
        classes = 1 if groups is None else len(photos.classes)
        wanted = max(round(share * len(pool)), classes)
        if len(pool) < wanted + classes + 1:
            raise UserError(f"{photos.name} has {len(photos)} images, too few to train and to test on")
        _, chosen = train_test_split(
            pool, test_size=wanted, random_state=seed, stratify=None if groups is None else groups[pool]
        )
        split[torch.from_numpy(chosen)] = part
    return split


def limited(photos: Photos, limit: int, seed: int) -> Photos:
    """At most `limit` photos, in the classes' and the parts' proportions."""
    if limit >= len(photos):
        return photos
    parts = torch.zeros(len(photos), dtype=torch.long) if photos.split is None else photos.split
    groups = parts if photos.task == "multilabel" else parts * len(photos.classes) + photos.labels
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed))
    # Walking through the groups in turns of equal share: photo k of a group of n comes at place k/n.
    rank = torch.empty(len(photos))
    for group in groups.unique():
        mine = order[groups[order] == group]
        rank[mine] = (torch.arange(len(mine)) + 0.5) / len(mine)
    return photos.take(rank.argsort(stable=True)[:limit].sort().values)


class Images:
    """Photos as (3, size, size) bytes: all decoded at once if they fit into memory, else each time one is asked for."""

    def __init__(self, photos: Photos, size: int, library: str) -> None:
        self.photos = photos
        self.size = size
        # The whole image is scaled to a square: cropping could cut off what the label speaks of.
        self.resize = (transforms if library == "handgrad" else v2).Resize([size, size], antialias=True)
        self.pixels: Tensor | None = None

    def read(self, i: int) -> Tensor:
        try:
            with self.photos.load(i) as image:
                picture = v2.functional.pil_to_tensor(image.convert("RGB"))
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, UnidentifiedImageError):
                reason = "it is not an image"
            else:
                reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableImageError(self.photos.describe(i), reason) from error
        return self.resize(picture)

    def __getitem__(self, i: int) -> Tensor:
        return self.read(i) if self.pixels is None else self.pixels[i]


class UnreadableImageError(UserError):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"the image {name} cannot be read ({reason}): repair it, or leave it out with --skip-unreadable"
        )
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:  # a worker process sends it to the main one
        return UserError, self.args


def decode(
    photos: Photos, size: int, library: str, *, skip_unreadable: bool, memory: float, progress: Progress
) -> tuple[Images, list[str]]:
    """Decode all photos, if there is room; returns the images, and the names of those that were left out."""
    images = Images(photos, size, library)
    fits = len(photos) * 3 * size * size <= memory * 2**30
    if not fits and not skip_unreadable:
        return images, []
    pixels = torch.empty((len(photos) if fits else 0, 3, size, size), dtype=torch.uint8)
    keep: list[int] = []
    skipped: list[str] = []
    task = progress.add_task("decode", total=len(photos), loss="")
    for i in range(len(photos)):
        try:
            picture = images.read(i)
        except UnreadableImageError as error:
            if not skip_unreadable:
                raise
            skipped.append(error.name)
        else:
            if fits:
                pixels[len(keep)] = picture
            keep.append(i)
        progress.advance(task)
    progress.remove_task(task)
    if skipped:
        if not keep:
            raise UserError(f"none of the {len(photos)} images can be read, the first being {skipped[0]}")
        images.photos = photos.take(keep)
    if fits:
        images.pixels = pixels[: len(keep)]
    return images, skipped


def fingerprint(photos: Photos, split: Tensor) -> str:
    """Tells whether two runs see the same images in the same parts."""
    digest = hashlib.sha256(repr((photos.task, photos.classes, photos.labels.shape)).encode())
    digest.update(photos.labels.double().numpy().tobytes())
    digest.update(split.long().numpy().tobytes())
    for i in range(len(photos)):
        digest.update(Path(photos.describe(i)).name.encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ feeding


def augmentation(name: str, library: str) -> Any:
    """What may happen to a training image without changing its label: by torchvision's transforms, or by the kernels
    that handgrad makes of them, with the same draws and the same images."""
    composed = _composed(name)
    return transforms.fuse(composed, explain=False) if composed and library == "handgrad" else composed


def _composed(name: str) -> v2.Transform | None:
    if name == "none":
        return None
    if name == "flips":  # a cell has no up and down
        return v2.Compose(
            [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.ColorJitter(brightness=0.2, contrast=0.2)]
        )
    if name == "photo":
        return v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomAffine(degrees=5, translate=(0.08, 0.08), scale=(0.9, 1.1)),
                v2.ColorJitter(brightness=0.2, contrast=0.2),
            ]
        )
    return v2.RandomAffine(degrees=5, translate=(0.06, 0.06))  # digits and clothes: mirrored they are something else


class _Views(torch.utils.data.Dataset[Any]):
    """Answers (number, seed) with an image, changed at random from that seed, and its label.

    As the seed comes with the number, an image's changes depend on the epoch and on nothing else: not on the process
    or worker that prepares it, nor on what was prepared before, so an interrupted epoch can be done again.
    """

    def __init__(self, images: Images, transform: Any) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor] | UnreadableImageError:
        i, seed = key
        try:
            image = self.images[i]
        except UnreadableImageError as error:
            return error  # raised in a worker it would arrive wrapped in a traceback
        if self.transform is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                image = self.transform(image)
        return image, self.images.photos.labels[i]


def _batch(samples: list[Any]) -> Any:
    return next((s for s in samples if isinstance(s, UserError)), None) or default_collate(samples)


def feed(
    images: Images, keys: list[list[tuple[int, int]]], transform: Any, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images (N, 3, size, size), as bytes, and their labels, for batches of (number, seed)."""
    loader = DataLoader(
        _Views(images, transform),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_batch,
        generator=torch.Generator(),  # its own, as it would otherwise draw from the one that dropout uses
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch[0], batch[1]


def seeds(*numbers: int, count: int) -> list[int]:
    """`count` seeds that depend on all of `numbers`."""
    return np.random.SeedSequence(numbers).generate_state(count).tolist()
