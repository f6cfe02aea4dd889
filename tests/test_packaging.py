"""What travels in the wheel and in the source distribution (made by `make wheel`)."""

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
    assert wheel.stat().st_size - cuda < 5 * 2**20, f"{wheel.stat().st_size} bytes, {cuda} of them CUDA kernels"
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
