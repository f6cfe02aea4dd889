"""What benchmarks of losses of labelled sets share: batches of as many samples of each class, and their bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from handgrad.benchmarking import Case


def case(
    name: str,
    count: int,
    width: int,
    of_each: int,
    ours: Callable[..., Tensor],
    peers: Mapping[str, Callable[..., Tensor]],
) -> Case:
    """A set of ``count`` embeddings, ``of_each`` of every label."""

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        embeddings = torch.randn(count, width, device=device, requires_grad=True)
        return embeddings, torch.arange(count, device=device) // of_each

    table = 4 * count * width
    return Case(
        name=f"{count} embeddings of {width}, {of_each} of each label, {name}",
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # The embeddings are read; backward reads them again and writes their gradient. What bounds both is the product
        # and the passes over the matrix of pairs: see the docs page.
        forward_bytes=table + 8 * count,
        backward_bytes=2 * table + 8 * count,
        tolerance=1e-3,
    )
