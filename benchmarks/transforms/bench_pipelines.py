"""Whole pipelines, draws included: torchvision's, what ``fuse`` makes of them, albumentations'; and images a second of
a DataLoader that reads JPEG files, with the share of decoding in it."""

from __future__ import annotations

import functools
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import handgrad
from benchmarks.photographs import smooth
from handgrad.benchmarking import Benchmark, Case, Fact, Peer, Settings
from handgrad.transfer import accelerate

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# A call makes a picture for each: crops of all sizes.
_SEEDS = range(8)


def _steps(kind: str, size: int, training: bool) -> list[Any]:
    """Of torchvision's own training scripts: v2 for tensors and for PIL images, v1 for PIL images."""
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    made: Any = v1 if kind == "v1" else v2
    first = [made.RandomResizedCrop(size), made.RandomHorizontalFlip()]
    if not training:
        first = [made.Resize(size * 8 // 7), made.CenterCrop(size)]
    if kind == "v1":
        return [*first, v1.ToTensor(), v1.Normalize(_MEAN, _STD)]
    to_tensor = [v2.PILToTensor()] if kind == "PIL" else []
    return [*first, *to_tensor, v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]


@functools.cache
def _pipeline(kind: str, size: int, training: bool, fused: bool) -> Callable[[Any], Tensor]:
    from torchvision import transforms as v1

    composed = v1.Compose(_steps(kind, size, training))
    return handgrad.transforms.fuse(composed, explain=False) if fused else composed


@functools.cache
def _as_pil(image: Tensor) -> Any:
    from torchvision.transforms.v2.functional import to_pil_image

    return to_pil_image(image)


def _pictures(kind: str, size: int, training: bool, fused: bool = False) -> Callable[..., Any]:
    def pictures(image: Tensor) -> tuple[Tensor, ...]:
        pipeline = _pipeline(kind, size, training, fused)
        made = []
        for seed in _SEEDS:
            torch.default_generator.manual_seed(seed)
            made.append(pipeline(image if kind == "tensor" else _as_pil(image)))
        return tuple(made)

    return pictures


@functools.cache
def _composes(side: int, size: int, training: bool, interpolation: str) -> list[Any]:
    """With torchvision's crops and flips, so that the pictures can be compared; not drawn, which is in its favour."""
    # It asks for its newest version otherwise, on every import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    from torchvision.transforms import v2

    made = []
    for seed in _SEEDS:
        torch.default_generator.manual_seed(seed)
        box = v2.RandomResizedCrop(size).make_params([torch.empty(1, side, side)])
        flip = bool(torch.rand(1) < 0.5)
        top, left, height, width = (box[name] for name in ("top", "left", "height", "width"))
        mode = getattr(cv2, interpolation)
        if training:
            first = [
                albumentations.Crop(left, top, left + width, top + height),
                albumentations.Resize(size, size, interpolation=mode),
                *([albumentations.HorizontalFlip(p=1)] if flip else []),
            ]
        else:
            first = [
                albumentations.SmallestMaxSize(size * 8 // 7, interpolation=mode),
                albumentations.CenterCrop(size, size),
            ]
        end = [albumentations.Normalize(_MEAN, _STD), albumentations.ToTensorV2()]
        made.append(albumentations.Compose([*first, *end]))
    return made


def _albumentations(side: int, size: int, training: bool, interpolation: str) -> Callable[..., Any]:
    def with_albumentations(image: Tensor) -> tuple[Tensor, ...]:
        array = image.permute(1, 2, 0).numpy()
        return tuple(compose(image=array)["image"] for compose in _composes(side, size, training, interpolation))

    return with_albumentations


def _case(name: str, side: int, size: int, training: bool, kind: str = "tensor") -> Case:
    area = "averages over pixels' areas in place of a triangle: another picture"
    linear = "not antialiased, its default: another picture, of a quarter of the arithmetic"
    peers: dict[str, Callable[..., Any] | Peer] = {
        "torchvision v2": _pictures("tensor", size, training),
        "torchvision v2 on PIL": _pictures("PIL", size, training),
        "torchvision v1 on PIL": _pictures("v1", size, training),
        "albumentations, antialiased": Peer(
            _albumentations(side, size, training, "INTER_AREA"), remark=area, same=False
        ),
        "albumentations": Peer(_albumentations(side, size, training, "INTER_LINEAR"), remark=linear, same=False),
    }
    if kind == "v1":
        peers.pop("torchvision v2")
    return Case(
        name=f"{name}{', PIL' if kind == 'v1' else ''}",
        inputs=lambda device: (smooth(side, device),),
        handgrad=_pictures(kind, size, training, fused=True),
        peers=peers,
        # About half of the photograph is read for each picture, and numbers are written.
        forward_bytes=len(_SEEDS) * (3 * side * side // 2 + 12 * size * size),
        # A level of 255, of numbers that are at most 2.6: filters and roundings differ.
        tolerance=0.05,
    )


def _whole_batch(images: int, size: int) -> Case:
    """What is left to do on a batch of levels: to numbers, normalised."""
    steps = lambda: _steps("tensor", size, True)[2:]  # noqa: E731

    def torchvision(batch: Tensor) -> Tensor:
        for step in steps():
            batch = step(batch)
        return batch

    @functools.cache
    def batched() -> Any:
        return handgrad.transforms.Batched(steps())

    return Case(
        name=f"{images}x3x{size}x{size} uint8 to normalised float32",
        inputs=lambda device: (torch.stack([smooth(size, device).contiguous()] * images),),
        handgrad=lambda batch: batched()(batch),
        peers={"torchvision v2": torchvision},
        forward_bytes=images * 15 * size * size,
    )


@functools.cache
def _processor(side: int, size: int, accelerated: bool) -> Any:
    import transformers

    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": size, "width": size}}
    processor = transformers.CLIPImageProcessor(**sizes)
    if accelerated:
        accelerate(processor)
    return processor


def _processed(images: int, side: int, size: int) -> Case:
    """Hugging Face's preprocessing of CLIP's images: resize, centre crop, rescale, normalise."""

    def by(accelerated: bool) -> Callable[..., Any]:
        def processed(image: Tensor) -> Any:
            return _processor(size * 8 // 7, size, accelerated)([image] * images, return_tensors="pt")["pixel_values"]

        return processed

    return Case(
        name=f"{images} of 3x{side}x{side} by CLIPImageProcessor to {size}x{size}",
        inputs=lambda device: (smooth(side, device).contiguous(),),
        handgrad=by(True),
        peers={"transformers": by(False)},
        forward_bytes=images * (3 * side * side + 12 * size * size),
    )


def _prefetched(images: int, size: int) -> Case:
    """timm's loader, its batches at hand: what it makes of levels."""

    def by(accelerated: bool) -> Callable[..., Any]:
        batches: Any = [None]

        @functools.cache
        def loader() -> Any:
            from timm.data.loader import PrefetchLoader

            made = PrefetchLoader(batches, device=torch.device("cpu"))
            if accelerated:
                accelerate(made)
            return made

        def prefetched(batch: Tensor) -> Tensor:
            batches[0] = batch, batch
            return next(iter(loader()))[0]

        return prefetched

    return Case(
        name=f"{images}x3x{size}x{size} uint8 by PrefetchLoader",
        inputs=lambda device: (torch.stack([smooth(size, device).contiguous()] * images),),
        handgrad=by(True),
        peers={"timm": by(False)},
        forward_bytes=images * 15 * size * size,
    )


# ---- from files ------------------------------------------------------------------------------------------------------


class _Files(torch.utils.data.Dataset[Tensor]):
    def __init__(self, paths: list[Path], transform: Callable[[Any], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def _write(folder: Path, count: int, side: int) -> list[Path]:
    """JPEG files as large as photographs of that size are: waves under noise."""
    paths = []
    for k in range(count):
        noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(k)) * 12
        levels = (smooth(side, torch.device("cpu")) + noise).clamp(0, 255).to(torch.uint8)
        path = folder / f"{k}.jpg"
        file = io.BytesIO()
        _as_pil.__wrapped__(levels).save(file, "JPEG", quality=90)
        path.write_bytes(file.getvalue())
        paths.append(path)
    return paths


def _images_a_second(paths: list[Path], transform: Callable[[Any], Tensor], epochs: int) -> float:
    loader = torch.utils.data.DataLoader(
        _Files(paths, transform), batch_size=16, num_workers=2, persistent_workers=True, shuffle=True
    )
    best = 0.0
    for epoch in range(epochs + 1):
        start = time.perf_counter()
        for _ in loader:
            pass
        if epoch:  # in the first the workers start
            best = max(best, len(paths) / (time.perf_counter() - start))
    return best


def _milliseconds(function: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def _facts(settings: Settings) -> list[Fact]:
    side, size, count, epochs = (64, 24, 16, 1) if settings.quick else (512, 224, 256, 4)
    try:
        from PIL import Image

        pipelines = {name: _pipeline("v1", size, True, name == "fused") for name in ("torchvision", "fused")}
    except ImportError as error:
        return [Fact("DataLoader", float("nan"), "images/s", error=str(error))]
    before = torch.get_num_threads()
    facts = []
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(Path(folder), count, side)
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
        what = f"JPEG files of {side} x {side} pixels and {kilobytes:.0f} kB to {size} x {size}"
        for name, pipeline in pipelines.items():
            facts.append(
                Fact(f"DataLoader, 2 workers, {what}: {name}", _images_a_second(paths, pipeline, epochs), "images/s")
            )
        torch.set_num_threads(1)
        try:
            some = paths[: 4 if settings.quick else 32]
            images = [Image.open(path).convert("RGB") for path in some]
            decoding = _milliseconds(lambda: [Image.open(path).convert("RGB") for path in some], settings.rounds)
            facts.append(Fact("one thread, one image: decoding", decoding / len(some), "ms"))
            for name, pipeline in pipelines.items():
                took = _milliseconds(lambda made=pipeline: [made(image) for image in images], settings.rounds)  # type: ignore[misc]
                facts.append(Fact(f"one thread, one image: {name}, after decoding", took / len(some), "ms"))
                share = 100 * decoding / (decoding + took)
                facts.append(Fact(f"share of decoding in the whole: {name}", share, "%"))
        finally:
            torch.set_num_threads(before)
    return facts


def benchmark(quick: bool) -> Benchmark:
    side, size, images = (64, 24, 3) if quick else (512, 224, 32)
    text = f"8 of 3x{side}x{side} uint8 to {size}x{size} float32"
    return Benchmark(
        op="pipelines",
        cases=[
            *(_case(f"{text}: random crop, flip, normalise", side, size, True, kind) for kind in ("tensor", "v1")),
            *(_case(f"{text}: resize, centre crop, normalise", side, size, False, kind) for kind in ("tensor", "v1")),
            _whole_batch(images, size),
            _processed(8, side, size),
            _prefetched(images, size),
        ],
        facts=_facts,
    )
