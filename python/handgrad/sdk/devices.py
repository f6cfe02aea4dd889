"""Whether a package's CUDA kernels can run on this machine, found out before an op is called that could only fail.

Two questions, each asked where the answer is cheap and needs no CUDA context of its own:

* of the driver, before the kernels are loaded: is it new enough for the CUDA runtime that they were built with? Asked
  only where torch was built with an older CUDA; where not, torch itself finds no GPU under such a driver.
* of the GPUs, when torch begins to use them: is there machine code for them, or PTX that can become it?
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Build", "build_of", "driver_version", "lacking", "too_old", "when_used"]

_DRIVER = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")


@dataclass(frozen=True)
class Build:
    """What a CUDA library was built with.

    Args:
        version: the CUDA of its compiler and runtime, as (13, 0).
        machine: compute capabilities that it has machine code for, as 90.
        ptx: the same for PTX.
    """

    version: tuple[int, int]
    machine: tuple[int, ...]
    ptx: tuple[int, ...]

    def serves(self, capability: int) -> bool:
        """Machine code runs on later devices of its generation, PTX on all later ones."""
        same = any(capability // 10 == machine // 10 and capability >= machine for machine in self.machine)
        return same or any(capability >= ptx for ptx in self.ptx)


def build_of(schema: ctypes.CDLL) -> Build | None:
    """What the library of schemas says of the CUDA library beside it; None if it says nothing."""
    try:
        say = schema.handgrad_cuda_build
    except AttributeError:
        return None
    say.restype = ctypes.c_char_p
    version, _, architectures = say().decode().partition(" ")
    if not version:
        return None
    major, minor = map(int, version.split(".")[:2])
    found = {
        kind: tuple(int(number) for number in re.findall(rf"(\d+)[af]?-{kind}", architectures))
        for kind in ("real", "virtual")
    }
    return Build((major, minor), found["real"], found["virtual"])


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that this machine's driver has, as (12, 8); None where there is no driver."""
    try:
        driver, version = ctypes.CDLL(_DRIVER), ctypes.c_int()
        failed = driver.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or not version.value else (version.value // 1000, version.value % 1000 // 10)


def too_old(build: Build | None) -> str:
    """Why the driver cannot run the kernels; empty if it can, or if there is none and so no GPU."""
    if build is None or int((torch.version.cuda or "0").split(".")[0]) >= build.version[0]:
        return ""
    driver = driver_version()
    # Every driver of a major version runs the runtimes of that version.
    if driver is None or driver[0] >= build.version[0]:
        return ""
    return (
        f"they were built with CUDA {_text(build.version)}, and this machine's driver is one of CUDA {_text(driver)}: "
        f"update the driver to one of CUDA {build.version[0]}, or build from source with nvcc {driver[0]}"
    )


def lacking(build: Build | None) -> str:
    """Why a GPU that torch sees cannot run the kernels; empty if all can. Asked when CUDA is in use."""
    for index in range(torch.cuda.device_count()) if build else ():
        major, minor = torch.cuda.get_device_capability(index)
        if build and not build.serves(10 * major + minor):
            have = [f"sm_{number}" for number in build.machine] + [f"compute_{number}" for number in build.ptx]
            return (
                f"cuda:{index} ({torch.cuda.get_device_name(index)}) is sm_{10 * major + minor}, and they were built "
                f"for {', '.join(have)}: build from source with HANDGRAD_CUDA_ARCHS={10 * major + minor}"
            )
    return ""


def when_used(call: Callable[[], None]) -> None:
    """Calls ``call`` when torch has begun to use CUDA: now, or never."""
    torch.cuda._lazy_call(call)


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
