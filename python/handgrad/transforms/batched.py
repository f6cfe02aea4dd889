"""A pipeline for batches, every image of which has parameters of its own (docs/transforms.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from handgrad.transforms._recipes import Recipe, finished, recipe, table_of
from handgrad.transforms._steps import Plan, UnfusableError
from handgrad.transforms.fusion import Fused, Run, fuse, kind_of
from handgrad.transforms.resized_crop import batched_resized_crop


class Batched(nn.Module):
    """A pipeline of torchvision's transforms for batches: one call of the kernel for all images of a tensor, on any
    device, each of which has parameters of its own. (torchvision draws once for a batch: vision#2929, #8484.)

    The result is ``torch.stack([pipeline(image) for image in images])``; the draws are made in that order, on the CPU.
    Of uint8 images on other devices it has the CPU's levels.

    Args:
        pipeline: one that :func:`fuse` makes one run of: crops, a resize, flips, colours, conversion and
            normalisation; or what :func:`fuse` made of it.

    Raises:
        ValueError: a pipeline of which something is left.

    Example:
        >>> from torchvision.transforms import v2
        >>> augment = Batched(v2.Compose([v2.RandomResizedCrop(4), v2.ToDtype(torch.float32, scale=True)]))
        >>> augment(torch.zeros(8, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([8, 3, 4, 4])
        >>> augment([torch.zeros(3, 32, 20 + k, dtype=torch.uint8) for k in range(5)]).shape
        torch.Size([5, 3, 4, 4])
    """

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        fused = pipeline if isinstance(pipeline, Fused) else fuse(pipeline, explain=False)
        if len(fused.transforms) != 1 or not isinstance(fused.transforms[0], Run):
            said = "\n  ".join(fused.lines())
            raise ValueError(f"Batched: pipeline must be one that fuse makes one run of; got\n  {said}")
        self.fused: Fused = fused
        self.run: Run = fused.transforms[0]

    def forward(self, images: Tensor | Sequence[Any]) -> Tensor:
        """Of (batch, channels, height, width), or of a list of images of any sizes, tensors or Pillow's."""
        if not isinstance(images, Tensor):
            if not isinstance(images, (list, tuple)) or not images:
                raise TypeError("Batched: images must be a tensor, or a list of at least one image")
            return torch.stack([_as_tensor(self.fused(image)) for image in images])
        if images.dim() != 4:
            raise ValueError(f"Batched: images must have 4 dimensions; got {tuple(images.shape)}")
        try:
            # On a device there is nothing better to be equal to than the CPU's levels.
            exact = self.run.exact and images.device.type == "cpu"
            made = recipe(self.run.steps, kind_of(images), exact)
            if images.shape[0] == 0:
                raise UnfusableError("a batch without images")
            self.run.check_sizes(*images.shape[-2:])
        except UnfusableError as error:
            raise ValueError(f"Batched: {error}") from error
        return _rendered(images.as_subclass(Tensor), made, [self.run.draw(*images.shape[-2:])[0] for _ in images])

    def collate(self, samples: Sequence[Any]) -> Any:
        """A ``collate_fn`` for DataLoader: of samples that are an image, or begin with one; the rest becomes what torch
        makes of it."""
        if not isinstance(samples[0], (list, tuple)):
            return self(list(samples))
        images = self([sample[0] for sample in samples])
        return [images, *default_collate([list(sample[1:]) for sample in samples])]

    def extra_repr(self) -> str:
        return str(self.run)


def _as_tensor(image: Any) -> Tensor:
    if not isinstance(image, Tensor):
        raise ValueError("Batched: pipeline must make tensors of images; add PILToTensor or ToImage")
    return image.as_subclass(Tensor)


def _coloured(images: Tensor, made: Recipe, plans: list[Plan]) -> Tensor:
    """Shapes first, then colours."""
    if not all(plan.is_idle(*images.shape[-2:]) for plan in plans):
        plain = Recipe(made.source, made.source, images.dtype, made.antialias)
        images = _rendered(images, plain, [replace(plan, colours=[]) for plan in plans])
    finish: dict[str, Any] = {"dtype": made.dtype, "mean": made.mean, "std": made.std, "scaling": made.scaling}
    return finished(images, [plan.colours for plan in plans], **finish)


def _rendered(images: Tensor, made: Recipe, plans: list[Plan]) -> Tensor:
    if any(plan.colours for plan in plans):
        return _coloured(images, made, plans)
    first = plans[0]
    modes = {plan.interpolation for plan in plans}
    if len(modes) > 1:  # timm draws them too
        return torch.cat([made.render(images[i : i + 1], plan) for i, plan in enumerate(plans)])
    finish: dict[str, Any] = {
        "dtype": made.dtype,
        "mean": made.mean,
        "std": made.std,
        "scaling": made.scaling,
    }
    for name in ("horizontal_flip", "vertical_flip"):
        flips = [getattr(plan, name) for plan in plans]
        finish[name] = flips[0] if len(set(flips)) == 1 else table_of(flips, images)
    boxes = table_of([plan.box for plan in plans], images)
    if first.size is None:
        return batched_resized_crop(images, boxes, first.box[2:], "nearest", **finish)
    if all(plan.window == first.window for plan in plans):
        finish["window"] = first.window
        return batched_resized_crop(images, boxes, first.size, first.interpolation, made.antialias, **finish)
    whole = batched_resized_crop(images, boxes, first.size, first.interpolation, made.antialias)
    windows = [plan.window or (0, 0, *first.size) for plan in plans]
    return batched_resized_crop(whole, table_of(windows, images), windows[0][2:], "nearest", **finish)
