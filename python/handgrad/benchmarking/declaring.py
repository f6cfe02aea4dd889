"""What a bench file declares.

``bench_<op>.py``, anywhere under ``benchmarks/``, has one function, ``benchmark(quick)``, which returns a
:class:`Benchmark`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Forward = Callable[..., Any]
PASSES = ("forward", "forward+backward")


class BenchmarkError(Exception):
    """A comparison that would mean nothing: the two sides do not compute the same."""


@dataclass(frozen=True)
class Peer:
    """A peer that is more than a forward function.

    Args:
        forward: takes the case's inputs, returns the output, a tensor or a tuple of them; None where the peer has no
            forward pass of its own.
        with_gradients: takes the inputs, returns the output and the gradients of its sum for the differentiable inputs;
            None lets autograd do it.
        remark: what a reader must know about it, printed below the table.
        same: False for one that does the same job with another result by design; it is timed without being compared,
            and ``remark`` must say in what it differs.
    """

    forward: Forward | None
    with_gradients: Callable[..., tuple[Tensor, Sequence[Tensor]]] | None = None
    remark: str = ""
    same: bool = True

    def __post_init__(self) -> None:
        if not self.same and not self.remark:
            raise ValueError("remark must say in what a peer differs whose results are not compared; got ''")


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        name: what differs from the other cases, e.g. ``"100000x80 float32, mean"``.
        inputs: makes the tensors on a device; those that require a gradient are differentiated. Where none does, there
            is a forward pass only.
        handgrad: our function of these tensors.
        peers: the others, by name. A peer imports what it needs when called, so that one which is not installed becomes
            a row with the reason.
        forward_bytes, backward_bytes: what each pass must at least move between memory and processor: its inputs read
            once, its results written once.
        tolerance: largest difference allowed between our results and a peer's, relative to the largest value.
        levels: how far integers may be apart, which otherwise must be the same.
        as_found: peers timed once more before :func:`wake_vector_functions`, as a process finds torch.
    """

    name: str
    inputs: Callable[[torch.device], tuple[Tensor, ...]]
    handgrad: Forward
    peers: Mapping[str, Forward | Peer]
    forward_bytes: int
    backward_bytes: int = 0
    tolerance: float = 1e-4
    levels: int = 0
    as_found: Sequence[str] = ()


@dataclass(frozen=True)
class Sweep:
    """A curve: one case for each value of something. Timed forward+backward, where there is a backward, on all
    threads."""

    name: str
    axis: str
    values: Sequence[int]
    case: Callable[[int], Case]


@dataclass(frozen=True)
class Fact:
    """A single number, such as the time of an import; ``limit`` is what it may be at most."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Benchmark:
    """All that one bench file measures. ``facts`` is called when its turn comes, with the settings."""

    op: str
    cases: Sequence[Case] = ()
    sweeps: Sequence[Sweep] = ()
    facts: Callable[[Settings], list[Fact]] | None = None


@dataclass(frozen=True)
class Settings:
    """How long to measure. A block is how long one peer runs before the next has its turn; a comparison that would take
    longer than ``comparison_seconds`` has fewer rounds, but never under three. ``package`` is the name of our rows."""

    rounds: int = 9
    block_seconds: float = 0.02
    comparison_seconds: float = 4.0
    bandwidth_bytes: int = 256 * 2**20
    quick: bool = False
    package: str = "handgrad"

    @classmethod
    def for_quick(cls, package: str = "handgrad") -> Settings:
        return cls(
            3, block_seconds=0.002, comparison_seconds=0.5, bandwidth_bytes=16 * 2**20, quick=True, package=package
        )
