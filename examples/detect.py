"""Train a small detector whose roi_align and nms, or whose attention, are handgrad's, and measure what it finds.

    python examples/detect.py                       # trees on aerial photos
    python examples/detect.py --data my/photos      # photos with a Pascal VOC .xml file of boxes beside each
    python examples/detect.py --ops torchvision     # the same detector with torchvision's own ops
    python examples/detect.py --head deformable-detr  # attention to the maps in place of boxes to cut out of them

See docs/detect.md for the data, the network and what is measured.
"""

from __future__ import annotations

import copy
import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

try:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from torch import Tensor, nn

    from detection import data, models, report
    from handgrad import transfer
    from handgrad.boxes import box_iou
    from shared import detections
    from shared.files import UserError, default_cache, make_folder, write_whole
    from shared.options import Parser, add_option, exit_status, known_name, number
    from shared.reports import results_table
    from shared.weights import write_state
except ModuleNotFoundError as missing:
    print(f'detect: {missing.name} is not installed: pip install "handgrad[examples]"', file=sys.stderr)
    sys.exit(2)
except ImportError as broken:
    print(f"detect: {broken}", file=sys.stderr)
    sys.exit(2)


@dataclass
class Settings:
    data: str | None = None
    test: list[str] = field(default_factory=list)
    weights: str = "package"
    head: str = "faster-rcnn"
    ops: str = "handgrad"
    size: int = 320
    steps: int = 700
    batch: int = 4
    lr: float | None = None
    threshold: float | None = None
    seed: int = 0
    out: str = "runs/detect"
    cache: str = field(default_factory=lambda: str(default_cache()))


def read_settings(arguments: Sequence[str] | None) -> Settings:
    defaults = Settings()
    parser = Parser(prog="detect.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = functools.partial(add_option, parser, defaults)
    add("data", "a folder of photos with a Pascal VOC .xml file beside each (default: trees, from a package)")
    add("test", "a photo to keep from training and measure on, by its name without suffix; may be repeated", many=True)
    add("weights", "package (ImageNet) or none", known_name("weights", ("package", "none")))
    add("head", "what makes boxes of the maps", known_name("head", models.HEADS))
    add(
        "ops", "whose roi_align and nms faster-rcnn is trained with", known_name("library", ("handgrad", "torchvision"))
    )
    add("size", "side of the squares that the detector sees, in pixels", number(int, 64, 2048))
    add("steps", "steps of training", number(int, 1, 10**6))
    add("batch", "squares per step", number(int, 1, 1024))
    add(
        "lr",
        "largest learning rate (default: 0.02, by SGD; of deformable-detr 0.001, by AdamW)",
        number(float, 0, 100, False),
    )
    add(
        "threshold",
        "score from which a detection is drawn and counted (default: 0.5; of deformable-detr 0.3)",
        number(float, 0, 1),
    )
    add("seed", "of all random numbers", number(int, 0, 2**31 - 1))
    add("out", "folder that everything is written to")
    add("cache", "where files taken out of packages are kept")
    settings = Settings(**vars(parser.parse_args(arguments)))
    lr, threshold = models.HEADS[settings.head]
    return replace(
        settings,
        lr=lr if settings.lr is None else settings.lr,
        threshold=threshold if settings.threshold is None else settings.threshold,
    )


def train(model: nn.Module, photos: list[data.Photo], settings: Settings, console: Console) -> list[float]:
    """Trains ``model`` and returns the loss of each step."""
    assert settings.lr is not None  # read_settings has filled it in
    models.train_mode(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if settings.head == "deformable-detr":
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=1e-4)
    else:
        optimizer = torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=settings.steps + 1, pct_start=0.1
    )
    views = data.training_views(photos, settings.steps * settings.batch, settings.size, settings.seed)
    losses: list[float] = []
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("training", total=settings.steps, state="")
        started = time.perf_counter()
        for step in range(settings.steps):
            images, targets = zip(*(next(views) for _ in range(settings.batch)), strict=True)
            torch.manual_seed(settings.seed + step)  # which proposals are learnt from is drawn
            loss = sum(model(list(images), list(targets)).values(), start=torch.zeros(()))
            if not torch.isfinite(loss):
                raise UserError(f"the loss is {loss.item()} in step {step + 1}: try a smaller --lr")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            rate = (step + 1) * settings.batch / (time.perf_counter() - started)
            state = f"loss {statistics.mean(losses[-20:]):.3f}, {rate:.1f} views/s"
            progress.update(task, advance=1, state=state)
    return losses


def compare_ops(model: nn.Module, photos: data.Photos, settings: Settings) -> dict[str, Any]:
    """The trained detector with both libraries' ops: whether they detect the same, and the time of a training step."""
    theirs, ours = (copy.deepcopy(model) for _ in range(2))
    transfer.replace_functions(theirs, {new: old for old, new in models.OURS.items()})
    transfer.replace_functions(ours, models.OURS)
    views = models.views_of(photos.test, settings.size, 4)
    answers = []
    for detector in (theirs, ours):
        detector.eval()
        with torch.no_grad():
            answers.append(detector(views))
    count = sum(len(answer["boxes"]) for answer in answers[0])
    same = all(
        len(a["boxes"]) == len(b["boxes"]) and torch.allclose(a["boxes"], b["boxes"], atol=1e-2)
        for a, b in zip(*answers, strict=True)
    )
    images, targets = zip(
        *data.training_views(photos.train, settings.batch, settings.size, settings.seed + 1), strict=True
    )
    seconds: dict[str, list[float]] = {"torchvision": [], "handgrad": []}
    for _ in range(6):
        for name, detector in (("torchvision", theirs), ("handgrad", ours)):
            seconds[name].append(_step(detector, list(images), list(targets), settings.seed))
    # The first of each warms up.
    return {
        "detections": count,
        "same": same,
        "step_seconds": {k: statistics.median(v[1:]) for k, v in seconds.items()},
    }


def _step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]], seed: int) -> float:
    models.train_mode(model)
    torch.manual_seed(seed)
    started = time.perf_counter()
    sum(model(images, targets).values(), start=torch.zeros(())).backward()
    model.zero_grad()
    return time.perf_counter() - started


def run(settings: Settings, console: Console) -> None:
    assert settings.threshold is not None
    folder = make_folder(Path(settings.out))
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    photos = data.open_photos(Path(settings.data) if settings.data else None, settings.test, Path(settings.cache))
    for part, some in (("train on", photos.train), ("measure on", photos.test)):
        boxes = sum(len(photo.boxes) for photo in some)
        say(f"{part}: {len(some)} photos with {boxes} boxes ({', '.join(photo.name for photo in some)})")
    model, weights = models.build(
        settings.head, len(photos.classes), settings.size, settings.weights, Path(settings.cache), settings.seed
    )
    say(f"weights: {weights}")
    if settings.head == "faster-rcnn" and settings.ops == "handgrad":
        say(transfer.replace_functions(model, models.OURS))

    started = time.perf_counter()
    losses = train(model, photos.train, settings, console)
    seconds = time.perf_counter() - started
    first, last = statistics.mean(losses[:20]), statistics.mean(losses[-20:])
    say(f"training took {seconds:.0f} s; loss {first:.3f} at first, {last:.3f} at last")

    measured, matches = {}, {}
    for name, some in (("training photos", photos.train), ("test photos", photos.test)):
        answers = [models.detect(model, photo, settings.size) for photo in some]
        measured[name], matches[name] = detections.measure(
            some, answers, len(photos.classes), settings.threshold, box_iou
        )
    files = ["results.json", "detector.pt"]
    for photo, matched in zip(photos.test, matches["test photos"], strict=True):
        files.append(f"{photo.name}.png")
        report.draw(photo, matched, folder / files[-1])
    compared = compare_ops(model, photos, settings) if settings.head == "faster-rcnn" else None
    write_state(model.state_dict(), folder / "detector.pt")
    results = {
        "classes": photos.classes,
        "measured": measured,
        "losses": losses,
        "training_seconds": seconds,
        "ops": compared,
        "threads": torch.get_num_threads(),
        "settings": asdict(settings),
        "versions": {"torch": torch.__version__},
    }
    write_whole(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    console.print(
        results_table(f"{', '.join(photos.classes)}; precision and recall at {settings.threshold:g}", measured)
    )
    if compared:
        verdict = "the same" if compared["same"] else "NOT the same"
        say(f"torchvision's ops and handgrad's give {verdict} {compared['detections']} detections on four views")
        times = ", ".join(f"{seconds:.2f} s with {name}'s" for name, seconds in compared["step_seconds"].items())
        say(f"a training step takes {times}")
    say(f"\nwritten to {folder}: {', '.join(sorted(files))}")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status("detect", lambda: run(read_settings(arguments), Console()))


if __name__ == "__main__":
    sys.exit(main())
