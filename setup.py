"""Packaging calls CMake, as it does for every package of ops: handgrad.sdk.building, which see for the environment
variables. Everything else about the package is in pyproject.toml."""

import sys
from pathlib import Path

# From the source tree, and not as handgrad.sdk: there is no handgrad to import before it is built.
sys.path.insert(0, str(Path(__file__).resolve().parent / "python" / "handgrad"))
from sdk.building import setup

# Beside it lie modules named like other packages: onnx, for one.
sys.path.pop(0)

# What other people's ops are built on.
SDK = {
    "include/common": "csrc/common",
    "include/emulator": "csrc/emulator",
    "cmake": "cmake",
    "templates": "templates",
}
setup("handgrad", copied=SDK)
