"""Pipelines of torchvision's and timm's transforms, in which runs are one call of the kernel (docs/transforms.md)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from handgrad.transforms import _pillow, _steps
from handgrad.transforms._alone import Erasing, alone, is_fresh
from handgrad.transforms._pictures import DTYPES
from handgrad.transforms._reading import steps_of
from handgrad.transforms._recipes import Kind, Recipe, recipe
from handgrad.transforms._steps import Plan, Step, UnfusableError
from handgrad.transforms._torchvision import HINT


def fuse(pipeline: Any, explain: bool = True, exact: bool = True) -> Fused:
    """The same pipeline, with its crops, resizes, flips, conversions and normalisations in one pass over memory.

    Takes what ``torchvision.transforms.v2`` or ``torchvision.transforms`` compose, torchvision's presets and timm's
    ``create_transform`` among it. Parameters are drawn by the transforms themselves, in their order, so that the same
    seed gives the same picture; what the kernel does not know stays as it is, and so does a sample of several images.

    Args:
        pipeline: a ``Compose`` of v2 or v1, an ``nn.Sequential``, a list of transforms, or one of them.
        explain: whether to print what is fused, and what is not and why; and to warn, once for each reason, of a
            sample that was left to torchvision.
        exact: whether samples are left to torchvision of which the kernel would make other uint8 levels: tensors that
            v1 resizes, and those on other devices. False takes v2's levels on a CPU, which differ from these by one, or
            bicubic by more at edges. Floating-point images differ by rounding in any case.

    Returns:
        A module that is called as the pipeline is. It pickles, and draws what the pipeline draws.

    Raises:
        ImportError: torchvision is not installed.
        TypeError: no pipeline.

    Example:
        >>> from torchvision.transforms import v2
        >>> fused = fuse(v2.Compose([v2.Resize(4), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])]))
        one kernel: Resize, ToDtype, Normalize
        >>> fused(torch.full((1, 8, 9), 255, dtype=torch.uint8)).unique()
        tensor([2.])
    """
    try:
        import torchvision  # noqa: F401
    except ImportError as error:
        raise ImportError(f"handgrad.transforms.fuse {HINT}") from error
    fused = Fused(list(_flat(pipeline)), explain, exact)
    if explain:
        print("\n".join(fused.lines()))
    return fused


def _flat(pipeline: Any) -> Iterator[Any]:
    """The transforms of a pipeline that may hold others."""
    kind = type(pipeline)
    if isinstance(pipeline, Fused):
        yield from pipeline.originals
    elif isinstance(pipeline, (list, tuple, nn.Sequential)):
        for transform in pipeline:
            yield from _flat(transform)
    elif kind.__name__ == "Compose" and kind.__module__.startswith("torchvision.transforms."):
        yield from _flat(pipeline.transforms)
    elif callable(pipeline):
        yield pipeline
    else:
        raise TypeError(f"fuse: pipeline must be made of transforms, which are called; got {kind.__name__}")


class Fused(nn.Module):
    """What :func:`fuse` makes of a pipeline: ``transforms`` are runs that are one call, single ones that have a kernel,
    and those that are left."""

    def __init__(self, originals: list[Any], explain: bool, exact: bool) -> None:
        super().__init__()
        self.originals, self.exact = originals, exact
        #: For each of ``transforms`` why it is left; empty for one that is not.
        self.reasons: list[str] = []
        self.transforms: list[Any] = []
        run: list[tuple[Any, list[Step]]] = []
        for index, original in enumerate(originals):
            try:
                steps = steps_of(original)
                if any(step.colours for step in steps) and _are_pictures(originals[index + 1 :]):
                    raise UnfusableError("Pillow's colours are others than a tensor's: make tensors of images before")
            except UnfusableError as error:
                self._close(run, explain, exact)
                run = []
                by_itself = alone(original, exact)
                self._leave(by_itself or original, "" if by_itself else str(error))
                continue
            if not _fits([step for _, steps in run for step in steps], steps):
                self._close(run, explain, exact)
                run = []
            run.append((original, steps))
        self._close(run, explain, exact)

    def _leave(self, original: Any, reason: str) -> None:
        self.transforms.append(original)
        self.reasons.append(reason)

    def _close(self, run: list[tuple[Any, list[Step]]], explain: bool, exact: bool) -> None:
        steps = [step for _, steps in run for step in steps]
        kinds = {type(step) for step in steps}
        scales = _steps.ToDtype in kinds or any(isinstance(step, _steps.ToTensor) and step.scales for step in steps)
        if any(step.resizes or step.colours for step in steps) or (_steps.Normalize in kinds and scales):
            self._leave(Run([original for original, _ in run], steps, explain, exact), "")
        else:
            for original, _ in run:
                self._leave(original, "there is nothing beside it to do in the same pass")

    def forward(self, *inputs: Any) -> Any:
        several = len(inputs) > 1
        outputs: Any = inputs if several else inputs[0]
        before: tuple[Any, ...] | None = None
        for transform in self.transforms:
            if isinstance(transform, Erasing):
                outputs = transform(*inputs, fresh=before is not None and is_fresh(inputs, before))
            else:
                outputs = transform(*inputs)
            before = inputs if isinstance(transform, Run) else None
            inputs = outputs if several else (outputs,)
        return outputs

    def lines(self) -> list[str]:
        """What is fused, and what is left and why."""
        return [
            f"as it is: {type(transform).__name__} ({reason})" if reason else f"{transform.kernels()}: {transform}"
            for transform, reason in zip(self.transforms, self.reasons, strict=True)
        ]

    def extra_repr(self) -> str:
        return "\n".join(self.lines())


def _fits(before: list[Step], steps: list[Step]) -> bool:
    """Whether the kernel can do these steps after those: it crops, resizes, flips, converts, normalises, each once."""
    for step in steps:
        normalised = any(isinstance(other, _steps.Normalize) for other in before)
        scaled = any(
            isinstance(other, _steps.ToDtype) or (isinstance(other, _steps.ToTensor) and other.scales)
            for other in before
        )
        flipped = any(isinstance(other, _steps.Flip) for other in before)
        resized = any(other.resizes for other in before)
        coloured = any(other.colours for other in before)
        single = any(isinstance(other, _steps.Grayscale) and other.single for other in before)
        # Of a gray of one channel colours are others than of one of three.
        if step.colours and (scaled or normalised or single):
            return False
        # Contrast depends on what is cut off, and no operation on levels goes through a resize.
        if coloured and (step.resizes or isinstance(step, _steps.CenterCrop)):
            return False
        if step.resizes and (resized or flipped or scaled or normalised):
            return False
        if isinstance(step, (_steps.ToDtype, _steps.Normalize)) and normalised:
            return False
        before = [*before, step]
    return True


def _are_pictures(later: list[Any]) -> bool:
    """Whether images are Pillow's still, as a later transform makes tensors of them."""
    for original in later:
        try:
            if any(isinstance(step, (_steps.ToTensor, _steps.ToImage)) for step in steps_of(original)):
                return True
        except UnfusableError:
            continue
    return False


class Run(nn.Module):
    """Transforms that are one call of the kernel; and themselves, for samples of which they are not."""

    def __init__(self, originals: list[Any], steps: list[Step], explain: bool, exact: bool) -> None:
        super().__init__()
        self.originals, self.steps, self.explain, self.exact = originals, steps, explain, exact
        self._recipes: dict[Kind, Recipe | UnfusableError] = {}
        self._said: set[str] = set()

    def __str__(self) -> str:
        return ", ".join(type(original).__name__ for original in self.originals)

    def kernels(self) -> str:
        """Shape, colours, tones and sharpness are one each."""
        inner = [one for step in self.steps for one in (step.inner if isinstance(step, _steps.RandomApply) else [step])]
        toned = any(isinstance(step, _steps.Tone) for step in inner)
        sharpened = any(isinstance(step, _steps.Sharpness) for step in inner)
        coloured = any(step.colours and not isinstance(step, (_steps.Tone, _steps.Sharpness)) for step in inner)
        shaped = any(step.moves and not isinstance(step, _steps.ToPureTensor) for step in self.steps)
        count = max(toned + sharpened + coloured + shaped, 1)
        return ("one kernel", "two kernels", "three kernels", "four kernels")[count - 1]

    def forward(self, *inputs: Any) -> Any:
        several = len(inputs) > 1
        sample = inputs if several else inputs[0]
        try:
            single = isinstance(sample, Tensor) or hasattr(sample, "getbands")
            leaves, structure = ([sample], None) if single else _pytree.tree_flatten(sample)
            index = _image_of(leaves)
            if structure is not None and not all(step.v2 for step in self.steps):
                raise UnfusableError("v1's transforms take an image and nothing else")
            image: Any = leaves[index]
            made = self.recipe(kind_of(image))
            height, width = image.shape[-2:] if isinstance(image, Tensor) else image.size[::-1]
            self.check_sizes(height, width)
        except UnfusableError as error:
            return self.as_it_is(str(error), inputs)
        plan, drawn = self.draw(height, width)
        leaves[index] = rendered(image, made, plan)
        if structure is None:
            return leaves[0]
        for place, leaf in enumerate(leaves):
            if place != index and _moves(leaf):
                for step, params in zip(self.steps, drawn, strict=True):
                    leaf = step.replay(leaf, params) if step.moves else leaf
                leaves[place] = leaf
        return _pytree.tree_unflatten(leaves, structure)

    def as_it_is(self, reason: str, inputs: tuple[Any, ...]) -> Any:
        if self.explain and reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"fuse: a sample is left to torchvision, by {self}: {reason}", stacklevel=3)
        several = len(inputs) > 1
        outputs: Any = inputs
        for original in self.originals:
            outputs = original(*inputs)
            inputs = outputs if several else (outputs,)
        return outputs

    def recipe(self, kind: Kind) -> Recipe:
        known = self._recipes.get(kind)
        if known is None:
            try:
                known = recipe(self.steps, kind, self.exact)
            except UnfusableError as error:
                known = error
            self._recipes[kind] = known
        if isinstance(known, UnfusableError):
            raise known
        return known

    def check_sizes(self, height: int, width: int) -> None:
        """That no step needs what is beyond the image, for one of this size; before anything is drawn."""
        if height < 1 or width < 1:
            raise UnfusableError("an image without pixels")
        for step in self.steps:
            height, width = step.size(height, width)

    def draw(self, height: int, width: int) -> tuple[Plan, list[Any]]:
        """What the transforms draw, in their order: as a plan for the image, and each transform's own."""
        plan, drawn = Plan((0, 0, height, width)), []
        for step in self.steps:
            drawn.append(step.draw(height, width, plan))
            height, width = step.size(height, width)
        return plan, drawn


def rendered(image: Any, made: Recipe, plan: Plan) -> Any:
    """An image of Pillow's or a tensor, by the plan, in the recipe's container."""
    if made.source == "picture":
        levels, kept = _pillow.pixels(image)
        output = made.render(levels, plan)
        del kept
        if made.container == "picture":
            return _pillow.picture(output, image)
    else:
        output = made.render(image.as_subclass(Tensor), plan)
    if made.container == "image":
        from torchvision.tv_tensors import Image

        return Image(output)
    return output


def kind_of(image: Any) -> Kind:
    if not isinstance(image, Tensor):
        image.load()  # what a file says of itself may be another mode
        if image.mode not in _pillow.CHANNELS:
            raise UnfusableError(f"an image of Pillow's mode {image.mode}, whose pixels are not levels side by side")
        return Kind("picture", torch.uint8, _pillow.CHANNELS[image.mode], "cpu")
    if image.dtype not in DTYPES or image.dim() not in (3, 4) or image.layout is not torch.strided:
        raise UnfusableError(f"a tensor of {image.dim()} dimensions of {image.dtype}")
    if torch.compiler.is_compiling():
        raise UnfusableError("torch.compile fuses by itself")
    container = "tensor" if type(image) is Tensor else "image"
    return Kind(container, image.dtype, image.shape[-3], image.device.type)


def _image_of(leaves: list[Any]) -> int:
    """The place of the only image of a sample, which torchvision would take for it too."""
    from torchvision import tv_tensors

    images = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "getbands") or type(leaf) is tv_tensors.Image]
    tensors = [i for i, leaf in enumerate(leaves) if type(leaf) is Tensor]
    if len(images) > 1 or any(isinstance(leaf, tv_tensors.Video) for leaf in leaves):
        raise UnfusableError("several images, or a video")
    if any(type(leaf).__module__ == "numpy" and hasattr(leaf, "__array__") for leaf in leaves):
        raise UnfusableError("an array of numpy's")
    if not images and not tensors:
        raise UnfusableError("no image")
    if images and tensors and tensors[0] < images[0]:
        # Once the image is a tensor too, torchvision would take the first of them for it.
        raise UnfusableError("a tensor before the image")
    return images[0] if images else tensors[0]


def _moves(leaf: Any) -> bool:
    from torchvision.tv_tensors import TVTensor

    return isinstance(leaf, TVTensor)
