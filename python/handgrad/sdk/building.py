"""For setup.py: CMake builds the libraries, and one wheel serves every Python. The whole of a plugin's setup.py is

    from handgrad.sdk.building import setup

    setup("my_ops")

beside a CMakeLists.txt that calls ``handgrad_add_library``; everything else about the package is in its pyproject.toml.

Environment:
    HANDGRAD_CPU_LEVELS: which x86-64 levels to build, for example ``v3`` or ``v2;v3;v4`` (the default); ``native`` is
        this processor's.
    HANDGRAD_CUDA_ARCHS: which CUDA architectures to build where nvcc is found, for example ``90`` or ``80,90``;
        ``none`` builds no CUDA library. By default all that handgrad supports, and PTX for those to come.
    HANDGRAD_BUILD: ``native``: an editable install builds what this machine runs and nothing else (its processor's
        level, the architecture of its GPU if it has one, no emulator), in build/native, beside the whole build and not
        in its place: MY_OPS_LIBRARY_DIR=build/native/lib then asks for these libraries. ``whole`` is the default.
    CMAKE_ARGS: further arguments for CMake.

A plugin's editable install builds for this machine alone by default too, with the emulator.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

from . import cmake_dir

__all__ = ["BuildLibraries", "StableWheel", "setup"]

_SUFFIXES = (".so", ".dylib", ".dll")


def setup(package: str, copied: Mapping[str, str] | None = None, **options: Any) -> None:
    """Calls :func:`setuptools.setup` for a package whose modules are in ``python/<package>``.

    Args:
        package: its name.
        copied: folders of the source tree that go into the wheel, by their place in the package. An editable install
            has them in the source tree.
        options: what else :func:`setuptools.setup` is to be told.
    """
    command = type("BuildLibraries", (BuildLibraries,), {"packaged": package, "copied": dict(copied or {})})
    setuptools.setup(
        # A name is enough for setuptools to call build_ext; CMake knows the sources.
        ext_modules=[setuptools.Extension(f"{package}.lib", sources=[])],
        cmdclass={"build_ext": command, "bdist_wheel": StableWheel},
        **options,
    )


class BuildLibraries(build_ext):
    """Builds the libraries into the package's ``lib`` folder: in the source tree for an editable install."""

    packaged: str
    copied: Mapping[str, str]

    def run(self) -> None:
        root = Path.cwd()
        in_place = self.inplace or self.editable_mode
        native = _asked_for_native() and in_place
        package = (root / "python" if in_place else Path(self.build_lib).resolve()) / self.packaged
        build = root / "build" / ("native" if native else "cmake")
        folder = build / "lib" if native else package / "lib"
        arguments = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dhandgrad_DIR={cmake_dir()}",
            f"-DHANDGRAD_LIBRARY_DIR={folder}",
            # An editable install is for development, a wheel is not.
            f"-DHANDGRAD_EMULATED={'ON' if in_place and not native else 'OFF'}",
        ]
        self._build(root, build, [*arguments, *self._chosen(root, build, folder, arguments, in_place, native)])
        # Leftovers of an earlier build with other settings must not travel in a wheel.
        built = {name for path in (build / "libraries").glob("*.txt") for name in path.read_text().split()}
        for library in _libraries(folder):
            if library.name not in built:
                library.unlink()
        _check_schemas(root, self.packaged, _libraries(folder))
        if not in_place:
            for target, source in self.copied.items():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(root / source, package / target, ignore=ignored, dirs_exist_ok=True)

    def _chosen(
        self, root: Path, build: Path, folder: Path, arguments: list[str], in_place: bool, native: bool
    ) -> list[str]:
        """The levels and architectures to build for: those asked for, otherwise this machine's or all."""
        # A native build is for this machine, whatever a Makefile has set for the whole one.
        asked: Mapping[str, str] = {} if native else os.environ
        wanted = re.findall(r"[^,; ]+", asked.get("HANDGRAD_CPU_LEVELS", ""))
        machine = _of_this_machine()
        # For what is not asked for: a plugin is developed for this machine.
        unasked = machine if in_place else {}
        if (native or "native" in wanted) and not machine:
            # handgrad itself: its library of schemas is the one that knows what a processor can run.
            stem = self.packaged.rpartition(".")[2]
            self._build(root, build, arguments, stem)
            machine = _machine(_level_by(next(path for path in _libraries(folder) if path.stem == f"lib{stem}")))
            unasked = machine if native else {}
        named = [machine.get("HANDGRAD_CPU_LEVELS", "") if level == "native" else level for level in wanted]
        levels = ";".join(level for level in dict.fromkeys(named) if level) or unasked.get("HANDGRAD_CPU_LEVELS")
        architectures = asked.get("HANDGRAD_CUDA_ARCHS")
        architectures = unasked.get("HANDGRAD_CUDA_ARCHS") if architectures is None else architectures or "none"
        # What is not chosen is CMake's to choose, and not what an earlier build in the same folder was told.
        return [
            f"-DHANDGRAD_CPU_LEVELS={levels}" if levels else "-UHANDGRAD_CPU_LEVELS",
            "-UHANDGRAD_CUDA_ARCHS" if architectures is None else f"-DHANDGRAD_CUDA_ARCHS={architectures}",
        ]

    @staticmethod
    def _build(root: Path, build: Path, arguments: list[str], *targets: str) -> None:
        build.mkdir(parents=True, exist_ok=True)
        arguments = [*arguments, *shlex.split(os.environ.get("CMAKE_ARGS", ""))]
        subprocess.run(["cmake", "-S", root, "-B", build, "-G", "Ninja", *arguments], check=True)
        subprocess.run(["cmake", "--build", build, *(f"--target={target}" for target in targets)], check=True)

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / self.packaged
        copies = (path for target in self.copied for path in (package / target).rglob("*") if path.is_file())
        return [str(path) for path in (*_libraries(package / "lib"), *copies)]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def _asked_for_native() -> bool:
    asked = os.environ.get("HANDGRAD_BUILD", "whole")
    if asked not in ("whole", "native"):
        raise SystemExit(f"HANDGRAD_BUILD must be 'whole' (the default) or 'native'; got {asked!r}")
    return asked == "native"


def _libraries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES)


def _check_schemas(root: Path, package: str, libraries: list[Path]) -> None:
    """Schemas that torch cannot read, kernels without a schema, and functions that take other types than it has.

    The CUDA functions are checked where the emulated library is built, from the same source: CUDA's own libraries are
    no part of a build machine.
    """
    stem = f"lib{package.rpartition('.')[2]}"
    schema = [path for path in libraries if path.stem == stem]
    # The CPU libraries are one source; the emulated one registers its kernels in their place.
    cpu = [path for path in libraries if path.stem.startswith(f"{stem}_cpu")][:1]
    emulated = [path for path in libraries if path.stem == f"{stem}_emulated"]
    for kernels, sources in ((cpu, "*.cpp"), (emulated, "*.cu")):
        if schema and kernels:
            _check_library(root, package, [*schema, *kernels], sources)


def _check_library(root: Path, package: str, libraries: list[Path], sources: str) -> None:
    program = Path(__file__).with_name("checking.py")
    command = [sys.executable, "-W", "ignore", str(program), package, *map(str, libraries)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        for line in done.stdout.splitlines():
            name, _, problem = line.partition("\t")
            namespace, _, op = name.partition("::")
            if namespace == package:
                found = _lines_with(root, f'"{op}(', "*.cpp")
                found += _lines_with(root, f'"{op}"', sources) or _formula_of(root, op)
                raise SystemExit(f"{package}: {problem}: {', '.join(found) or 'csrc'}")
        return
    said = re.search(r"what\(\):\s*(.*)", done.stderr)
    if not said:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise SystemExit(f"{package}: {libraries[-1].name} was built and does not load: {last}")
    quoted = re.search(r"^\s*(\w+)(?:\.\w+)?\(.*\n\s*~*\s*<--- HERE", done.stderr, re.M)
    reason = said[1].split(" Common valid")[0]
    where = quoted[0].rstrip() if quoted else ""
    found = _lines_with(root, f"{quoted[1]}(", "*.cpp") if quoted else []
    raise SystemExit(
        f"{package}: a schema cannot be read by torch: {reason}\n{where}\nIt is written in {', '.join(found) or 'csrc'}"
    )


def _lines_with(root: Path, text: str, sources: str) -> list[str]:
    """The lines of the sources that register an op by ``text``, as file:line."""
    return [
        f"{path.relative_to(root)}:{number}"
        for path in sorted((root / "csrc").rglob(sources))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if text in line and ("def(" in line or "impl" in line or line.lstrip().startswith('"'))
    ]


def _formula_of(root: Path, op: str) -> list[str]:
    """Where no source names an op, its kind registers it, with the numbers that its formula has."""
    base = op.lstrip("_").removesuffix("_backward").removesuffix("_double")
    return [str(path.relative_to(root)) for path in sorted((root / "csrc").glob(f"*/{base}/{base}_math.h"))]


def _of_this_machine() -> dict[str, str]:
    """What development needs; empty while handgrad itself is being built, which is then not there to ask."""
    library = sys.modules.get("handgrad._library")
    return {} if library is None else _machine(library.LOADED.processor_level)


def _machine(level: str) -> dict[str, str]:
    """What a machine with a processor of this level runs."""
    import torch

    found = {"HANDGRAD_CUDA_ARCHS": "none"}
    if torch.cuda.is_available():
        found["HANDGRAD_CUDA_ARCHS"] = "{}{}".format(*torch.cuda.get_device_capability())
    if level in ("v2", "v3", "v4"):
        found["HANDGRAD_CPU_LEVELS"] = level
    return found


def _level_by(library: Path) -> str:
    """The processor's level, as the library that was just built sees it; torch's libraries must be there for it."""
    program = f"import ctypes, torch; print(ctypes.CDLL({str(library)!r}).handgrad_cpu_level())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    return f"v{done.stdout.strip()}"


class StableWheel(bdist_wheel):
    """One wheel for every Python: the libraries use torch's stable ABI and no Python symbol."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]
