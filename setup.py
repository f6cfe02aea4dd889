"""Packaging calls CMake; CMakeLists.txt describes the build. Everything else about the package is in pyproject.toml.

Environment:
    HANDGRAD_CPU_LEVELS: which x86-64 levels to build, for example ``v3`` or ``v2;v3;v4`` (the default).
    HANDGRAD_CUDA_ARCHS: which CUDA architectures to build where nvcc is found, for example ``90`` or ``80,90``
        (default: 75,80,86,90,100,120); PTX of the last goes in too, and ``none`` builds no CUDA library.
    CMAKE_ARGS: further arguments for CMake.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SUFFIXES = (".so", ".dylib", ".dll")


class BuildLibraries(build_ext):
    """Builds the libraries into the package's ``lib`` folder: in the source tree for an editable install."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = ROOT / "python" / "handgrad" if in_place else Path(self.build_lib).resolve() / "handgrad"
        build = ROOT / "build" / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        arguments = [f"-DPython_EXECUTABLE={sys.executable}", f"-DHANDGRAD_LIBRARY_DIR={package / 'lib'}"]
        if levels := os.environ.get("HANDGRAD_CPU_LEVELS"):
            arguments.append(f"-DHANDGRAD_CPU_LEVELS={levels}")
        if "HANDGRAD_CUDA_ARCHS" in os.environ:
            arguments.append(f"-DHANDGRAD_CUDA_ARCHS={os.environ['HANDGRAD_CUDA_ARCHS'] or 'none'}")
        arguments += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *arguments], check=True)
        subprocess.run(["cmake", "--build", build], check=True)
        # Leftovers of an earlier build with other settings must not travel in a wheel.
        built = (build / "libraries.txt").read_text().split()
        for library in self._libraries(package):
            if library.name not in built:
                library.unlink()
        if not in_place:
            # The headers that other people's ops are built on; an editable install has them in the source tree.
            shutil.copytree(ROOT / "csrc" / "common", package / "include" / "common", dirs_exist_ok=True)

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "handgrad"
        return [str(path) for path in (*self._libraries(package), *(package / "include").rglob("*.*h"))]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    @staticmethod
    def _libraries(package: Path) -> list[Path]:
        return sorted(path for path in (package / "lib").glob("*") if path.suffix in SUFFIXES)


class StableWheel(bdist_wheel):
    """One wheel for every Python: the libraries use torch's stable ABI and no Python symbol."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    # A name is enough for setuptools to call build_ext; CMake knows the sources.
    ext_modules=[Extension("handgrad.lib", sources=[])],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": StableWheel},
)
