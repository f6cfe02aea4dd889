"""What our ops are worth in a whole detector: torchvision's Faster R-CNN, and a copy of it with our roi_align and nms.

Both see the same images and draw the same proposals, so that both do the same work. A step is a forward pass in
training and its backward pass through all weights, without an optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import handgrad
from handgrad import transfer
from handgrad.benchmarking import Benchmark, BenchmarkError, Fact, Settings, interleave


def _detectors() -> dict[str, Any]:
    import torchvision
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

    torch.manual_seed(0)
    theirs = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None)
    # With random weights all scores are alike, and rounding decides what is detected. So: statistics that keep
    # activations at their size, and a last layer that is sure of something.
    with torch.no_grad():
        theirs.train()
        for _ in range(30):
            theirs.backbone(torch.randn(2, 3, 160, 160))
        theirs.roi_heads.box_predictor.cls_score.weight *= 100
    ours = copy.deepcopy(theirs)
    transfer.replace_functions(
        ours,
        {
            torchvision.ops.roi_align: handgrad.layers.roi_align,
            torchvision.ops.batched_nms: handgrad.boxes.batched_nms,
        },
    )
    return {"torchvision": theirs, "with handgrad's roi_align and batched_nms": ours}


def _step(model: Any, images: list[Any], targets: list[Any]) -> None:
    torch.manual_seed(0)  # the proposals to learn from are drawn
    sum(model(images, targets).values()).backward()
    model.zero_grad()


def _facts(settings: Settings) -> list[Fact]:
    try:
        models = _detectors()
    except ImportError as error:
        return [Fact("Faster R-CNN", float("nan"), "ms", error=str(error))]
    generator = torch.Generator().manual_seed(0)
    side = 64 if settings.quick else 480
    images = [torch.rand(3, side, side * 4 // 3, generator=generator) for _ in range(2)]
    corners = torch.rand(16, 2, generator=generator) * side / 2
    boxes = torch.cat([corners, corners + side / 16 + torch.rand(16, 2, generator=generator) * side / 3], 1)
    targets = [{"boxes": boxes, "labels": torch.arange(1, 17)} for _ in images]

    found = []
    for model in models.values():
        with torch.no_grad():
            found.append(model.eval()(images))
    for theirs, ours in zip(*found, strict=True):
        if not len(theirs["boxes"]):
            raise BenchmarkError("Faster R-CNN detects nothing, which is no comparison")
        if theirs["boxes"].shape != ours["boxes"].shape or not torch.allclose(
            theirs["boxes"], ours["boxes"], atol=1e-2
        ):
            raise BenchmarkError("Faster R-CNN detects something else with handgrad's ops than with torchvision's")

    facts = []
    threads = torch.get_num_threads()
    passes: dict[str, Callable[[Any], Callable[[], Any]]] = {
        "detection": lambda model: partial(_detect, model, images),
        "training step": lambda model: partial(_step, model.train(), images, targets),
    }
    for name, make in passes.items():
        times = interleave({which: make(model) for which, model in models.items()}, settings, threads=threads)
        for which, time in times.items():
            text = f"Faster R-CNN, MobileNetV3 FPN, 2 images of {side}x{side * 4 // 3}, {name}: {which}"
            facts.append(Fact(text, time.median * 1e3, "ms"))
    return facts


def _detect(model: Any, images: list[Any]) -> None:
    with torch.no_grad():
        model(images)


def benchmark(quick: bool) -> Benchmark:
    return Benchmark(op="detection", facts=_facts)
