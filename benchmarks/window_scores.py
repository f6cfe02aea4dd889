"""What the benchmarks of window scores share: two images, the second the first with noise on it, and peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from handgrad.benchmarking import Case, Peer


def case(
    name: str,
    shape: tuple[int, ...],
    ours: Callable[..., Tensor],
    peers: Mapping[str, Callable[..., Tensor] | Peer],
    tolerance: float = 1e-3,
) -> Case:
    """``ours`` and peers take both images; the gradient is of the first."""

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        image = torch.rand(shape, device=device)
        return image.requires_grad_(), 0.8 * image.detach() + 0.2 * torch.rand(shape, device=device)

    image = 4 * torch.Size(shape).numel()
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=dict(peers),
        # Both images are read, and in the backward once more; a gradient is written.
        forward_bytes=2 * image,
        backward_bytes=3 * image,
        # E[x^2] - E[x]^2 as it stands.
        tolerance=tolerance,
    )


def peer_of(module: str, name: str, *args: Any, made: bool = False, **options: Any) -> Callable[..., Tensor]:
    """A function of another library, or the module that it makes, which is imported at the first call."""
    found: list[Any] = []

    def call(input: Tensor, target: Tensor) -> Tensor:
        if not found:
            import importlib

            thing = getattr(importlib.import_module(module), name)
            found.append(thing(*args, **options) if made else thing)
        return found[0](input, target) if made else found[0](input, target, *args, **options)

    return call
