"""What comes out of a run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from handgrad.benchmarking.declaring import PASSES, Fact


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median, quartiles and best over the rounds."""

    median: float
    low: float
    high: float
    best: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        if len(samples) < 2:
            return cls(*4 * [samples[0]])
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(middle, low, high, min(samples))


@dataclass
class Row:
    """One implementation in one pass. ``ratio`` is its time over ours; above 1, ours is faster."""

    implementation: str
    time: Timing | None = None
    ratio: float | None = None
    peak_bytes: int | None = None
    error: str = ""
    as_found: bool = False


@dataclass
class Table:
    """One case, one pass, one number of threads."""

    op: str
    case: str
    device: str
    threads: int
    step: str
    rows: list[Row]
    bytes: int
    # Seconds that the bytes take at the bandwidth of memory, and of a working set of this case's size.
    floor: float
    cached_floor: float
    working_set: int
    best_peer: str = ""
    ratio_to_best: float | None = None
    floor_share: float | None = None
    cached_floor_share: float | None = None

    @property
    def ours(self) -> Row:
        return self.rows[0]


@dataclass
class Curve:
    """One line of a sweep's plot; a value that could not be measured is None, the reason in ``errors``."""

    implementation: str
    seconds: list[float | None] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class SweepResult:
    op: str
    name: str
    axis: str
    values: list[int]
    device: str
    threads: int
    curves: list[Curve]
    step: str = PASSES[1]


@dataclass
class Results:
    machine: dict[str, Any]
    settings: dict[str, Any]
    bandwidth: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    sweeps: list[SweepResult] = field(default_factory=list)
    facts: dict[str, list[Fact]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarize(table: Table) -> Table:
    """Fills in what follows from the rows: the best peer, our ratio to it, our share of the floor."""
    assert table.ours.time is not None
    peers = {row.implementation: row.time.median for row in table.rows[1:] if row.time is not None}
    if peers:
        table.best_peer = min(peers, key=lambda name: peers[name])
        table.ratio_to_best = peers[table.best_peer] / table.ours.time.median
    table.floor_share = table.floor / table.ours.time.median
    table.cached_floor_share = table.cached_floor / table.ours.time.median
    return table
