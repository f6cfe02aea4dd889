"""Losses of sets of labelled embeddings, from all pairs of a set: all but the formula of an anchor.

The op's schema is ``foo(Tensor embeddings, Tensor labels, <numbers>) -> Tensor``: of embeddings (sets, N, D) and labels
(sets, N) it returns (sets, N, 2), each anchor's loss and the number of terms that it is a sum of. Its private ops' are
as :mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/set_loss.h``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_gradient
from handgrad.arguments import check_tensor, computed_dtype, dtype_name
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.kinds.reduced_loss import LossModule
from handgrad.reductions import MEAN, NONE, reduction_code

__all__ = ["SetLoss", "SetLossModule", "squared_distances"]


class SetLoss(Derivatives):
    """Registers a loss of sets and calls it, with the checks that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: ``reference(embeddings, same, other, *numbers)`` in plain PyTorch, of embeddings (sets, N, D) and
            masks (sets, N, N) of which pairs are positive and which negative: each anchor's loss and number of terms,
            both (sets, N). It gets float32 or float64.
    """

    def __init__(self, name: str, reference: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.of_anchors = reference
        super().__init__(
            name,
            reference=self._named_after(reference),
            fake=self.fake_losses,
            roles={"embeddings": BATCHED, "labels": BATCHED, "output": BATCHED},
            gradient_like=empty_gradient,
            autocast=torch.float32,
        )

    def __call__(self, embeddings: Tensor, labels: Tensor, reduction: str, *numbers: Any) -> Tensor:
        """The loss; numbers that a user typed are checked by the caller."""
        check_tensor(self.title, "embeddings", embeddings)
        check_tensor(self.title, "labels", labels)
        code = reduction_code(self.title, reduction)
        if embeddings.dim() != 2 or not embeddings.is_floating_point():
            raise RuntimeError(
                f"{self.title}: embeddings must have shape (N, D), and be float32, float64, bfloat16 or float16; got "
                f"{tuple(embeddings.shape)} of {dtype_name(embeddings.dtype)}"
            )
        if not (labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool):
            labels = labels.to(torch.int64)
        results = self.forward(embeddings.unsqueeze(0), labels.unsqueeze(0), *numbers).squeeze(0)
        losses, terms = results.select(1, 0), results.select(1, 1).detach()
        if code == NONE:
            return losses / terms.clamp(min=1)
        return losses.sum() / terms.sum().clamp(min=1) if code == MEAN else losses.sum()

    def _named_after(self, reference: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
        def of_sets(embeddings: Tensor, labels: Tensor, *numbers: Any) -> Tensor:
            is_same = labels.unsqueeze(2) == labels.unsqueeze(1)
            numbered = torch.arange(labels.shape[1], device=labels.device)
            itself = numbered.unsqueeze(1) == numbered
            results = reference(embeddings.to(computed_dtype(embeddings)), is_same & ~itself, ~is_same, *numbers)
            return torch.stack(results, 2)

        # Whose it is: registration names the op's public function by its module.
        of_sets.__module__ = reference.__module__
        return of_sets

    def fake_losses(self, embeddings: Tensor, labels: Tensor, *numbers: Any) -> Tensor:
        said = f"{self.title}: embeddings must have shape (sets, N, D); got {tuple(embeddings.shape)}"
        torch._check(embeddings.dim() == 3, functools.partial(str, said))
        said = (
            f"{self.title}: labels must be int64, one for each of the embeddings, here {tuple(embeddings.shape[:2])}; "
            f"got {tuple(labels.shape)} of {labels.dtype}"
        )
        torch._check(labels.dim() == 2, functools.partial(str, said))
        for given, wanted in zip(labels.shape, embeddings.shape, strict=False):
            torch._check(given == wanted, functools.partial(str, said))
        said = f"{self.title}: labels must be on the device of embeddings, {embeddings.device}; got {labels.device}"
        torch._check(labels.device == embeddings.device, functools.partial(str, said))
        return embeddings.new_empty((*embeddings.shape[:2], 2), dtype=computed_dtype(embeddings))


class SetLossModule(LossModule):
    """A loss of a set as a module, ``function(embeddings, labels, **numbers, reduction=...)``."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return super().forward(embeddings, labels)


# ---- what references are made of -------------------------------------------------------------------------------------


def squared_distances(embeddings: Tensor) -> Tensor:
    """Of all pairs, (sets, N, N), by differences."""
    differences = embeddings.unsqueeze(2) - embeddings.unsqueeze(1)
    return (differences * differences).sum(3)
