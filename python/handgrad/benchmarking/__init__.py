"""Benchmarks of ops beside their peers: what ``benchmarks/**/bench_<op>.py`` is written with.

How they measure and how to read them: docs/benchmarks.md. Needs ``pip install handgrad[bench]``.
"""

from handgrad.benchmarking.declaring import Benchmark, BenchmarkError, Case, Fact, Peer, Settings, Sweep
from handgrad.benchmarking.measuring import interleave
from handgrad.benchmarking.peers import compiled

__all__ = [
    "Benchmark",
    "BenchmarkError",
    "Case",
    "Fact",
    "Peer",
    "Settings",
    "Sweep",
    "compiled",
    "interleave",
]
