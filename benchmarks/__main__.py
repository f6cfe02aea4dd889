"""``python -m benchmarks``: runs the bench files here and writes their results."""

import sys
from pathlib import Path

from handgrad.benchmarking.command import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent, "handgrad"))
