"""DCNv3, 3 x 3: InternImage's first and third stage at 224 x 224 pixels, half types, and larger images."""

from __future__ import annotations

from benchmarks import deformed_groups
from handgrad.benchmarking import Benchmark
from handgrad.layers import dcnv3


def benchmark(quick: bool) -> Benchmark:
    return deformed_groups.benchmark("dcnv3", dcnv3, False, quick)
