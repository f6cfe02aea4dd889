"""What the benchmarks of losses of all pairs share: 8,192 embeddings of 256 numbers and of length 1, beside the formula
as one would write it, with the matrix in memory, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, Peer, compiled

Loss = Callable[..., Tensor]
Peers = dict[str, Callable[..., Tensor] | Peer]


def embeddings(rows: int, features: int, device: torch.device) -> Tensor:
    return F.normalize(torch.randn(rows, features, device=device), dim=1).requires_grad_()


def labels_of(rows: int, device: torch.device) -> Tensor:
    """Ten rows of each label."""
    return torch.arange(rows, device=device) // 10


def case(
    size: tuple[int, int],
    inputs: Callable[[torch.device], tuple[Tensor, ...]],
    ours: Loss,
    by_hand: Loss,
    sides: int,
    peers: Peers,
) -> Case:
    """``sides``: how many tables of embeddings there are."""
    table = 4 * sides * size[0] * size[1]
    return Case(
        name=f"{size[0]} x {size[1]} float32",
        inputs=inputs,
        handgrad=ours,
        peers={**peers, "torch": by_hand, "torch, torch.compile": compiled(by_hand)},
        # Embeddings are read; in the backward read again, and gradients written. Products take longer than that.
        forward_bytes=table,
        backward_bytes=2 * table,
        # The gradient of a key is a sum over thousands of rows.
        tolerance=1e-3,
    )


def two_sided(quick: bool, ours: Loss, by_hand: Loss, *numbers: float, peers: Peers) -> Benchmark:
    """A loss of queries and keys, or of images and texts, with numbers that are learnt."""

    def of(rows: int, features: int) -> Case:
        def inputs(device: torch.device) -> tuple[Tensor, ...]:
            sides = (embeddings(rows, features, device), embeddings(rows, features, device))
            return (*sides, *(torch.tensor(number, device=device, requires_grad=True) for number in numbers))

        return case((rows, features), inputs, ours, by_hand, 2, peers)

    sizes = [(64, 16)] if quick else [(8192, 256), (1024, 512)]
    return Benchmark(op=ours.__name__, cases=[of(*size) for size in sizes])


def one_sided(
    quick: bool, op: str, ours: Loss, by_hand: Loss, labelled: bool, peers: Peers, most: int = 8192
) -> Benchmark:
    """A loss of one table of embeddings; ``most``: rows."""

    def of(rows: int, features: int) -> Case:
        def inputs(device: torch.device) -> tuple[Tensor, ...]:
            rows_of = embeddings(rows, features, device)
            return (rows_of, labels_of(rows, device)) if labelled else (rows_of,)

        return case((rows, features), inputs, ours, by_hand, 1, peers)

    sizes = [(64, 16)] if quick else [(most, 256), (1024, 512)]
    return Benchmark(op=op, cases=[of(*size) for size in sizes])


def metric_learning(name: str, temperature: float) -> Loss:
    """A loss of pytorch-metric-learning, of embeddings and labels, its mean over all rows."""
    made: list[Callable[..., Tensor]] = []

    def loss(rows: Tensor, labels: Tensor, **references: Tensor) -> Tensor:
        if not made:
            from pytorch_metric_learning import distances, losses, reducers

            # The embeddings have length 1 already; otherwise its gradient would be that before they were made so.
            products = distances.DotProductSimilarity(normalize_embeddings=False)
            mean = reducers.MeanReducer()
            made.append(getattr(losses, name)(temperature=temperature, distance=products, reducer=mean))
        return made[0](rows, labels, **references)

    return loss


def open_clip(name: str) -> Loss:
    made: list[Callable[..., Tensor]] = []

    def loss(*tensors: Tensor) -> Tensor:
        if not made:
            from open_clip import loss

            made.append(getattr(loss, name)())
        return made[0](*tensors)

    return loss
