"""Train a small U-Net with handgrad's overlap losses, count the nuclei that it finds, and compare losses.

    python examples/segment.py                       # nuclei under a microscope
    python examples/segment.py --data my/images      # images/NAME.tif, masks/NAME.tif
    python examples/segment.py --loss focal_tversky+cross_entropy --compare none

See docs/segment.md for the data, the network and what is measured.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

try:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from segmentation import data, evaluation, losses, models, report
    from shared.files import UserError, default_cache, make_folder, write_whole
    from shared.options import Parser, add_option, exit_status, number
    from shared.reports import comparison_table, results_table, verdict
    from shared.weights import write_state
except ModuleNotFoundError as missing:
    print(f'segment: {missing.name} is not installed: pip install "handgrad[examples]"', file=sys.stderr)
    sys.exit(2)
except ImportError as broken:
    print(f"segment: {broken}", file=sys.stderr)
    sys.exit(2)

# IoU orders losses as Dice does.
COMPARED = ("Dice", "F1")


@dataclass
class Settings:
    data: str | None = None
    test: list[str] = field(default_factory=list)
    loss: str = "dice+cross_entropy"
    compare: str | list[str] = "dice,cross_entropy"
    repeats: int = 3
    size: int = 128
    steps: int = 200
    batch: int = 4
    width: int = 8
    lr: float = 0.01
    seed: int = 0
    out: str = "runs/segment"
    cache: str = field(default_factory=lambda: str(default_cache()))


def read_settings(arguments: Sequence[str] | None) -> Settings:
    defaults = Settings()
    parser = Parser(prog="segment.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = functools.partial(add_option, parser, defaults)
    add("data", "a folder with the folders images and masks, files of the same names (default: nuclei, from a package)")
    add("test", "an image to keep from training and measure on, by its name without suffix; may be repeated", many=True)
    add("loss", f"{', '.join(losses.LOSSES)}, or several, joined by +", losses.loss_name)
    add("compare", "losses to train as well, with commas between, or none", losses.loss_names)
    add("repeats", "runs of each loss that is compared, with a seed each", number(int, 1, 100))
    add("size", "side of the squares that are trained on, in pixels", number(int, 16, 2048))
    add("steps", "steps of training", number(int, 1, 10**6))
    add("batch", "squares per step", number(int, 1, 1024))
    add("width", "channels of the network at full resolution", number(int, 1, 1024))
    add("lr", "largest learning rate", number(float, 0, 100, False))
    add("seed", "of all random numbers", number(int, 0, 2**31 - 1))
    add("out", "folder that everything is written to")
    add("cache", "where files taken out of packages are kept")
    return Settings(**vars(parser.parse_args(arguments)))


@dataclass(frozen=True)
class Run:
    """One training, and what came of it."""

    model: models.UNet
    losses: list[float]
    seconds: float
    matches: dict[str, list[evaluation.Matched]]
    measured: dict[str, dict[str, float]]


def train(model: models.UNet, pictures: data.Pictures, loss: str, seed: int, settings: Settings, task: Any) -> Run:
    """Trains ``model`` with a loss and measures it; ``task`` is told of each step."""
    formula = losses.of_name(loss)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=settings.steps + 1, pct_start=0.1
    )
    views = data.training_views(pictures.train, settings.steps * settings.batch, settings.size, seed)
    model.train()
    history: list[float] = []
    started = time.perf_counter()
    for step in range(settings.steps):
        images, classes = (
            torch.stack(part) for part in zip(*(next(views) for _ in range(settings.batch)), strict=True)
        )
        value = formula(model(images), classes)
        if not torch.isfinite(value):
            raise UserError(f"the loss is {value.item()} in step {step + 1}: try a smaller --lr")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        history.append(value.item())
        rate = (step + 1) * settings.batch / (time.perf_counter() - started)
        task(f"{loss}: loss {statistics.mean(history[-20:]):.3f}, {rate:.0f} views/s")
    seconds = time.perf_counter() - started

    matches, measured = {}, {}
    for name, some in (("training", pictures.train), ("test", pictures.test)):
        found = [models.classify(model, picture) for picture in some]
        matches[name] = [
            evaluation.match(p, evaluation.nuclei_of(classes)) for p, classes in zip(some, found, strict=True)
        ]
        measured[name] = evaluation.measure(some, found, matches[name])
    return Run(model, history, seconds, matches, measured)


def train_all(pictures: data.Pictures, settings: Settings, console: Console) -> dict[str, list[Run]]:
    """Runs of the loss, and of those that it is compared with; the first is of the loss that was chosen."""
    names = list(dict.fromkeys([settings.loss, *settings.compare]))
    repeats = settings.repeats if len(names) > 1 else 1
    runs: dict[str, list[Run]] = {name: [] for name in names}
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        total = settings.steps * len(names) * repeats
        bar = progress.add_task("training", total=total, state="")
        for seed in range(settings.seed, settings.seed + repeats):
            for name in names:
                model = models.build(settings.width, seed)
                runs[name].append(
                    train(
                        model,
                        pictures,
                        name,
                        seed,
                        settings,
                        lambda state: progress.update(bar, advance=1, state=state),
                    )
                )
    return runs


def run(settings: Settings, console: Console) -> None:
    folder = make_folder(Path(settings.out))
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    gap = models.build(settings.width, settings.seed).reach
    pictures = data.open_pictures(
        Path(settings.data) if settings.data else None, settings.test, gap, Path(settings.cache)
    )
    for part, some in (("train on", pictures.train), ("measure on", pictures.test)):
        sizes = ", ".join(f"{p.name}, {p.pixels.shape[1]}x{p.pixels.shape[0]}" for p in some)
        say(f"{part}: {sum(data.count(p.nuclei) for p in some)} nuclei ({sizes})")

    runs = train_all(pictures, settings, console)
    first = runs[settings.loss][0]
    began, ended = statistics.mean(first.losses[:20]), statistics.mean(first.losses[-20:])
    say(f"training took {first.seconds:.0f} s; {settings.loss} {began:.3f} at first, {ended:.3f} at last")

    files = ["results.json", "unet.pt"]
    for picture, matched in zip(pictures.test, first.matches["test"], strict=True):
        files.append(f"{picture.name}.png")
        report.draw(picture, matched, folder / files[-1])
    write_state(first.model.state_dict(), folder / "unet.pt")
    compared = {name: [one.measured["test"] for one in some] for name, some in runs.items()}
    results = {
        "measured": first.measured,
        "compared": compared,
        "losses": first.losses,
        "training_seconds": {name: [one.seconds for one in some] for name, some in runs.items()},
        "threads": torch.get_num_threads(),
        "settings": asdict(settings),
        "versions": {"torch": torch.__version__},
    }
    write_whole(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    console.print(results_table(f"{settings.loss}; nuclei count as found at an IoU above 0.5", first.measured))
    if len(runs) > 1:
        title = (
            f"on the test part, {settings.steps} steps each; mean of {len(compared[settings.loss])} (least to largest)"
        )
        console.print(comparison_table(title, compared, COMPARED))
        for column in COMPARED:
            say(verdict(compared, column))
    say(f"\nwritten to {folder}: {', '.join(sorted(files))}")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status("segment", lambda: run(read_settings(arguments), Console()))


if __name__ == "__main__":
    sys.exit(main())
