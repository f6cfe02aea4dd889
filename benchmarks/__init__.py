"""handgrad's benchmarks: ``python -m benchmarks --help``. How they measure and how to read them: docs/benchmarks.md."""
