"""Fine-tune a torchvision classifier with handgrad's focal loss, and measure what it is worth.

    python examples/finetune.py                          # solar cells: find the defective ones
    python examples/finetune.py --data my/photos         # any folder with one folder of images per class
    torchrun --nproc-per-node 2 examples/finetune.py     # two processes
    python examples/finetune.py --resume                 # go on after an interruption

See docs/finetune.md for the data, the rules of comparison and every option.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime
    import torch
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    import handgrad.onnx
    from finetuning import data, evaluation, models, report, training
    from finetuning.settings import Settings, read_settings
    from shared.files import UserError, cannot_write, make_folder, write_whole
except ModuleNotFoundError as missing:
    print(f'finetune: {missing.name} is not installed: pip install "handgrad[examples]"', file=sys.stderr)
    sys.exit(2)
except ImportError as broken:
    print(f"finetune: {broken}", file=sys.stderr)
    sys.exit(2)

ONNX_TOLERANCE = 1e-4  # largest difference that may lie between the network and its exported form


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} images/s" if task.speed else "")


def fine_tune(settings: Settings, processes: training.Processes, console: Console) -> dict[str, Any]:
    started = time.perf_counter()
    folder = make_folder(settings.folder)
    refuse_unfinished(folder, settings)
    processes.wait()  # none must find the files that the first one makes
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with progress:
        run, skipped = prepare(settings, folder, processes, console, progress)
        photos = run.images.photos
        parts = {"train": run.of(data.TRAIN), "validation": run.of(data.VALIDATION), "test": run.of(data.TEST)}
        labels = {part: photos.labels[rows].long().numpy() for part, rows in parts.items()}
        targets = {part: photos.targets(photos.labels[rows]).numpy() for part, rows in parts.items()}
        if processes.first and not settings.resume:
            for old in (*folder.glob("checkpoint-*.pt"), folder / "results.json"):
                old.unlink(missing_ok=True)
        if processes.first:
            write_whole(folder / "settings.json", (json.dumps(asdict(settings), indent=2) + "\n").encode())
        processes.wait()

        methods = [evaluation.majority(photos.task, targets["train"], len(parts["validation"]), len(parts["test"]))]
        trained: dict[str, training.Trained] = {}
        exported: models.Network | None = None
        for number, loss in enumerate(settings.losses):
            network, lines = new_network(run)
            if number == 0:
                for line in lines:
                    console.print(line, highlight=False, soft_wrap=True)
                if settings.probes:
                    methods += probes(network, run, parts, targets)
            trained[loss] = training.train(network, loss, run)
            scores = {
                part: training.apply(network, run, parts[part], f"{loss}: {part} images").numpy()
                for part in ("validation", "test")
            }
            methods.append(
                evaluation.Method(f"fine-tuned, {report.LOSS_NAMES[loss]}", scores["validation"], scores["test"])
            )
            exported = exported or network
        assert exported is not None
        if not processes.first:
            return {}

        measured, cuts = {}, {}
        for method in methods:
            cuts[method.name] = evaluation.thresholds(targets["validation"], method.validation)
            if method.name == "majority class":
                cuts[method.name] = np.zeros(photos.outputs)  # its scores are all alike, so no cut parts them
            measured[method.name] = evaluation.measure(
                photos.task, labels["test"], targets["test"], method.test, cuts[method.name]
            )
        first = f"fine-tuned, {report.LOSS_NAMES[settings.losses[0]]}"
        best = next(method for method in methods if method.name == first)
        files = ["results.json", "curves.png"]
        report.draw_curves({loss: t.history for loss, t in trained.items()}, folder / "curves.png")
        if photos.task == "multilabel":
            files.append("precisions.png")
            values = {
                name: evaluation.mean_average_precision(targets["test"][:, [k]], best.test[:, [k]])
                for k, name in enumerate(photos.classes)
                if targets["test"][:, k].any()
            }
            report.draw_precisions(values, f"{photos.name}, {first}", folder / "precisions.png")
        else:
            files.append("confusion.png")
            decided = evaluation.decide(photos.task, best.test, cuts[first])
            report.draw_confusion(
                labels["test"], decided, photos.classes, f"{photos.name}: {first}", folder / "confusion.png"
            )
        difference = None
        if settings.export:
            files.append("model.onnx")
            difference = export(exported, run, parts["test"], folder / "model.onnx")

    seconds, preparing = (sum(getattr(t, what) for t in trained.values()) for what in ("seconds", "preparing"))
    results = {
        "data": photos.name,
        "task": photos.task,
        "classes": photos.classes,
        "images": {part: len(rows) for part, rows in parts.items()},
        "skipped": skipped,
        "methods": measured,
        "thresholds": {} if photos.task == "multiclass" else {n: c.tolist() for n, c in cuts.items() if n in measured},
        "history": {loss: t.history for loss, t in trained.items()},
        "onnx_largest_difference": difference,
        "training_seconds": {loss: t.seconds for loss, t in trained.items()},
        "preparing_seconds": {loss: t.preparing for loss, t in trained.items()},
        "seconds": time.perf_counter() - started,
        "processes": processes.count,
        "threads": torch.get_num_threads(),
        "settings": settings.numbers(),
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
    }
    report.write_results(folder / "results.json", results)
    console.print(report.results_table(measured, f"{photos.name}: {len(parts['test'])} test images"))
    said = f"training took {seconds:.0f} s, of which {preparing:.1f} s prepared images with {settings.transforms}"
    if difference is not None:
        said += f"; torch and onnxruntime differ by at most {difference:.1e} over the logits of the test images"
    console.print(said, highlight=False, soft_wrap=True)
    report.say_files(console, folder, sorted(files))
    return results


def refuse_unfinished(folder: Path, settings: Settings) -> None:
    begun = any(folder.glob("checkpoint-*.pt")) and not (folder / "results.json").is_file()
    if begun and not (settings.resume or settings.overwrite):
        raise UserError(f"{folder} holds an unfinished run: --resume goes on with it, --overwrite starts it again")


def prepare(
    settings: Settings, folder: Path, processes: training.Processes, console: Console, progress: Progress
) -> tuple[training.Run, list[str]]:
    """Read and split the images, and show what they are."""
    photos = data.open_photos(settings)
    if settings.limit is not None:
        photos = data.limited(photos, settings.limit, settings.seed)
    size = settings.size or (data.DEFAULT_SIZE[settings.dataset] if settings.data is None else 160)
    images, skipped = data.decode(
        photos,
        size,
        settings.transforms,
        skip_unreadable=settings.skip_unreadable,
        memory=settings.memory,
        progress=progress,
    )
    photos = images.photos
    split = data.assign(photos, settings.seed)
    augment = settings.augment
    if augment == "auto":
        augment = data.DEFAULT_AUGMENT[settings.dataset] if settings.data is None else "photo"
    run = training.Run(
        settings, folder, images, split, data.fingerprint(photos, split), augment, "", processes, console, progress
    )
    counts = [len(run.of(part)) for part in (data.TRAIN, data.VALIDATION, data.TEST)]
    console.print(
        f"{photos.name}: {len(photos):,} images, {photos.task}, {size} x {size} pixels; "
        f"{counts[0]:,} to train, {counts[1]:,} to validate, {counts[2]:,} to test",
        highlight=False,
        soft_wrap=True,
    )
    if photos.task == "binary":
        share = photos.labels.float().mean().item()
        console.print(
            f"classes: {photos.classes[0]}, and {share:.1%} {photos.classes[1]}", highlight=False, soft_wrap=True
        )
    for line in photos.lines:
        console.print(line, highlight=False, soft_wrap=True)
    if skipped:
        console.print(
            f"left out {len(skipped)} unreadable images, the first being {skipped[0]}", highlight=False, soft_wrap=True
        )
    return run, skipped


def new_network(run: training.Run) -> tuple[models.Network, list[str]]:
    """The same untrained network at every call, so that losses are compared from the same start."""
    settings = run.settings
    if not run.processes.first:
        run.processes.wait()  # until the first process has the weights in the cache, for all to take
    built = models.build(
        settings.model,
        run.images.photos.outputs,
        run.images.size,
        weights=settings.weights,
        freeze_until=settings.freeze_until,
        cache=Path(settings.cache),
        seed=settings.seed,
    )
    if run.processes.first:
        run.processes.wait()
    network, run.batchnorm = models.set_batchnorm(
        built.network, settings.batchnorm, run.processes.count, run.processes.device
    )
    return network.to(run.processes.device), built.lines


def probes(
    network: models.Network, run: training.Run, parts: dict[str, torch.Tensor], targets: dict[str, Any]
) -> list[evaluation.Method]:
    """What a linear classifier makes of the raw pixels, and of the features before any fine-tuning."""
    network.eval()
    seed = run.settings.seed
    small = {part: training.apply(raw_pixels, run, rows).numpy() for part, rows in parts.items()}
    features = {
        part: training.apply(network.features, run, rows, f"features: {part}").numpy() for part, rows in parts.items()
    }
    if not run.processes.first:
        return []  # the table is the first process's work
    return [
        evaluation.probe("raw-pixel probe", small, targets, seed),
        evaluation.probe("linear probe", features, targets, seed),
    ]


def raw_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 1024) grey values."""
    small = torch.nn.functional.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), 32)
    return small.flatten(1)


def export(network: models.Network, run: training.Run, rows: torch.Tensor, path: Path) -> float:
    """Write the ONNX file, run it on the test images, and return the largest difference of any logit."""
    network = network.eval().cpu()
    example = training.to_pixels(torch.stack([run.images[i] for i in rows[:2].tolist()]), torch.device("cpu"))
    part = path.with_name(f".part-{path.name}")
    try:
        handgrad.onnx.export(network, (example,), part, dynamic_batch=True)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]
    largest = 0.0
    with torch.no_grad():
        for batch in rows.split(64):
            pixels = training.to_pixels(torch.stack([run.images[i] for i in batch.tolist()]), torch.device("cpu"))
            (answer,) = session.run(None, {name: pixels.contiguous().numpy()})
            largest = max(largest, float(np.abs(answer - network(pixels).numpy()).max()))
    return largest


def main(arguments: Sequence[str] | None = None) -> int:
    processes = None
    settings = None
    try:
        settings = read_settings(arguments)
        processes = training.Processes.start(settings.device)
        results = fine_tune(settings, processes, Console(quiet=not processes.first))
    except UserError as error:
        print(f"finetune: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"finetune: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        # When one process has ended with a sentence, the others only find that it no longer answers.
        if processes is None or processes.count == 1 or "onnection" not in str(error):
            raise
        print(f"finetune: process {processes.rank} ends because another one did", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = f" in {settings.folder}" if settings else ""
        print(
            f"finetune: interrupted; every finished epoch is kept{again}, --resume goes on from there", file=sys.stderr
        )
        return 130
    finally:
        if processes is not None:
            processes.stop()
    difference = results.get("onnx_largest_difference")
    if difference is not None and not difference < ONNX_TOLERANCE:
        print(
            f"finetune: the exported network differs from the trained one by {difference:.1e}, "
            f"more than {ONNX_TOLERANCE:.0e}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
