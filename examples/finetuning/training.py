"""The training loop, its checkpoints, and what is needed to run it in several processes."""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from handgrad.losses import SigmoidFocalLoss
from shared.files import UserError
from shared.weights import write_state

from .data import TRAIN, VALIDATION, Images, augmentation, feed, seeds
from .evaluation import mean_average_precision
from .models import Network, Shard, share_noise, train_mode
from .settings import Settings

# Which random numbers a seed is for. Every draw is seeded from the run's seed, one of these, and the epoch: so there is
# no generator whose state would have to be saved, and a resumed run cannot differ from an uninterrupted one.
ORDER, VIEWS, STEPS = 1, 2, 3

AUXILIARY_WEIGHT = 0.4  # of Inception's second loss, as in the paper

#         learning rate of a new head, weight decay
OPTIMIZER_DEFAULTS = {"adamw": (1e-3, 1e-2), "adam": (1e-3, 1e-5), "rmsprop": (3e-4, 1e-5), "sgd": (3e-2, 1e-4)}
BODY_SHARE = 0.1  # trained layers learn so much slower than a new head


@dataclass
class Processes:
    """The processes that share a run: one, or those that torchrun started."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def start(cls, device: str) -> Processes:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            where = torch.device(device)
        except RuntimeError as error:
            raise UserError(f"--device must be cpu, cuda or auto, got {device!r}") from error
        if where.type not in ("cpu", "cuda"):
            raise UserError(f"--device must be cpu, cuda or auto, got {device!r}")
        if where.type == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda was asked for, but torch finds no GPU")
        if where.type == "cuda" and count > 1:
            where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(where)
        if count > 1:
            dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
        return cls(rank, count, where)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    def stop(self) -> None:
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def total(self, *values: float) -> list[float]:
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return summed.tolist()

    def joined(self, part: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks."""
        if self.count == 1:
            return part
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, part)
        return torch.cat(parts)


@dataclass
class Run:
    """What every part of a run needs to know."""

    settings: Settings
    folder: Path
    images: Images
    split: Tensor
    fingerprint: str
    augment: str
    batchnorm: str
    processes: Processes
    console: Console
    progress: Progress

    def of(self, part: int) -> Tensor:
        return torch.nonzero(self.split == part).flatten()


@dataclass
class Trained:
    history: list[dict[str, float]]  #: one entry an epoch
    seconds: float  #: of training, over all calls that it took
    preparing: float = 0.0  #: of these, until images were there


def make_loss(name: str, settings: Settings) -> nn.Module:
    if name == "focal":
        return SigmoidFocalLoss(alpha=settings.alpha, gamma=settings.gamma, reduction="mean")
    return nn.BCEWithLogitsLoss()


def to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """Bytes to floats from 0 to 1, in the memory layout that convolutions on a CPU are fastest in."""
    return images.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def apply(function: Callable[[Tensor], Tensor], run: Run, chosen: Tensor, label: str = "", batch: int = 64) -> Tensor:
    """`function` of the pixels of the chosen images, row by row; the processes share the work."""
    mine = chosen.tensor_split(run.processes.count)[run.processes.rank]
    keys = [[(i, 0) for i in part.tolist()] for part in mine.split(batch)]
    task = run.progress.add_task(label, total=len(mine), loss="", visible=bool(label))
    rows = []
    for images, _ in feed(run.images, keys, None, run.settings.workers):
        rows.append(function(to_pixels(images, run.processes.device)).cpu())
        run.progress.advance(task, len(images))
    run.progress.remove_task(task)
    width = rows[0].shape[1:] if rows else (0,)
    return run.processes.joined(torch.cat(rows) if rows else torch.empty(0, *width))


def train(network: Network, name: str, run: Run) -> Trained:
    """Train the network in place with the loss `name`, from the last finished epoch on if the run is resumed."""
    settings, processes = run.settings, run.processes
    loss_function = make_loss(name, settings)
    rows = run.of(TRAIN)
    steps = max(1, round(len(rows) / settings.batch))
    if len(rows) // steps < processes.count:
        raise UserError(f"a batch of {len(rows) // steps} images cannot be shared by {processes.count} processes")
    shard = Shard()
    share_noise(network, shard)
    optimizer = make_optimizer(network, settings)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps * settings.epochs,
        pct_start=0.2,
        cycle_momentum=False,
    )
    done = Trained([], 0.0)
    checkpoint = run.folder / f"checkpoint-{name}.pt"
    if settings.resume and checkpoint.is_file():
        done = load_checkpoint(checkpoint, run, network, optimizer, scheduler)
        run.console.print(f"{name}: going on after epoch {len(done.history)} of {settings.epochs}")
    model: nn.Module = network
    if processes.count > 1:
        model = DistributedDataParallel(network)

    for epoch in range(len(done.history), settings.epochs):
        started = time.perf_counter()
        train_loss, preparing = train_epoch(
            model, name, loss_function, optimizer, scheduler, shard, run, epoch, rows, steps
        )
        done.seconds += time.perf_counter() - started
        done.preparing += preparing
        network.eval()
        held_out = run.of(VALIDATION)
        logits = apply(network, run, held_out)
        targets = run.images.photos.targets(run.images.photos.labels[held_out])
        entry = {
            "epoch": epoch + 1,
            "train_loss": train_loss,
            "validation_loss": loss_function(logits, targets).item(),
            "validation_average_precision": mean_average_precision(targets.numpy(), logits.numpy()),
        }
        done.history.append(entry)
        if processes.first:
            save_checkpoint(checkpoint, run, done, network, optimizer, scheduler)
        processes.wait()
        run.console.print(
            f"{name} {epoch + 1}/{settings.epochs}: loss {train_loss:.4f}, "
            f"validation loss {entry['validation_loss']:.4f}, "
            f"average precision {entry['validation_average_precision']:.3f} "
            f"({time.perf_counter() - started:.0f} s, images {preparing:.1f} s)",
            soft_wrap=True,
        )
    network.eval()
    return done


def train_epoch(
    model: nn.Module,
    name: str,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    shard: Shard,
    run: Run,
    epoch: int,
    rows: Tensor,
    steps: int,
) -> tuple[float, float]:
    """One pass over the training images; the mean loss of all of them, and the seconds that they took to be there."""
    settings, processes, photos = run.settings, run.processes, run.images.photos
    (order_seed,) = seeds(settings.seed, ORDER, epoch, count=1)
    view_seeds = seeds(settings.seed, VIEWS, epoch, count=len(photos))
    step_seeds = seeds(settings.seed, STEPS, epoch, count=steps)
    shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(order_seed))]
    # Parts of equal size, to one image: a short last batch would weigh its images more, and may be too short to share.
    batches = shuffled.tensor_split(steps)
    mine = [[(i, view_seeds[i]) for i in share(batch, processes)[0].tolist()] for batch in batches]
    train_mode(model, run.batchnorm)
    task = run.progress.add_task(f"{name} {epoch + 1}/{settings.epochs}", total=len(rows), loss="")
    summed = 0.0
    views = _Timed(feed(run.images, mine, augmentation(run.augment, settings.transforms), settings.workers))
    for step, (images, labels) in enumerate(views):
        _, shard.start, shard.stop, shard.total = share(batches[step], processes)
        torch.manual_seed(step_seeds[step])
        targets = photos.targets(labels).to(processes.device)
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=settings.amp):
            output = model(to_pixels(images, processes.device))
            parts = [output] if isinstance(output, Tensor) else list(output)
            losses = [loss_function(part.float(), targets) for part in parts]
        loss = losses[0] + AUXILIARY_WEIGHT * sum(losses[1:])
        optimizer.zero_grad(set_to_none=True)
        # DDP averages the gradients of the processes as if all had the same number of images; this makes up for it.
        (loss * (len(images) * processes.count / shard.total)).backward()
        optimizer.step()
        scheduler.step()
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(f"the loss became {value} in epoch {epoch + 1}: try a lower --lr or --body-lr")
        summed += value * len(images)
        run.progress.update(task, advance=shard.total, loss=f"loss {summed / sum(map(len, mine[: step + 1])):.4f}")
    run.progress.remove_task(task)
    return processes.total(summed)[0] / len(rows), views.seconds


class _Timed:
    """Batches, and how long they were waited for."""

    def __init__(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        started = time.perf_counter()
        try:
            return next(self.batches)
        finally:
            self.seconds += time.perf_counter() - started


def share(batch: Tensor, processes: Processes) -> tuple[Tensor, int, int, int]:
    """This process's part of a batch, where it begins and ends, and the size of the whole."""
    parts = batch.tensor_split(processes.count)
    start = sum(len(part) for part in parts[: processes.rank])
    return parts[processes.rank], start, start + len(parts[processes.rank]), len(batch)


def make_optimizer(network: Network, settings: Settings) -> torch.optim.Optimizer:
    head_lr, decay = OPTIMIZER_DEFAULTS[settings.optimizer]
    head_lr = settings.lr or head_lr
    body_lr = settings.body_lr or (head_lr * BODY_SHARE if network.pretrained else head_lr)
    decay = decay if settings.weight_decay is None else settings.weight_decay
    head = [p for p in network.head_parameters() if p.requires_grad]
    body = [p for p in network.parameters() if p.requires_grad and not any(p is q for q in head)]
    groups = [{"params": params, "lr": lr} for params, lr in ((body, body_lr), (head, head_lr)) if params]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=decay)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    return kinds[settings.optimizer](groups, weight_decay=decay)


# -------------------------------------------------------------------------------------------------------- checkpoints


def save_checkpoint(path: Path, run: Run, done: Trained, network: nn.Module, optimizer: Any, scheduler: Any) -> None:
    state = {
        "numbers": run.settings.numbers(),
        "images": run.fingerprint,
        "history": done.history,
        "seconds": done.seconds,
        "preparing": done.preparing,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    write_state(state, path)


def load_checkpoint(path: Path, run: Run, network: nn.Module, optimizer: Any, scheduler: Any) -> Trained:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for option, value, before in _differences(run.settings.numbers(), state["numbers"]):
            raise UserError(f"{option} is {value!r}, but the run in {run.folder} was started with {before!r}")
        if state["images"] != run.fingerprint:
            raise UserError(f"the images or labels are not those that the run in {run.folder} was started with")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        return Trained(state["history"], state["seconds"], state.get("preparing", 0.0))
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the checkpoint {path} cannot be read ({reason}): --overwrite starts the run again") from error


def _differences(now: dict[str, Any], before: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in now:
        if now[name] != before.get(name):
            yield "--" + name.replace("_", "-"), now[name], before.get(name)
