"""Non-maximum suppression: boxes spread out, crowded, all in one place; in 80 classes; of a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep


def _torchvision(threshold: float, batched: bool) -> object:
    def torchvision_nms(boxes: Tensor, scores: Tensor, *idxs: Tensor) -> Tensor:
        from torchvision import ops

        if not batched:
            return ops.nms(boxes, scores, threshold)
        # What torchvision itself calls for so many boxes on the CPU.
        return ops.batched_nms(boxes, scores, idxs[0], threshold)

    return torchvision_nms


def _case(
    name: str,
    count: int,
    sizes: tuple[float, float],
    side: float = 1000.0,
    threshold: float = 0.5,
    classes: int = 0,
    one_place: bool = False,
) -> Case:
    """``count`` boxes with their corners anywhere in a square and their sides anywhere in ``sizes``."""

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        corner = torch.rand(count, 2, device=device) * side
        boxes = torch.cat([corner, corner + sizes[0] + torch.rand(count, 2, device=device) * (sizes[1] - sizes[0])], 1)
        if one_place:
            boxes = torch.rand(count, 4, device=device) * side * torch.tensor([-1.0, -1.0, 1.0, 1.0], device=device)
        idxs = (torch.randint(classes, (count,), device=device),) if classes else ()
        # No two alike: torchvision leaves the order of equal ones in different classes open.
        return boxes, (torch.randperm(count, device=device) + 1) / (count + 1), *idxs

    def ours(boxes: Tensor, scores: Tensor, *idxs: Tensor) -> Tensor:
        if classes:
            return handgrad.boxes.batched_nms(boxes, scores, idxs[0], threshold)
        return handgrad.boxes.nms(boxes, scores, threshold)

    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers={"torchvision": _torchvision(threshold, classes > 0)},  # type: ignore[dict-item]
        # Four coordinates, a score and perhaps a class are read; an index is written for each box kept, at most.
        forward_bytes=count * (5 * 4 + (8 if classes else 0) + 8),
    )


def _batch(images: int, count: int) -> Case:
    """What a detector has after its threshold of scores, of each image."""
    threshold = 0.7

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        corner = torch.rand(images, count, 2, device=device) * 600
        boxes = torch.cat([corner, corner + 10 + 150 * torch.rand(images, count, 2, device=device)], 2)
        scores = torch.stack([(torch.randperm(count, device=device) + 1) / (count + 1) for _ in range(images)])
        return boxes, scores, torch.randint(80, (images, count), device=device)

    def ours(boxes: Tensor, scores: Tensor, idxs: Tensor) -> Tensor:
        return torch.cat(handgrad.boxes.multi_image_nms(boxes, scores, threshold, idxs))

    def torchvision_loop(boxes: Tensor, scores: Tensor, idxs: Tensor) -> Tensor:
        from torchvision import ops

        return torch.cat([ops.batched_nms(*image, threshold) for image in zip(boxes, scores, idxs, strict=True)])

    return Case(
        name=f"{images} images of {count} boxes in 80 classes, multi_image_nms",
        inputs=inputs,
        handgrad=ours,
        peers={"torchvision, a loop": torchvision_loop},
        # Four coordinates, a score and a class are read; an index is written for each box kept, at most.
        forward_bytes=images * count * (5 * 4 + 8 + 8),
    )


def benchmark(quick: bool) -> Benchmark:
    count = 300 if quick else 20_000
    spread = (10.0, 60.0)
    return Benchmark(
        op="nms",
        cases=[
            _case(f"{count} boxes of 10 to 60 spread over 1000x1000", count, spread),
            _case(f"{count} boxes of 100 to 200 crowded on 1000x1000", count, (100.0, 200.0)),
            _case(f"{count} boxes around one place, few suppressed (0.9)", count, (0, 0), 1000.0, 0.9, one_place=True),
            _case(f"{count} boxes of which one is kept", count, (900.0, 1000.0), side=100.0),
            _case(f"{count} boxes in 80 classes, batched_nms", count, spread, classes=80),
            _batch(2 if quick else 16, count // 20),
        ],
        sweeps=[
            Sweep(
                "boxes of 10 to 60 spread over 1000x1000",
                "boxes",
                [10, 30] if quick else [100, 1000, 5000, 20_000],
                lambda boxes: _case(f"{boxes} boxes", boxes, spread),
            )
        ],
    )
