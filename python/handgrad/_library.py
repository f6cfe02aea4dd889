"""Finds and loads the compiled libraries; says in a sentence what to do when that fails.

Loaded in this order: the signatures (``libhandgrad``), then the kernels for this processor (``libhandgrad_cpu_v4``,
``_v3`` or ``_v2`` on x86-64, ``libhandgrad_cpu`` elsewhere), then those for CUDA devices (``libhandgrad_cuda``), if
they were built and torch is a CUDA build; no GPU needs to be there.

Environment:
    HANDGRAD_BACKEND: ``emulated``: load the CUDA kernels, compiled for the CPU (``libhandgrad_emulated``, built for
        development), in place of the CPU kernels: whatever then runs on the CPU runs them.
    HANDGRAD_CUDA: ``off``: do not load the CUDA kernels; tensors on a GPU then run the reference in plain PyTorch.
    HANDGRAD_LIBRARY_DIR: load the libraries from this folder, for example a build with sanitizers.
    HANDGRAD_CPU_LEVEL: ``v2``, ``v3`` or ``v4``: load this CPU library instead of the best that the processor can run.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

OLDEST_TORCH = (2, 10)
_FOLDER = Path(os.environ.get("HANDGRAD_LIBRARY_DIR") or Path(__file__).resolve().parent / "lib")
_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


@dataclass
class Loaded:
    """What :func:`load` found: kept for ``python -m handgrad info``."""

    cpu_level: str = "none"
    processor_level: str = "none"
    libraries: dict[str, Path] = field(default_factory=dict)


def load() -> Loaded:
    """Loads the libraries into this process, once. Raises ImportError with the reason and the remedy."""
    _check_torch()
    loaded = Loaded()
    schema = _load_one("libhandgrad", loaded)
    level = int(schema.handgrad_cpu_level())
    loaded.processor_level = f"v{level}" if level else "generic"
    backend = os.environ.get("HANDGRAD_BACKEND", "")
    if backend not in ("", "emulated"):
        raise ImportError(f"HANDGRAD_BACKEND must be empty or 'emulated'; got {backend!r}.")
    if backend:
        loaded.cpu_level = backend
        _load_one("libhandgrad_emulated", loaded)
    else:
        loaded.cpu_level = _choose_cpu_level(level)
        _load_one("libhandgrad_cpu" + ("" if loaded.cpu_level == "generic" else f"_{loaded.cpu_level}"), loaded)
    cuda = os.environ.get("HANDGRAD_CUDA", "")
    if cuda not in ("", "on", "off"):
        raise ImportError(f"HANDGRAD_CUDA must be 'on' (the default) or 'off'; got {cuda!r}.")
    if cuda != "off" and torch.version.cuda and (_FOLDER / f"libhandgrad_cuda{_SUFFIX}").exists():
        _load_one("libhandgrad_cuda", loaded)
    return loaded


def _check_torch() -> None:
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < OLDEST_TORCH:
        raise ImportError(
            f"handgrad needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, and found torch {torch.__version__} in "
            f"{Path(torch.__file__).parent}. Update it with: pip install --upgrade torch"
        )


def _choose_cpu_level(processor: int) -> str:
    built = sorted(path.name.split("_")[-1][: -len(_SUFFIX)] for path in _FOLDER.glob(f"libhandgrad_cpu_v*{_SUFFIX}"))
    if not built:
        return "generic"
    asked = os.environ.get("HANDGRAD_CPU_LEVEL")
    if asked:
        if asked not in built:
            raise ImportError(f"HANDGRAD_CPU_LEVEL must be one of {', '.join(built)}; got {asked!r}.")
        if int(asked[1:]) > processor:
            raise ImportError(f"HANDGRAD_CPU_LEVEL is {asked}, but this processor can run v{processor} at most.")
        return asked
    usable = [level for level in built if int(level[1:]) <= processor]
    if not usable:
        raise ImportError(
            f"handgrad's CPU kernels need an x86-64-{built[0]} processor, and this one is v{processor}. "
            "Build from source with HANDGRAD_CPU_LEVELS=v2 to support older ones."
        )
    return usable[-1]


def _load_one(stem: str, loaded: Loaded) -> ctypes.CDLL:
    path = _FOLDER / f"{stem}{_SUFFIX}"
    if not path.exists():
        raise ImportError(
            f"handgrad's library {path.name} is not in {_FOLDER}: it was not built. From a checkout, run `pip install "
            "-e .` in its root; otherwise reinstall with `pip install --force-reinstall handgrad`."
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"handgrad's library {path} does not load into torch {torch.__version__} (it needs torch "
            f"{'.'.join(map(str, OLDEST_TORCH))} or newer for this platform): {error}. Update torch, or build handgrad "
            "from source against this one with: pip install --no-binary handgrad handgrad"
        ) from error
    loaded.libraries[stem] = path
    return library


LOADED = load()
