"""Vision layers, losses and transforms for PyTorch: C++ and CUDA kernels with hand-written backward passes."""

from handgrad._version import __version__  # noqa: I001
from handgrad import _library  # noqa: F401  loads the compiled ops; everything below needs them
from handgrad import layers, losses

__all__ = ["__version__", "layers", "losses"]
