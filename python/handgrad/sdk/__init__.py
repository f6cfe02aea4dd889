"""What a package of ops of your own is built on: the headers, the CMake package, the loader.

    # my_ops/__init__.py
    from handgrad import sdk

    sdk.load("my_ops")

``python -m handgrad new`` writes such a package; docs/write-your-own.md tells the story. Imports within this package
are relative, because handgrad's own setup.py uses it before there is a handgrad to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loading import Loaded

__all__ = ["cmake_dir", "include_dir", "load", "templates_dir"]

_PACKAGE = Path(__file__).resolve().parent.parent
_ROOT = _PACKAGE.parents[1]


def include_dir() -> Path:
    """The folder of the C++ headers: ``common/`` for kernels, and ``emulator/``."""
    return _folder("include", "csrc")


def cmake_dir() -> Path:
    """The folder of handgrad's CMake package: what ``find_package(handgrad)`` takes as ``handgrad_DIR``."""
    return _folder("cmake", "cmake")


def templates_dir() -> Path:
    """The folder of the templates that ``python -m handgrad new`` and ``add`` fill in."""
    return _folder("templates", "templates")


def load(package: str) -> Loaded:
    """Loads the libraries of the importable ``package`` into this process, once; the first line of its ``__init__``.

    Raises:
        ImportError: with the reason and the remedy.
    """
    from .loading import load

    return load(package)


def _folder(installed: str, in_source_tree: str) -> Path:
    # An editable install has it where it is written, a wheel beside the modules.
    here = _PACKAGE / installed
    return here if here.is_dir() else _ROOT / in_source_tree
