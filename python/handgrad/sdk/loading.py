"""Finds and loads a package's compiled libraries, handgrad's own among them; says what to do when that fails.

Loaded from the package's ``lib`` folder, in this order: the signatures (``libhandgrad``), then the kernels for this
processor (``libhandgrad_cpu_v4``, ``_v3`` or ``_v2`` on x86-64, ``libhandgrad_cpu`` elsewhere), then those for CUDA
devices (``libhandgrad_cuda``), if they were built and torch is a CUDA build; no GPU needs to be there. The libraries of
another package carry its name.

Where the CUDA kernels do not load, or cannot run on the driver or a GPU of this machine (:mod:`handgrad.sdk.devices`),
one warning says why, and tensors on a GPU run the reference in plain PyTorch; all else works.

Environment:
    HANDGRAD_BACKEND: ``emulated``: load the CUDA kernels, compiled for the CPU (``libhandgrad_emulated``, built for
        development), in place of the CPU kernels: whatever then runs on the CPU runs them. ``emulated:my_ops`` for the
        packages named alone, where the others have no such library; several have commas between them.
    HANDGRAD_CUDA: ``off``: do not load the CUDA kernels; tensors on a GPU then run the reference in plain PyTorch.
    HANDGRAD_LIBRARY_DIR: load the libraries from this folder, for example a build with sanitizers. For another package
        it is that one's name in capitals: MY_OPS_LIBRARY_DIR.
    HANDGRAD_CPU_LEVEL: ``v2``, ``v3`` or ``v4``: load this CPU library instead of the best that the processor can run.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import devices

__all__ = ["LOADED", "OLDEST_TORCH", "Loaded", "load"]

OLDEST_TORCH = (2, 10)
_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


@dataclass
class Loaded:
    """What :func:`load` found for one package."""

    cpu_level: str = "none"
    processor_level: str = "none"
    libraries: dict[str, Path] = field(default_factory=dict)
    #: What the CUDA kernels were built with, if that is known.
    cuda_build: devices.Build | None = None
    #: Why the CUDA kernels are not in use; empty if they are.
    without_cuda: str = ""
    #: Called if they are given up after they were loaded.
    listeners: list[Callable[[], None]] = field(default_factory=list)

    @property
    def emulated(self) -> Path | None:
        """The library with the emulated CUDA kernels, if it was loaded in place of the CPU kernels."""
        return next((path for stem, path in self.libraries.items() if stem.endswith("_emulated")), None)


#: What was loaded for each package so far.
LOADED: dict[str, Loaded] = {}


def load(package: str) -> Loaded:
    """Loads the libraries of ``package`` into this process, once. Raises ImportError with the reason and the remedy."""
    if package not in LOADED:
        LOADED[package] = _load(package, folder_of(package))
    return LOADED[package]


def folder_of(package: str) -> Path:
    """Where the libraries of ``package`` are looked for."""
    asked = os.environ.get(f"{package.upper().replace('.', '_')}_LIBRARY_DIR")
    if asked:
        return Path(asked)
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"handgrad.sdk.load: {package!r} must be the name of a package that can be imported.")
    return Path(spec.submodule_search_locations[0]).resolve() / "lib"


def _load(package: str, folder: Path) -> Loaded:
    _check_torch(package)
    stem = f"lib{package.rpartition('.')[2]}"
    loaded = Loaded()
    schema = _load_one(package, folder, stem, loaded)
    # handgrad's own library says what the processor can run; it is the first to be loaded.
    level = int(schema.handgrad_cpu_level()) if package == "handgrad" else _level_of(load("handgrad"))
    loaded.processor_level = f"v{level}" if level else "generic"
    if _is_emulated(package):
        loaded.cpu_level = "emulated"
        _load_one(package, folder, f"{stem}_emulated", loaded)
    else:
        loaded.cpu_level = _choose_cpu_level(package, folder, level)
        suffix = "" if loaded.cpu_level == "generic" else f"_{loaded.cpu_level}"
        _load_one(package, folder, f"{stem}_cpu{suffix}", loaded)
    loaded.cuda_build = devices.build_of(schema)
    _load_cuda(package, folder, f"{stem}_cuda", loaded)
    return loaded


def _load_cuda(package: str, folder: Path, stem: str, loaded: Loaded) -> None:
    asked = os.environ.get("HANDGRAD_CUDA", "")
    if asked not in ("", "on", "off"):
        raise ImportError(f"HANDGRAD_CUDA must be 'on' (the default) or 'off'; got {asked!r}.")
    if asked == "off":
        loaded.without_cuda = "HANDGRAD_CUDA is off"
    elif not torch.version.cuda:
        loaded.without_cuda = f"torch {torch.__version__} is a build without CUDA"
    elif not (folder / f"{stem}{_SUFFIX}").exists():
        loaded.without_cuda = "they were not built"
    elif reason := devices.too_old(loaded.cuda_build):
        give_up_cuda(package, loaded, reason)
    else:
        try:
            _load_one(package, folder, stem, loaded)
        except ImportError as error:
            give_up_cuda(package, loaded, str(error))
        else:
            devices.when_used(lambda: _look_at_gpus(package, loaded))


def _look_at_gpus(package: str, loaded: Loaded) -> None:
    if reason := devices.lacking(loaded.cuda_build):
        give_up_cuda(package, loaded, reason)
        for listener in loaded.listeners:
            listener()


def give_up_cuda(package: str, loaded: Loaded, reason: str) -> None:
    """Says, once, that and why tensors on a GPU run the reference."""
    loaded.without_cuda = reason
    warnings.warn(
        f"{package}'s CUDA kernels cannot be used, and tensors on a GPU run the reference in plain PyTorch, which is "
        f"slower. The reason: {reason.rstrip('.')}. HANDGRAD_CUDA=off in the environment leaves them out without this "
        "warning.",
        RuntimeWarning,
        stacklevel=2,
    )


def _level_of(loaded: Loaded) -> int:
    return 0 if loaded.processor_level == "generic" else int(loaded.processor_level[1:])


def _is_emulated(package: str) -> bool:
    asked = os.environ.get("HANDGRAD_BACKEND", "")
    backend, _, packages = asked.partition(":")
    if backend not in ("", "emulated") or (packages and not backend):
        raise ImportError(f"HANDGRAD_BACKEND must be empty, 'emulated' or 'emulated:package,...'; got {asked!r}.")
    return bool(backend) and (not packages or package in packages.split(","))


def _check_torch(package: str) -> None:
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < OLDEST_TORCH:
        raise ImportError(
            f"{package} needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, and found torch {torch.__version__} "
            f"in {Path(torch.__file__).parent}. Update it with: pip install --upgrade torch"
        )


def _choose_cpu_level(package: str, folder: Path, processor: int) -> str:
    stem = f"lib{package.rpartition('.')[2]}_cpu_"
    built = sorted(path.name[len(stem) : -len(_SUFFIX)] for path in folder.glob(f"{stem}v*{_SUFFIX}"))
    if not built:
        return "generic"
    asked = os.environ.get("HANDGRAD_CPU_LEVEL")
    if asked:
        if asked not in built:
            raise ImportError(f"HANDGRAD_CPU_LEVEL must be one of {', '.join(built)} for {package}; got {asked!r}.")
        if int(asked[1:]) > processor:
            raise ImportError(f"HANDGRAD_CPU_LEVEL is {asked}, but this processor can run v{processor} at most.")
        return asked
    usable = [level for level in built if int(level[1:]) <= processor]
    if not usable:
        raise ImportError(
            f"{package}'s CPU kernels need an x86-64-{built[0]} processor, and this one is v{processor}. "
            "Build from source with HANDGRAD_CPU_LEVELS=v2 to support older ones."
        )
    return usable[-1]


def _load_one(package: str, folder: Path, stem: str, loaded: Loaded) -> ctypes.CDLL:
    path = folder / f"{stem}{_SUFFIX}"
    if not path.exists():
        remedy = (
            f"From a checkout, run `pip install -e .` in its root; otherwise reinstall with `pip install "
            f"--force-reinstall {package}`."
        )
        if stem.endswith("_emulated"):
            remedy = (
                "From a checkout, `pip install -e .` in its root builds it; a wheel has none. "
                "HANDGRAD_BACKEND=emulated:my_ops asks it of the package my_ops alone."
            )
        raise ImportError(f"{package}'s library {path.name} is not in {folder}: it was not built. {remedy}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"{package}'s library {path} does not load into torch {torch.__version__} (it needs torch "
            f"{'.'.join(map(str, OLDEST_TORCH))} or newer for this platform): {error}. Update torch, or build "
            f"{package} from source against this one with: pip install --no-binary {package} {package}"
        ) from error
    loaded.libraries[stem] = path
    return library
