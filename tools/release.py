"""Says whether a wheel may be given to everybody: python tools/release.py dist

Refused is one that lacks an architecture that handgrad supports, as cmake/handgradConfig.cmake lists them, or PTX for
those to come; one that holds what is for development; one for this machine's C library alone; one too large for PyPI.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from handgrad import _fat_binary

ROOT = Path(__file__).resolve().parent.parent
#: What PyPI takes of a project that has not asked for more.
LARGEST = 100 * 10**6


def supported() -> list[int]:
    """The CUDA architectures that are built where nobody asks for others."""
    text = (ROOT / "cmake" / "handgradConfig.cmake").read_text()
    (listed,) = re.findall(r'set\(architectures "([\d;]+)"\)', text)
    return [int(architecture) for architecture in listed.split(";")]


def problems(wheel: Path, architectures: list[int]) -> Iterator[str]:
    """What keeps ``wheel`` from being released."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        libraries = {name: archive.read(name) for name in names if "/lib/lib" in name and "_cuda" in name}
    code = {entry.name for data in libraries.values() for entry in _fat_binary.entries(data)}
    machine = {int(match[1]) for name in code if (match := re.match(r"sm_(\d+)", name))}
    lacking = [f"sm_{architecture}" for architecture in architectures if architecture not in machine]
    if lacking:
        yield (
            f"it must hold machine code for {', '.join(map(str, architectures))}; it lacks {', '.join(lacking)}. Build "
            "it with HANDGRAD_CUDA_ARCHS unset, where nvcc and a CUDA build of torch are"
        )
    if not any(name.startswith("compute_") for name in code):
        yield "it must hold PTX, for devices to come; it holds none"
    if any("_emulated" in name for name in names):
        yield "it must not hold the emulated kernels, which are for development"
    if "-linux_" in wheel.name:
        yield "its platform must be manylinux; it is linux, which PyPI refuses (auditwheel repair names the right one)"
    size = wheel.stat().st_size
    if size > LARGEST:
        yield f"it must have {LARGEST // 10**6} MB at most; it has {size / 10**6:.1f}"


def drivers(wheel: Path) -> str:
    """The drivers that run the wheel's kernels: what its library of schemas says to the loader."""
    with zipfile.ZipFile(wheel) as archive:
        said = re.search(rb"\0(\d+)\.[\d.]+ \d+[af]?-real", archive.read("handgrad/lib/libhandgrad.so"))
    return f"drivers of CUDA {said[1].decode()} and newer" if said else "drivers that it does not name"


def main(folder: Path) -> int:
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        print(f"{folder} must hold one wheel; it holds {len(wheels)}: run make wheel", file=sys.stderr)
        return 1
    found = list(problems(wheels[0], supported()))
    for problem in found:
        print(f"{wheels[0].name} is no release: {problem}.", file=sys.stderr)
    if not found:
        print(f"{wheels[0]}: {wheels[0].stat().st_size / 10**6:.1f} MB, for {', '.join(map(str, supported()))} and PTX")
        print(f"Its CUDA kernels run under {drivers(wheels[0])}; under others the reference runs.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
