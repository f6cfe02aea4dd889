"""MixUp and CutMix for batches, with what belongs to the images (docs/transforms/paste.md)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from handgrad.transforms._labelled import Part, beside, joined, pasted, within
from handgrad.transforms._pictures import wrapped
from handgrad.transforms._torchvision import v2
from handgrad.transforms.mixing import cutmix, mixup, rectangles_of_box


class _Mixes:
    """What torchvision's class makes of images is one call of the kernel; and what it refuses is mixed too."""

    num_classes: int | None
    _dist: Any

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        num_classes: int | None = None,
        labels_getter: Any = "default",
        per_image: bool = False,
    ) -> None:
        super().__init__(alpha=alpha, num_classes=num_classes, labels_getter=labels_getter)  # type: ignore[call-arg]
        self.per_image = per_image
        self._given_getter = labels_getter

    def forward(self, *inputs: Any) -> Any:
        from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask

        sample = inputs if len(inputs) > 1 else inputs[0]
        flat, spec = _pytree.tree_flatten(sample)
        beyond = any(isinstance(leaf, (BoundingBoxes, KeyPoints, Mask)) for leaf in flat)
        if not beyond and not self.per_image:
            return super().forward(*inputs)  # type: ignore[misc]
        if isinstance(sample, (list, tuple)) and len(sample) == 2 and isinstance(sample[1], (list, tuple)):
            mixed = self._with_targets(*sample)
            return tuple(mixed) if isinstance(sample, tuple) else mixed
        if any(isinstance(leaf, (BoundingBoxes, KeyPoints)) for leaf in flat):
            raise ValueError(
                f"{type(self).__name__}: boxes and keypoints must be in a list of targets, one an image, beside the "
                "images: (images, targets)"
            )
        return self._batch(sample, flat, spec)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if inpt is not params["labels"] and self._takes(inpt):
            self._check_image_or_video(inpt, batch_size=params["batch_size"])  # type: ignore[attr-defined]
            return wrapped(inpt, self._mixed(inpt.as_subclass(Tensor), params))
        return super().transform(inpt, params)  # type: ignore[misc]

    @staticmethod
    def _takes(inpt: Any) -> bool:
        from torchvision.tv_tensors import Image, Video

        types = (torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16)
        return type(inpt) in (Tensor, Image, Video) and inpt.dim() >= 4 and inpt.dtype in types and inpt.numel() > 0

    # ---- parameters --------------------------------------------------------------------------------------------------

    def _drawn(self, images: Tensor) -> dict[str, Any]:
        """torchvision's, the same for all images; or for each image of its own, and a partner."""
        if not self.per_image:
            return {**self.make_params([images]), "partner": None}  # type: ignore[attr-defined]
        count = images.shape[0]
        lam = self._dist.sample((count,)).reshape(count)
        return {**self._of_each(lam, *images.shape[-2:]), "partner": torch.randperm(count)}

    # ---- batches -----------------------------------------------------------------------------------------------------

    def _batch(self, sample: Any, flat: list[Any], spec: Any) -> Any:
        """Images and labels as tensors, and masks, one an image."""
        from torchvision.tv_tensors import Mask

        needs = self._needs_transform_list(flat)  # type: ignore[attr-defined]
        places = [place for place, leaf in enumerate(flat) if needs[place] and self._takes(leaf)]
        if not places:
            raise ValueError(f"{type(self).__name__}: there must be a batch of images, uint8 or floating-point")
        images = flat[places[0]]
        labels = None if self._has_no_labels(sample) else self._labels_getter(sample)  # type: ignore[attr-defined]
        params = self._drawn(images)
        for place, leaf in enumerate(flat):
            mixed = place in places or isinstance(leaf, Mask) or (leaf is labels and labels is not None)
            if mixed and leaf.shape[0] != images.shape[0]:
                raise ValueError(
                    f"{type(self).__name__}: all must have the batch of the images, {images.shape[0]}; got "
                    f"{tuple(leaf.shape)}"
                )
            if isinstance(leaf, Mask):
                flat[place] = Mask(self._mask(leaf.as_subclass(Tensor), params))
            elif labels is not None and leaf is labels:
                flat[place] = self._labels(leaf, params)
            elif place in places:
                flat[place] = wrapped(leaf, self._mixed(leaf.as_subclass(Tensor), params))
        return _pytree.tree_unflatten(flat, spec)

    def _has_no_labels(self, sample: Any) -> bool:
        """Where masks are all that there is."""
        from torchvision.tv_tensors import Mask

        second = sample[1] if isinstance(sample, (list, tuple)) and len(sample) > 1 else None
        return self._given_getter == "default" and isinstance(second, Mask)

    def _labels(self, labels: Tensor, params: dict[str, Any]) -> Tensor:
        if labels.dim() == 1 and self.num_classes is None:
            raise ValueError(f"{type(self).__name__}: num_classes must be given if labels are indices")
        lam: Any = params.get("lam_adjusted", params.get("lam"))
        partner = params["partner"]
        if partner is None:
            return self._mixup_label(labels, lam=lam)  # type: ignore[attr-defined]
        soft = nn.functional.one_hot(labels, self.num_classes or -1) if labels.dim() == 1 else labels
        soft = soft if soft.is_floating_point() else soft.float()
        weights = lam.to(soft)[:, None]
        return soft[partner.to(soft.device)] * (1 - weights) + soft * weights

    # ---- targets -----------------------------------------------------------------------------------------------------

    def _with_targets(self, images: Any, targets: Sequence[Any]) -> list[Any]:
        """Images, and a target for each: the boxes of both images, their masks and labels."""
        batch = images if isinstance(images, Tensor) else self._stacked(images)
        if batch.dim() != 4 or batch.shape[0] != len(targets):
            raise ValueError(
                f"{type(self).__name__}: there must be a target for each image; got {len(targets)} beside images of "
                f"{tuple(batch.shape)}"
            )
        params = self._drawn(batch)
        mixed: Any = wrapped(batch, self._mixed(batch.as_subclass(Tensor), params))
        count, canvas = len(targets), (batch.shape[-2], batch.shape[-1])
        partner = params["partner"]
        partners = [(n - 1) % count for n in range(count)] if partner is None else partner.tolist()
        made = []
        for n, other in enumerate(partners):
            semantic = partial(self._two_masks, params=params, n=n)
            # An image that is its own partner is itself.
            parts = self._parts(targets[n], targets[other], params, n) if n != other else [_whole(targets[n])]
            made.append(joined(parts, self._given_getter, canvas, semantic))
        if not isinstance(images, Tensor):
            mixed = [wrapped(image, one) for image, one in zip(images, mixed.unbind(0), strict=True)]
            mixed = tuple(mixed) if isinstance(images, tuple) else mixed
        return [mixed, tuple(made) if isinstance(targets, tuple) else made]

    def _stacked(self, images: Sequence[Any]) -> Tensor:
        shapes = {tuple(image.shape) if isinstance(image, Tensor) else None for image in images}
        if len(shapes) != 1 or None in shapes:
            raise ValueError(
                f"{type(self).__name__}: images must be tensors of one size; got {sorted(map(str, shapes))}"
            )
        return torch.stack([image.as_subclass(Tensor) for image in images])

    # ---- what the class says -----------------------------------------------------------------------------------------

    def _of_each(self, lam: Tensor, height: int, width: int) -> dict[str, Any]:
        raise NotImplementedError

    def _mixed(self, images: Tensor, params: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def _mask(self, masks: Tensor, params: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def _two_masks(self, masks: list[Tensor], params: dict[str, Any], n: int) -> Tensor:
        raise NotImplementedError

    def _parts(self, own: Any, other: Any, params: dict[str, Any], n: int) -> list[Part]:
        raise NotImplementedError


def _whole(target: Any) -> Part:
    return Part(target, lambda boxes: boxes, lambda masks: masks)


def _on(value: Any, images: Tensor) -> Any:
    return value.to(images.device, non_blocking=True) if isinstance(value, Tensor) else value


class MixUp(_Mixes, v2.MixUp):
    """torchvision's ``MixUp`` in one pass over memory, by :func:`handgrad.transforms.mixup`: the same draws, the same
    pictures and labels, of levels too.

    Beyond it: masks of classes beside the images become soft masks (batch, num_classes, height, width), mixed as labels
    are, with no class where a number is none of ``num_classes``; soft masks are mixed. Of ``(images, targets)`` with a
    target for each image, a dictionary with ``BoundingBoxes``, the boxes of both images stay, with their masks and
    labels.

    Args:
        alpha, num_classes, labels_getter: as torchvision has them; of targets, ``labels_getter`` is given each target.
        per_image: whether each image has a ``lam`` of its own, and a partner that is drawn, not the one before.

    Example:
        >>> mix = MixUp(num_classes=5, per_image=True)
        >>> images, labels = mix(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> labels.shape
        torch.Size([4, 5])
    """

    def _of_each(self, lam: Tensor, height: int, width: int) -> dict[str, Any]:
        return {"lam": lam}

    def _mixed(self, images: Tensor, params: dict[str, Any]) -> Tensor:
        return mixup(images, _on(params["lam"], images), _on(params.get("partner"), images))

    def _mask(self, masks: Tensor, params: dict[str, Any]) -> Tensor:
        if not masks.is_floating_point():
            if self.num_classes is None:
                raise ValueError("MixUp: num_classes must be given, to make soft masks of classes")
            classes = masks.squeeze(1) if masks.dim() == 4 and masks.shape[1] == 1 else masks
            known = torch.arange(self.num_classes, device=masks.device)
            masks = (classes.unsqueeze(1) == known[:, None, None]).float()
        return self._mixed(masks if masks.dim() > 3 else masks.unsqueeze(1), params).reshape(masks.shape)

    def _two_masks(self, masks: list[Tensor], params: dict[str, Any], n: int) -> Tensor:
        raise ValueError("MixUp: masks beside boxes must be one a box; those of whole images must be a batch")

    def _parts(self, own: Any, other: Any, params: dict[str, Any], n: int) -> list[Part]:
        return [_whole(own), _whole(other)]


class CutMix(_Mixes, v2.CutMix):
    """torchvision's ``CutMix`` in one pass over memory, by :func:`handgrad.transforms.cutmix`: the same draws, the same
    pictures and labels.

    Beyond it: masks beside the images are cut as the images are (vision#9215). Of ``(images, targets)`` with a target
    for each image, a dictionary with ``BoundingBoxes``, the boxes of both images stay where something of them is seen:
    those of the partner are cut off at the rectangle, of the image's own those shrink of which the rectangle hides a
    whole side. Emptied ones are dropped, with their masks and labels.

    Args:
        alpha, num_classes, labels_getter: as torchvision has them; of targets, ``labels_getter`` is given each target.
        per_image: whether each image has a rectangle of its own, and a partner that is drawn, not the one before.

    Example:
        >>> images, labels = CutMix(num_classes=5)(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> labels.sum(1)
        tensor([1., 1., 1., 1.])
    """

    def _of_each(self, lam: Tensor, height: int, width: int) -> dict[str, Any]:
        """As torchvision's, for all images at once: columns first, then rows."""
        columns, rows = torch.randint(width, lam.shape), torch.randint(height, lam.shape)
        reach = 0.5 * (1.0 - lam.double()).sqrt()
        half_width, half_height = (reach * width).long(), (reach * height).long()
        x1, x2 = (columns - half_width).clamp(min=0), (columns + half_width).clamp(max=width)
        y1, y2 = (rows - half_height).clamp(min=0), (rows + half_height).clamp(max=height)
        box = torch.stack([x1, y1, x2, y2], 1)
        return {"box": box, "lam_adjusted": 1.0 - (x2 - x1) * (y2 - y1) / (width * height)}

    def _mixed(self, images: Tensor, params: dict[str, Any]) -> Tensor:
        return cutmix(images, _on(_corner_and_size(params["box"]), images), _on(params.get("partner"), images))

    def _mask(self, masks: Tensor, params: dict[str, Any]) -> Tensor:
        box, partner = _on(_corner_and_size(params["box"]), masks), _on(params["partner"], masks)
        images = masks if masks.dim() > 3 else masks.unsqueeze(1)
        return pasted(images, rectangles=rectangles_of_box("CutMix", images, box, partner)).reshape(masks.shape)

    def _corners(self, params: dict[str, Any], n: int) -> tuple[int, int, int, int]:
        x1, y1, x2, y2 = params["box"][n].tolist() if isinstance(params["box"], Tensor) else params["box"]
        return x1, y1, x2, y2

    def _two_masks(self, masks: list[Tensor], params: dict[str, Any], n: int) -> Tensor:
        x1, y1, x2, y2 = self._corners(params, n)
        own, other = masks[0].clone(), masks[1]
        own[..., y1:y2, x1:x2] = other[..., y1:y2, x1:x2]
        return own

    def _parts(self, own: Any, other: Any, params: dict[str, Any], n: int) -> list[Part]:
        x1, y1, x2, y2 = self._corners(params, n)

        def hidden(masks: Tensor) -> Tensor:
            masks = masks.clone()
            masks[..., y1:y2, x1:x2] = 0
            return masks

        def seen(masks: Tensor) -> Tensor:
            kept = torch.zeros_like(masks)
            kept[..., y1:y2, x1:x2] = masks[..., y1:y2, x1:x2]
            return kept

        return [
            Part(own, lambda boxes: beside(boxes, x1, y1, x2, y2), hidden),
            Part(other, lambda boxes: within(boxes, x1, y1, x2, y2), seen),
        ]


def _corner_and_size(box: Any) -> Any:
    """From x1, y1, x2, y2 to top, left, height, width."""
    if isinstance(box, Tensor):
        x1, y1, x2, y2 = box.unbind(1)
        return torch.stack([y1, x1, y2 - y1, x2 - x1], 1)
    x1, y1, x2, y2 = box
    return [y1, x1, y2 - y1, x2 - x1]
