"""What travels in the wheel and in the source distribution (made by `make wheel`)."""

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SDK = {
    "include/common": "csrc/common",
    "include/emulator": "csrc/emulator",
    "cmake": "cmake",
    "templates": "templates",
}


def built(pattern: str) -> Path:
    found = sorted((ROOT / "dist").glob(pattern))
    assert len(found) == 1, f"expected one {pattern} in dist/, found {found}: run make wheel"
    return found[0]


def test_wheel():
    wheel = built("*.whl")
    # any Python, one platform
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    entries = zipfile.ZipFile(wheel).infolist()
    # Machine code for GPUs is as large as there are architectures to build for; all else stays small.
    cuda = sum(entry.compress_size for entry in entries if "libhandgrad_cuda" in entry.filename)
    ops = sum((path / f"{path.name}.cpp").exists() for path in ROOT.glob("csrc/*/*"))
    assert wheel.stat().st_size - cuda < ops * 200 * 2**10, f"{wheel.stat().st_size} bytes, {cuda} of them CUDA kernels"
    names = {entry.filename for entry in entries if not entry.is_dir()}
    sources = {
        f"handgrad/{path.relative_to(ROOT / 'python/handgrad')}" for path in ROOT.glob("python/handgrad/**/*.py")
    }
    assert sources <= names
    libraries = {Path(name).name for name in names if name.startswith("handgrad/lib/")}
    # The emulated library is for development.
    here = {path.name for path in (ROOT / "python/handgrad/lib").iterdir() if "emulated" not in path.name}
    assert libraries == here
    # What other people's ops are built on: headers, the emulator, the CMake package, the templates.
    for place, source in SDK.items():
        there = {name.removeprefix(f"handgrad/{place}/") for name in names if name.startswith(f"handgrad/{place}/")}
        written = {path for path in (ROOT / source).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert there == {str(path.relative_to(ROOT / source)) for path in written}, place
    assert "handgrad/py.typed" in names
    foreign = {name.split("/")[0] for name in names} - {"handgrad"}
    assert all(name.endswith(".dist-info") for name in foreign), foreign


def test_wheel_needs_torch_alone():
    wheel = zipfile.ZipFile(built("*.whl"))
    metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA"))
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert required == ["Requires-Dist: torch>=2.10"]


@pytest.mark.parametrize("part", ["csrc", "python", "cmake", "templates"])
def test_source_distribution(part):
    with tarfile.open(built("*.tar.gz")) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / part).rglob("*")
        if path.suffix in {".h", ".cuh", ".cpp", ".cu", ".py", ".cmake", ".jinja"}
    }
    assert wanted <= names, sorted(wanted - names)
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names


# ---- what make asks for ----------------------------------------------------------------------------------------------


@pytest.fixture
def makefile(tmp_path):
    """The Makefile in a folder with nothing to build."""
    for folder in ("csrc", "examples", "python", "templates", "tests", ".venv"):
        (tmp_path / folder).mkdir()
    for name in ("Makefile", "CMakeLists.txt", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/.torch").touch()
    return tmp_path


def make(folder: Path, *arguments: str) -> str:
    """What make would do."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HANDGRAD_", "MAKE"))}
    done = subprocess.run(["make", "-n", *arguments], cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_is_for_all_architectures_and_one_for_tests_for_one(makefile):
    stamps = {
        "wheel": "all-all",
        "release": "all-all",
        "test": "90-v2-native",
        "bench": "90-v2-native",
        "wheel HANDGRAD_CUDA_ARCHS=75;80": "75-80-all",
        "wheel HANDGRAD_CPU_LEVELS=v3": "all-v3",
    }
    for command, stamp in stamps.items():
        assert re.findall(r"touch dist/\.built-(\S+)", make(makefile, *command.split())) == [stamp]
    # What was built for another purpose does not stand for it.
    (makefile / ".venv/.built").touch()
    (makefile / "dist").mkdir()
    (makefile / "dist/.built-90-v2-native").touch()
    assert "touch dist" not in make(makefile, "test")
    assert "touch dist/.built-all-all" in make(makefile, "wheel")


@pytest.mark.parametrize("example", ["demo", "detect", "segment", "embed"])
def test_an_example_builds_what_it_runs_unless_all_is_there(makefile, example):
    asked = make(makefile, example)
    assert "HANDGRAD_BUILD=native" in asked
    assert ".venv/.built" not in re.findall(r"touch (\S+)", asked)
    (makefile / ".venv/.built").touch()
    assert "HANDGRAD_BUILD=native" not in make(makefile, example)
    newer = (makefile / ".venv/.built").stat().st_mtime + 10
    os.utime(makefile / "setup.py", (newer, newer))
    assert "HANDGRAD_BUILD=native" in make(makefile, example)
