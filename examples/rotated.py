"""Train a small detector of rotated things with handgrad's rotated_box_iou_loss and rotated_nms, and measure it.

    python examples/rotated.py                       # pieces of brick, grass and gravel on aerial photos
    python examples/rotated.py --loss iou            # the boxes learn from IoU alone, where they overlap
    python examples/rotated.py --steps 100 --scenes 12

See docs/rotated.md for the scenes, the network and what is measured.
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

try:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from handgrad.boxes import rotated_box_iou
    from rotation import data, models, report
    from shared import detections
    from shared.files import UserError, default_cache, make_folder, write_whole
    from shared.options import Parser, add_option, exit_status, known_name, number
    from shared.reports import results_table
    from shared.weights import write_state
except ModuleNotFoundError as missing:
    print(f'rotated: {missing.name} is not installed: pip install "handgrad[examples]"', file=sys.stderr)
    sys.exit(2)
except ImportError as broken:
    print(f"rotated: {broken}", file=sys.stderr)
    sys.exit(2)

# Scenes to measure on have seeds of their own.
_TEST_SEED = 1_000_000


@dataclass
class Settings:
    weights: str = "package"
    loss: str = "giou"
    size: int = 256
    steps: int = 300
    batch: int = 4
    scenes: int = 20
    lr: float = 0.002
    threshold: float = 0.4
    seed: int = 0
    out: str = "runs/rotated"
    cache: str = field(default_factory=lambda: str(default_cache()))


def read_settings(arguments: Sequence[str] | None) -> Settings:
    defaults = Settings()
    parser = Parser(prog="rotated.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = functools.partial(add_option, parser, defaults)
    add("weights", "package (ImageNet) or none", known_name("weights", ("package", "none")))
    add("loss", "of the boxes", known_name("loss", ("iou", "giou")))
    add("size", "side of a scene in pixels", number(int, 64, 2048))
    add("steps", "steps of training", number(int, 1, 10**6))
    add("batch", "scenes per step", number(int, 1, 1024))
    add("scenes", "scenes to measure on", number(int, 1, 10**5))
    add("lr", "largest learning rate", number(float, 0, 100, False))
    add("threshold", "score from which a detection is drawn and counted", number(float, 0, 1))
    add("seed", "of all random numbers", number(int, 0, 2**31 - 1))
    add("out", "folder that everything is written to")
    add("cache", "where files taken out of packages are kept")
    return Settings(**vars(parser.parse_args(arguments)))


def train(
    model: models.Detector, materials: data.Materials, settings: Settings, console: Console
) -> dict[str, list[float]]:
    """Trains ``model`` and returns both losses of each step."""
    models.train_mode(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=settings.steps + 1, pct_start=0.1
    )
    scenes = data.scenes(materials, settings.steps * settings.batch, settings.size, settings.seed)
    points = models.positions(*(-(-settings.size // models.STRIDE),) * 2)
    history: dict[str, list[float]] = {"classes": [], "boxes": []}
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("training", total=settings.steps, state="")
        started = time.perf_counter()
        for step in range(settings.steps):
            some = [next(scenes) for _ in range(settings.batch)]
            answer = model(torch.stack([scene.pixels for scene in some]))
            values = models.losses(answer, [(scene.boxes, scene.labels) for scene in some], points, settings.loss)
            loss = values["classes"] + values["boxes"]
            if not torch.isfinite(loss):
                raise UserError(f"the loss is {loss.item()} in step {step + 1}: try a smaller --lr")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            schedule.step()
            for name, value in values.items():
                history[name].append(value.item())
            rate = (step + 1) * settings.batch / (time.perf_counter() - started)
            state = ", ".join(f"{name} {statistics.mean(some[-20:]):.3f}" for name, some in history.items())
            progress.update(task, advance=1, state=f"{state}, {rate:.1f} scenes/s")
    return history


def run(settings: Settings, console: Console) -> None:
    folder = make_folder(Path(settings.out))
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    to_train, to_test = data.open_materials(Path(settings.cache))
    model, weights = models.build(len(data.CLASSES), settings.weights, Path(settings.cache), settings.seed)
    say(f"weights: {weights}")
    started = time.perf_counter()
    history = train(model, to_train, settings, console)
    seconds = time.perf_counter() - started
    ends = "; ".join(
        f"{name} {statistics.mean(some[:20]):.3f} at first, {statistics.mean(some[-20:]):.3f} at last"
        for name, some in history.items()
    )
    say(f"training took {seconds:.0f} s; loss of the {ends}")

    measured = {}
    for name, materials in (("training materials", to_train), ("test materials", to_test)):
        scenes = list(data.scenes(materials, settings.scenes, settings.size, _TEST_SEED))
        answers = [models.detect(model, scene.pixels[None])[0] for scene in scenes]
        measured[name], matches = detections.measure(
            scenes, answers, len(data.CLASSES), settings.threshold, rotated_box_iou
        )
    say(f"measured on {settings.scenes} scenes of each; {sum(len(scene.boxes) for scene in scenes)} things in the last")
    report.draw(scenes[:6], matches[:6], folder / "scenes.png")
    write_state(model.state_dict(), folder / "detector.pt")
    results = {
        "classes": data.CLASSES,
        "measured": measured,
        "losses": history,
        "training_seconds": seconds,
        "threads": torch.get_num_threads(),
        "settings": asdict(settings),
        "versions": {"torch": torch.__version__},
    }
    write_whole(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    title = f"{', '.join(data.CLASSES)}; IoU of rotated boxes; precision and recall at {settings.threshold:g}"
    console.print(results_table(title, measured))
    say(f"\nwritten to {folder}: detector.pt, results.json, scenes.png")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_status("rotated", lambda: run(read_settings(arguments), Console()))


if __name__ == "__main__":
    sys.exit(main())
