"""Transforms of a fused pipeline that are no part of a run, and still have a kernel."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree

from handgrad.transforms._torchvision import v2

#: Of torchvision's names; on a CPU these make the same levels.
_SAME = (
    "RandomAffine",
    "RandomRotation",
    "RandomPerspective",
    "AutoAugment",
    "RandAugment",
    "TrivialAugmentWide",
    "AugMix",
)
#: These make a level in some ten thousand another.
_NEARLY = ("GaussianBlur", "ElasticTransform")


class Alone(nn.Module):
    """A transform of torchvision's v2, called as handgrad's class of its name would be; as itself for a sample of
    another device, where torchvision's levels are others."""

    def __init__(self, original: Any, exact: bool) -> None:
        super().__init__()
        self.original, self.exact = original, exact

    def __str__(self) -> str:
        return type(self.original).__name__

    def forward(self, *inputs: Any) -> Any:
        if self.exact and any(isinstance(leaf, Tensor) and not leaf.is_cpu for leaf in _pytree.tree_leaves(inputs)):
            return self.original(*inputs)
        return self._ours()(*inputs)

    def kernels(self) -> str:
        return "a kernel of its own"

    def _ours(self) -> Any:
        """handgrad's class over the original's settings, whatever these are by now."""
        from handgrad import transforms

        ours = getattr(transforms, str(self))
        transform = ours.__new__(ours)
        transform.__dict__ = self.original.__dict__
        return transform


class Erasing(nn.Module):
    """torchvision's ``RandomErasing``, v1's or v2's, which writes into the image where the transform before has just
    made it: there is then no need for a copy."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.original = original

    def __str__(self) -> str:
        return type(self.original).__name__

    def forward(self, *inputs: Any, fresh: bool = False) -> Any:
        transform = self.original
        if fresh and not transform.inplace:
            transform = copy.copy(transform)
            transform.inplace = True
        return transform(*inputs)

    def kernels(self) -> str:
        return "in place"


def is_fresh(made: Any, given: Any) -> bool:
    """Whether no tensor of what was made shares memory with what it was made of."""
    before = _pytree.tree_leaves(given)
    known = {leaf.untyped_storage().data_ptr() for leaf in before if isinstance(leaf, Tensor)}
    tensors = [leaf for leaf in _pytree.tree_leaves(made) if isinstance(leaf, Tensor)]
    # Levels may be a picture's own memory, numbers cannot.
    if any(hasattr(leaf, "getbands") for leaf in before) and not all(leaf.is_floating_point() for leaf in tensors):
        return False
    return all(leaf.untyped_storage().data_ptr() not in known and not leaf.requires_grad for leaf in tensors)


def alone(original: Any, exact: bool) -> Alone | Erasing | None:
    """A transform by itself, if handgrad has one with its pictures."""
    name = type(original).__name__
    if name == "RandomErasing" and type(original).__module__.startswith("torchvision.transforms."):
        return Erasing(original)
    known = name in _SAME or (name in _NEARLY and not exact)
    return Alone(original, exact) if known and type(original) is getattr(v2, name) else None
