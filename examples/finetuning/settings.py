"""Command line and settings of examples/finetune.py."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.files import UserError, default_cache
from shared.options import Parser, known_name, number

DATASETS = ("elpv", "mnist", "fashion-mnist", "cifar10", "svhn", "coco")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
LOSSES = ("focal", "bce")
AUGMENTATIONS = ("auto", "flips", "photo", "shift", "none")
TRANSFORMS = ("handgrad", "torchvision")
BATCHNORMS = ("auto", "frozen", "batch", "sync")


# Options that may differ when a run is resumed: they say where things are and how they are done, not what comes out.
_FREE = {
    "root",
    "download",
    "export",
    "out",
    "resume",
    "overwrite",
    "cache",
    "device",
    "workers",
    "memory",
    "transforms",
}


@dataclass
class Settings:
    """One field per option; `numbers` are those that decide the result, which a resumed run must not change."""

    dataset: str = "elpv"
    data: str | None = None
    root: str = "data"
    download: bool = False
    label_rule: str = "all"
    classes: tuple[str, ...] = ()
    positive: str | None = None
    limit: int | None = None
    skip_unreadable: bool = False
    size: int | None = None
    augment: str = "auto"
    transforms: str = "handgrad"

    model: str = "mobilenet_v2"
    weights: str | None = None
    freeze_until: str | None = None
    batchnorm: str = "auto"

    losses: tuple[str, ...] = LOSSES
    alpha: float = 0.5
    gamma: float = 2.0
    optimizer: str = "adamw"
    lr: float | None = None
    body_lr: float | None = None
    weight_decay: float | None = None
    epochs: int = 5
    batch: int = 32
    amp: bool = False
    seed: int = 0
    probes: bool = True
    export: bool = True

    out: str | None = None
    resume: bool = False
    overwrite: bool = False
    cache: str = dataclasses.field(default_factory=lambda: str(default_cache()))
    device: str = "auto"
    workers: int = 0
    memory: float = 2.0

    def numbers(self) -> dict[str, Any]:
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in _FREE}
        return json.loads(json.dumps(values))

    @property
    def folder(self) -> Path:
        name = Path(self.data).resolve().name if self.data else self.dataset
        return Path(self.out) if self.out else Path("runs") / f"{name}-{self.model}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def build_parser() -> argparse.ArgumentParser:
    from .models import model_names

    many = float("inf")
    parser = Parser(
        prog="finetune.py",
        description="Fine-tune a torchvision classifier with handgrad's focal loss, compare it with plain BCE, a "
        "linear probe and simpler baselines, and write a table, figures and a checked ONNX file.",
        # An option that was not given must be told from one given with the default's value, for --resume.
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("data").add_argument
    add("--dataset", type=known_name("dataset", DATASETS), help=f"{', '.join(DATASETS)} (default: elpv)")
    add("--data", metavar="FOLDER", help="a folder of images, one folder per class, instead of --dataset")
    add("--root", metavar="FOLDER", help="where the dataset's files are (default: data)")
    add("--download", action="store_true", help="let torchvision download the dataset to --root")
    add(
        "--label-rule",
        type=known_name("label rule", ("all", "certain")),
        help="elpv: keep all photos, or certain labels",
    )
    add("--classes", type=_names, metavar="A,B,...", help="use only these classes")
    add("--positive", metavar="CLASS", help="find this class among all others, with one logit")
    add("--limit", type=number(int, 1, many), help="use at most so many photos, drawn evenly from the classes")
    add("--skip-unreadable", action="store_true", help="leave out images that cannot be read, and count them")
    add("--size", type=number(int, 8, 4096), help="side of the square that images are scaled to")
    add("--augment", type=known_name("augmentation", AUGMENTATIONS), help=f"{', '.join(AUGMENTATIONS)}")
    add(
        "--transforms",
        type=known_name("library", TRANSFORMS),
        help="whose make the images, which are the same: handgrad (default) or torchvision",
    )

    add = parser.add_argument_group("network").add_argument
    add("--model", type=known_name("model", model_names()), help="a torchvision classifier (default: mobilenet_v2)")
    add("--weights", metavar="SOURCE", help="package, torchvision, none, or a file with a state dict")
    add("--freeze-until", metavar="LAYER", help="train from this layer on; 'none' trains all, 'head' only the head")
    add("--batchnorm", type=known_name("mode", BATCHNORMS), help="statistics: frozen, batch or sync (default: auto)")

    add = parser.add_argument_group("training").add_argument
    add("--losses", type=_losses, metavar="A,B", help="focal, bce, or both, the first one being exported")
    add("--alpha", type=number(float, -1, 1), help="focal loss: weight of the positives, -1 for none (default: 0.5)")
    add("--gamma", type=number(float, 0, many), help="focal loss: how much easy examples count less (default: 2)")
    add("--optimizer", type=known_name("optimizer", OPTIMIZERS), help=f"{', '.join(OPTIMIZERS)} (default: adamw)")
    add("--lr", type=number(float, 0, many, False), help="largest learning rate of the head")
    add("--body-lr", type=number(float, 0, many, False), help="largest learning rate of the other layers")
    add("--weight-decay", type=number(float, 0, many))
    add("--epochs", type=number(int, 1, many), help="default: 5")
    add("--batch", type=number(int, 2, many), help="images per step, over all processes (default: 32)")
    add("--amp", action="store_true", help="train in bfloat16 where it is safe")
    add("--seed", type=number(int, 0, 2**31 - 1))
    add("--no-probes", dest="probes", action="store_false", help="leave out the linear and the raw-pixel probe")
    add("--no-export", dest="export", action="store_false", help="write no ONNX file")

    add = parser.add_argument_group("run").add_argument
    add("--out", metavar="FOLDER", help="where everything is written (default: runs/<data>-<model>)")
    add("--resume", action="store_true", help="go on after the last finished epoch of the run in --out")
    add("--overwrite", action="store_true", help="start again although --out holds an unfinished run")
    add("--cache", metavar="FOLDER", help="where files taken out of packages are kept")
    add("--device", help="cpu, cuda or auto")
    add("--workers", type=number(int, 0, 256), help="processes that prepare images (default: 0, none beside this one)")
    add("--memory", type=number(float, 0, many), metavar="GiB", help="decode once if it fits in so much (default: 2)")
    return parser


def _losses(text: str) -> tuple[str, ...]:
    names = _names(text)
    for name in names:
        known_name("loss", LOSSES)(name)
    if not names or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"expected focal, bce or both, got {text!r}")
    return names


def read_settings(arguments: Sequence[str] | None) -> Settings:
    """The settings of this call; with --resume, those of the run that goes on."""
    given = vars(build_parser().parse_args(arguments))
    if given.get("data") and given.get("dataset"):
        raise UserError("--data and --dataset each name the images to use: give one of them")
    if given.get("resume") and given.get("overwrite"):
        raise UserError("--resume goes on with a run and --overwrite starts it again: give one of them")
    settings = Settings(**given)
    stored = settings.folder / "settings.json"
    if not settings.resume or not stored.is_file():
        return settings
    try:
        before = json.loads(stored.read_text())
        before = {name: tuple(value) if isinstance(value, list) else value for name, value in before.items()}
        for flag in ("resume", "overwrite"):
            before.pop(flag, None)
        Settings(**before)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{stored} cannot be read, so the run cannot be resumed: {error}") from error
    for name, value in before.items():
        if name in given and given[name] != value and name not in _FREE:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} is {given[name]!r} but the run in {settings.folder} was started with {value!r}")
    return Settings(**{**before, **given})
