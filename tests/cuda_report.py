"""What nvcc makes of the CUDA kernels, and the bytes they move, without a device: `make cuda-report`.

python tests/cuda_report.py                     every kernel, for sm_80, sm_90 and sm_100
python tests/cuda_report.py --archs 75,120      for others
python tests/cuda_report.py norm                only sources with this in their names

The machine code is read by cuobjdump and nvdisasm: registers, the stack of local arrays, static shared memory, the
widths of loads and stores of global memory in bytes, and the share of its threads that a multiprocessor can run at once
(dynamic shared memory, which a launch chooses, left aside). It is the library's own where that has been built for the
architecture; for others the sources are compiled now, and as in the build a register that spills is an error. The bytes
are counted by the emulator, on the large sample of each op's spec in float32, beside the fewest that could do.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handgrad.sdk.loading import LOADED, folder_of
from handgrad.testing import OpSpec, Sample
from ops_table import specs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # where this file is run as a program

from tools.machine_code import demangled, owner, tool  # noqa: E402

SOURCES = sorted(path for path in ROOT.glob("csrc/*/*/*_cuda.cu"))
#: Those that are looked at unless others are named.
ARCHITECTURES = (80, 90, 100)


@dataclass(frozen=True)
class Multiprocessor:
    """The limits of one multiprocessor, by CUDA's programming guide."""

    threads: int
    blocks: int
    shared: int
    registers: int = 65536

    def occupancy(self, block: int, registers: int, shared: int) -> float:
        """The share of its threads that run at once, in blocks of `block` threads."""
        warps = -(-block // 32)
        # Registers are given out to warps in pieces of 256, shared memory to blocks in pieces of 128 bytes, and a
        # kilobyte of it is the system's.
        by_registers = self.registers // (-(-registers * 32 // 256) * 256) // warps
        by_shared = self.shared // (-(-shared // 128) * 128 + 1024)
        return min(self.blocks, self.threads // block, by_registers, by_shared) * block / self.threads


MULTIPROCESSORS = {
    75: Multiprocessor(1024, 16, 64 * 1024),
    80: Multiprocessor(2048, 32, 164 * 1024),
    86: Multiprocessor(1536, 16, 100 * 1024),
    89: Multiprocessor(1536, 24, 100 * 1024),
    90: Multiprocessor(2048, 32, 228 * 1024),
    100: Multiprocessor(2048, 32, 228 * 1024),
    120: Multiprocessor(1536, 24, 100 * 1024),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel in one architecture's machine code."""

    name: str
    op: str | None  #: whose it is; None: of what ops share
    architecture: int
    threads: int
    registers: int
    stack: int  #: bytes of local memory for arrays; registers never spill into it
    shared: int
    loads: tuple[int, ...]
    stores: tuple[int, ...]

    @property
    def occupancy(self) -> float:
        return MULTIPROCESSORS[self.architecture].occupancy(self.threads, self.registers, self.shared)


def nvcc() -> str | None:
    return shutil.which("nvcc")


def tools() -> bool:
    """Whether what reads machine code is there."""
    return bool(tool("cuobjdump") and tool("nvdisasm"))


def _said(*command: str | Path, **kwargs: Any) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, **kwargs).stdout


#: The kernels that several ops use, where their sources were compiled as one.
SHARED = "shared"


def kernels(source: Path, architecture: int) -> list[Kernel]:
    """Every kernel of `source`: as the library in use has it, or compiled now where that is for other architectures."""
    op = source.stem.removesuffix("_cuda")
    return built(architecture).get(op) or _compiled(source, architecture)


@functools.cache
def built(architecture: int) -> dict[str, list[Kernel]]:
    """The kernels in handgrad's library, by the op."""
    library = next(iter(folder_of("handgrad").glob("libhandgrad_cuda.*")), None)
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        if library:
            _said(tool("cuobjdump"), "-xelf", f"sm_{architecture}", library, cwd=folder)
        for path in sorted(Path(folder).iterdir()):
            code = path.read_bytes()
            # nvcc names each file's anonymous namespace after the file and the number of its letters. One that is not
            # an op's stands for several that were compiled as one.
            alone = re.search(rb"_\d+_(\w+)_cuda_cu", code)
            for kernel in _read(code, architecture):
                found[alone[1].decode() if alone else kernel.op or SHARED].append(kernel)
    return dict(found)


def _compiled(source: Path, architecture: int) -> list[Kernel]:
    """With the flags of CMakeLists.txt."""
    include = Path(torch.__file__).parent / "include"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = [nvcc(), "-std=c++20", "-O3", "-DNDEBUG", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
        command += ["--expt-relaxed-constexpr", f"-I{ROOT / 'csrc/common'}", "-isystem", include]
        command += [f"-arch=sm_{architecture}", "-cubin", "-Xptxas=-warn-spills,-Werror", source, "-o", cubin]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc cannot compile {source.name} for sm_{architecture}:\n{done.stderr}")
        return _read(cubin.read_bytes(), architecture)


def _read(code: bytes, architecture: int) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        cubin.write_bytes(code)
        used = _said(tool("cuobjdump"), "-res-usage", cubin)
        notes = _said(tool("cuobjdump"), "-elf", cubin)
        instructions = _said(tool("nvdisasm"), cubin)
    threads = dict(re.findall(r"^\.nv\.info\.(\w+)\n(?:(?!\n\.).)*?MAX_THREADS.*?Value:\s+(0x\w+)", notes, re.M | re.S))
    accesses = {}
    for section in re.split(r"^\s*\.section\s+\.text\.", instructions, flags=re.M)[1:]:
        accesses[re.match(r"\w+", section)[0]] = (
            _widths("LDG?", section),
            # An atomic addition writes too.
            _widths("(?:STG?|REDG?|ATOMG?)", section),
        )
    found = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", used)
    names = demangled(name for name, *_ in found)
    return [
        Kernel(
            _short(name), owner(name), architecture, int(threads[mangled], 16), *map(int, resources), *accesses[mangled]
        )
        for name, (mangled, *resources) in zip(names, found, strict=True)
    ]


def _widths(instruction: str, code: str) -> tuple[int, ...]:
    """The bytes that the global loads or stores of one thread move at once, widest first."""
    found = set()
    for modifiers in re.findall(rf"\b{instruction}\.E((?:\.\w+)*)", code):
        sizes = re.findall(r"\.[USF]?(8|16|32|64|128|256)\b", modifiers)
        found.add(int(sizes[0]) // 8 if sizes else 4)
    return tuple(sorted(found, reverse=True))


def _short(name: str) -> str:
    name = re.sub(r"^void |handgrad::|\(anonymous namespace\)::|_GLOBAL__N__\w+::|c10::", "", name)
    for spelled, meant in (("(bool)1", "true"), ("(bool)0", "false"), ("(int)", "")):
        name = name.replace(spelled, meant)
    return name.split("(")[0]


# ---- bytes, counted by the emulator ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moved:
    """The bytes of one pass of one op: counted, the fewest possible, and how many times those its spec allows."""

    op: str
    pass_name: str
    counted: int
    floor: int
    allowed: float

    @property
    def factor(self) -> float:
        return self.counted / self.floor


def moved(ops: str = "") -> list[Moved]:
    """Counted in a process of its own, because the emulated kernels are chosen when handgrad is loaded."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--count", ops],
        env={**os.environ, "HANDGRAD_BACKEND": "emulated"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"counting bytes in the emulator failed:\n{done.stderr}")
    return [Moved(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def emulator() -> Any:
    """The emulator in this process, which has the emulated kernels."""
    location = importlib.util.spec_from_file_location("control", ROOT / "csrc/emulator/control.py")
    control = importlib.util.module_from_spec(location)
    location.loader.exec_module(control)
    return control.Emulator(LOADED["handgrad"].libraries["libhandgrad_emulated"])


def _count(ops: str) -> Iterator[Moved]:
    engine = emulator()
    for name, spec in specs().items():
        family, op = name.split(".")
        if ops not in name or not (ROOT / f"csrc/{family}/{op}/{op}_cuda.cu").exists():
            continue
        sample = spec.large.to(torch.float32)
        stated = spec.floor(sample) if spec.floor else {}
        engine.reset_counters()
        for name_of_pass, floor in _passes(spec, sample):
            counters = engine.counters().values()
            counted = sum(kernel["bytes_loaded"] + kernel["bytes_stored"] for kernel in counters)
            allowed = spec.floor_factors.get(name_of_pass, 1.05)
            yield Moved(name, name_of_pass, counted, stated.get(name_of_pass, floor), allowed)
            engine.reset_counters()


def _passes(spec: OpSpec, sample: Sample) -> Iterator[tuple[str, int]]:
    """Runs one pass after the other; yields its name, and the bytes of all tensors that go in and come out."""

    def size(*tensors: torch.Tensor) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    leaves = sample.leaves()
    outputs = spec.call(*leaves, **sample.kwargs)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    yield "forward", size(*leaves, *outputs)
    if not spec.derivatives:
        return
    directions = [torch.full_like(output, 0.5, requires_grad=True) for output in outputs]
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    grads = torch.autograd.grad(outputs, moving, directions, create_graph=True)
    yield "backward", size(*directions, *leaves, *grads)
    seconds = [torch.full_like(grad, 0.5) for grad in grads]
    torch.autograd.grad(grads, (*moving, *directions), seconds, materialize_grads=True)
    yield "double_backward", size(*grads, *directions, *leaves, *moving, *directions)


# ---- printing --------------------------------------------------------------------------------------------------------


def main() -> None:
    from tabulate import tabulate

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="parts of names of sources and ops; none: all of them")
    parser.add_argument("--archs", default=",".join(map(str, ARCHITECTURES)), help="architectures, separated by commas")
    parser.add_argument("--count", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count is not None:
        print(json.dumps([vars(row) for row in _count(arguments.count)]))
        return
    if not (nvcc() and tools()):
        sys.exit(
            "cuda-report needs nvcc, from a CUDA toolkit, and cuobjdump and nvdisasm "
            "(pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)."
        )
    rows = []
    of_sources = {source.name: functools.partial(kernels, source) for source in SOURCES}
    of_sources[SHARED] = lambda architecture: built(architecture).get(SHARED, [])
    for name, of_source in of_sources.items():
        if arguments.sources and not any(part in name for part in arguments.sources):
            continue
        for architecture in map(int, re.findall(r"\d+", arguments.archs)):
            for kernel in sorted(of_source(architecture), key=lambda kernel: kernel.name):
                widths = ["/".join(map(str, widths)) or "none" for widths in (kernel.loads, kernel.stores)]
                rows.append(
                    [
                        f"sm_{architecture}",
                        kernel.name,
                        kernel.registers,
                        kernel.stack,
                        kernel.shared,
                        f"{kernel.occupancy:.0%}",
                        *widths,
                    ]
                )
    print(tabulate(rows, ["", "kernel", "registers", "stack", "shared", "occupancy", "loads", "stores"]))
    print()
    rows = [
        [row.op, row.pass_name, row.counted, row.floor, f"{row.factor:.2f}", f"{row.allowed:.2f}"]
        for row in moved()
        if not arguments.sources or any(part in row.op for part in arguments.sources)
    ]
    print(tabulate(rows, ["op", "pass", "bytes, emulated", "floor", "factor", "allowed"]))


if __name__ == "__main__":
    main()
