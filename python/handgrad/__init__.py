"""Vision layers, losses and transforms for PyTorch: C++ and CUDA kernels with hand-written backward passes."""

import sys
from typing import TYPE_CHECKING

from handgrad._version import __version__
from handgrad.sdk import lazy

try:
    from handgrad import _library  # noqa: F401  loads the compiled ops; everything below needs them
except ImportError:
    # `python -m handgrad info` is there to say why. While Python looks for what -m names, sys.argv[0] is "-m".
    if sys.argv[:1] != ["-m"] or ("-m", "handgrad") not in zip(sys.orig_argv, sys.orig_argv[1:], strict=False):
        raise

if TYPE_CHECKING or not lazy.exports(__name__):
    from handgrad import boxes, layers, losses, transforms

__all__ = ["__version__", "boxes", "layers", "losses", "transforms"]
