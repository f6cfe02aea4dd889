"""What each op costs: to build, to carry, to test, to read.

    python -m tools.costs                     bytes and lines; seconds of the last build, by ninja's clock
    python -m tools.costs --build --tests     compiles each file anew and runs each op's tests, in core-seconds
    python -m tools.costs --op roi_align      one op

An op's budget is its class's: `simple` are ops that choose among what they are given, without derivatives, and those
whose kernels are the loops over elements or pairs of upright boxes that csrc/common offers; all others are `hard`.
tests/test_costs.py holds bytes and lines to the budget.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from handgrad import _fat_binary
from tools.machine_code import demangled, owner, tool

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cmake"


@dataclass(frozen=True)
class Budget:
    """The most that one op may cost."""

    build: float  #: core-seconds, all libraries, one CUDA architecture
    tests: float  #: core-seconds
    # Compiled with other ops (UNITY), what several of them have a use for is none's.
    cpu: int  #: bytes of machine code in one CPU library
    cuda: int  #: bytes of compressed code for one CUDA architecture
    python: int  #: lines of the Python file that are no docstring


BUDGETS = {
    "simple": Budget(build=40, tests=40, cpu=150_000, cuda=120_000, python=90),
    "hard": Budget(build=90, tests=90, cpu=350_000, cuda=150_000, python=300),
}


@dataclass(frozen=True)
class Op:
    """An op's files, found by its name."""

    family: str
    name: str

    @property
    def folder(self) -> Path:
        return ROOT / "csrc" / self.family / self.name

    @property
    def python(self) -> Path:
        return ROOT / "python" / "handgrad" / self.family / f"{self.name}.py"

    def files(self) -> dict[str, Path]:
        """By the column that they are shown in; what an op does not have is left out."""
        named = {"py": self.python}
        named |= {path.name.removeprefix(self.name).lstrip("_"): path for path in sorted(self.folder.iterdir())}
        named["test"] = ROOT / "tests" / self.family / f"test_{self.name}.py"
        named["bench"] = ROOT / "benchmarks" / self.family / f"bench_{self.name}.py"
        named["docs"] = ROOT / "docs" / self.family / f"{self.name}.md"
        return {("schema" if column == ".cpp" else column): path for column, path in named.items() if path.exists()}

    @property
    def kind(self) -> str:
        """simple or hard, by what the op's C++ says of it."""
        schema = (self.folder / f"{self.name}.cpp").read_text()
        if f'"_{self.name}_backward(' not in schema:
            # A tensor without a name of its own is of indices, as in torch's own schemas.
            return "simple" if re.search(r'-> (Tensor|"\s*"\(Tensor indices\b[^)]*\))"', schema) else "hard"
        kernels = [path for path in self.folder.iterdir() if path.name.endswith(("_cpu.cpp", "_cuda.cu"))]
        loops = r'#include "(cpu|cuda|kinds)/(elementwise|box_pairs|box_matrix)\w*\.c?u?h"'
        texts = [path.read_text() for path in kernels]
        return "simple" if all(re.search(loops, text) and "kinds/rotated" not in text for text in texts) else "hard"

    @property
    def budget(self) -> Budget:
        return BUDGETS[self.kind]


def ops() -> list[Op]:
    """Every op of handgrad, by the folders of their C++."""
    schemas = sorted((ROOT / "csrc").glob("*/*/*.cpp"))
    return [Op(path.parts[-3], path.stem) for path in schemas if path.stem == path.parent.name]


@dataclass
class Costs:
    """What one op costs. Seconds and bytes are by library; what was not measured is empty."""

    build: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, int] = field(default_factory=dict)  #: by level
    cuda: dict[str, int] = field(default_factory=dict)  #: by architecture
    lines: dict[str, int] = field(default_factory=dict)  #: by kind of file
    python: int = 0  #: lines of the Python file that are no docstring
    tests: float | None = None


def costs(op: Op, build: Path = BUILD) -> Costs:
    """What can be read without building or testing."""
    found = Costs(lines={column: len(path.read_text().splitlines()) for column, path in op.files().items()})
    found.python = found.lines["py"] - lines_of_docstrings(op.python.read_text())
    for library, command in built(op, build).items():
        level = re.fullmatch(r"\w+?_cpu(?:_(v\d))?", library)
        if level:
            code = machine_code(command.output)
            found.cpu[level[1] or "generic"] = sum(code.values()) if command.alone else code.get(op.name, 0)
        elif library.endswith("_cuda"):
            share = 1.0 if command.alone else share_of_kernels(command.output, op)
            for entry in _fat_binary.entries(command.output.read_bytes()):
                found.cuda[entry.name] = found.cuda.get(entry.name, 0) + round(share * entry.size)
    return found


def lines_of_docstrings(source: str) -> int:
    """How many lines of a Python file belong to docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    strings = [node.body[0] for node in nodes if ast.get_docstring(node) is not None]
    return sum((string.end_lineno or string.lineno) - string.lineno + 1 for string in strings)


@functools.cache
def machine_code(path: Path) -> dict[str | None, int]:
    """Bytes of machine code in an object file by the op that they belong to; None: to what ops share. What the linker
    drops because another file has it too is included."""
    with path.open("rb") as file:
        return _by_owner(ELFFile(file))


def share_of_kernels(path: Path, op: Op) -> float:
    """How much of the machine code for CUDA devices in an object file belongs to the op's own kernels."""
    code = device_code(path)
    return code.get(op.name, 0) / max(sum(code.values()), 1)


@functools.cache
def device_code(path: Path) -> dict[str | None, int]:
    """The same of the kernels for CUDA devices in an object file, before they are compressed."""
    found: dict[str | None, int] = defaultdict(int)
    cuobjdump = tool("cuobjdump")
    assert cuobjdump, "cuobjdump must be there: pip install nvidia-cuda-cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([cuobjdump, "-xelf", "all", path], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for piece in Path(folder).iterdir():
            with piece.open("rb") as file:
                for op, size in _by_owner(ELFFile(file)).items():
                    found[op] += size
    return dict(found)


def _by_owner(elf: ELFFile) -> dict[str | None, int]:
    """Bytes of the functions that are defined there, by op."""
    table = elf.get_section_by_name(".symtab")
    functions = {
        (symbol["st_shndx"], symbol["st_value"]): symbol  # once, of several names
        for symbol in (table.iter_symbols() if isinstance(table, SymbolTableSection) else ())
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF"
    }
    found: dict[str | None, int] = defaultdict(int)
    names = demangled(symbol.name for symbol in functions.values())
    for name, symbol in zip(names, functions.values(), strict=True):
        found[owner(name)] += symbol["st_size"]
    return dict(found)


@dataclass(frozen=True)
class Command:
    """An entry of compile_commands.json that compiles one of an op's files."""

    directory: Path
    words: tuple[str, ...]
    output: Path
    source: Path  #: the op's file, or where it is emulated what wraps it
    alone: bool  #: whether the entry compiles no other op's file with it


def commands(op: Op, build: Path) -> dict[str, Command]:
    """What compiles the op's files, by library: alone, where others are compiled with them too."""
    listed: list[dict[str, Any]] = json.loads((build / "compile_commands.json").read_text())
    names = {f"{op.name}{ending}" for ending in ("", "_cpu", "_cuda")}
    found = {}
    for entry in listed:
        file = Path(entry["file"])
        alone = "/Unity/" not in entry["file"]
        # An emulated file is a wrapper with the name of what it wraps; the emulator's own have other names.
        sources = [file] if alone else map(Path, re.findall(r'#include "(.+)"', file.read_text()))
        for source in sources:
            if source.stem in names:
                library = re.search(r"CMakeFiles/(\w+)\.dir/", entry["output"])
                assert library, entry["output"]
                words = [str(source) if word == entry["file"] else word for word in shlex.split(entry["command"])]
                output = build / entry["output"]
                found[library[1]] = Command(Path(entry["directory"]), tuple(words), output, source, alone)
    return found


def built(op: Op, build: Path) -> dict[str, Command]:
    """What has compiled the op's files, by library. Raises where a file was not compiled, or before its source."""
    if not (build / "compile_commands.json").is_file():
        raise FileNotFoundError(f"{build} must hold a build of handgrad's libraries; there is none: run make build")
    found = commands(op, build)
    for library, command in found.items():
        # What is emulated wraps the op's CUDA source.
        emulated = library.endswith("_emulated")
        source = op.folder / command.source.with_suffix(".cu").name if emulated else command.source
        path = command.output
        if not path.is_file() or path.stat().st_mtime < source.stat().st_mtime:
            raise FileNotFoundError(f"{path} must be as new as {source.name}; it is not: run make build")
    return found


def clock_of_ninja(op: Op, build: Path) -> dict[str, float]:
    """How long the last compilation of each of the op's files took, by library, of those that were compiled alone.
    Others may have run beside it."""
    took: dict[str, float] = {}
    for line in (build / ".ninja_log").read_text().splitlines()[1:]:
        start, end, _, output, _ = line.split("\t")
        took[output] = (int(end) - int(start)) / 1000
    alone = {library: command.output for library, command in commands(op, build).items() if command.alone}
    outputs = {library: path.relative_to(build).as_posix() for library, path in alone.items()}
    return {library: took[output] for library, output in outputs.items() if output in took}


def measured_build(op: Op, build: Path) -> dict[str, float]:
    """Core-seconds that it takes to compile each of the op's files alone, by library."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for library, command in commands(op, build).items():
            words = list(command.words)
            words[words.index("-o") + 1] = f"{folder}/{library}.o"
            found[library] = core_seconds(words, command.directory)
    return found


def core_seconds(command: Sequence[str], directory: Path) -> float:
    """Processor time of a command and all that it starts, which must succeed."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = used()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}")
    return used() - before


# ---- the tables ------------------------------------------------------------------------------------------------------


def as_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns with two spaces between them, numbers at the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def summary(found: dict[Op, Costs]) -> str:
    """A row for each op: its totals beside its budget; what is over it has an exclamation mark."""

    def cell(value: float | None, limit: float, unit: float = 1) -> str:
        if value is None:
            return "-"
        return f"{value / unit:.0f}/{limit / unit:.0f}{'!' if value > limit else ' '}"

    rows = [
        [
            op.name,
            op.kind,
            cell(sum(cost.build.values()) if cost.build else None, op.budget.build),
            cell(max(cost.cpu.values(), default=None), op.budget.cpu, 1000),
            cell(max(cost.cuda.values(), default=None), op.budget.cuda, 1000),
            cell(cost.tests, op.budget.tests),
            cell(cost.python, op.budget.python),
        ]
        for op, cost in found.items()
    ]
    header = ["op", "class", "build s", "CPU level KB", "CUDA arch. KB", "tests s", "Python lines"]
    return as_table(header, rows)


def by(found: dict[Op, Costs], what: str, unit: float, digits: int) -> str:
    """One of the parts of the costs, with a column for each library, level, architecture or file."""
    parts: dict[Op, dict[str, float]] = {op: getattr(cost, what) for op, cost in found.items()}
    columns = list(dict.fromkeys(key for part in parts.values() for key in part))
    rows = [
        [op.name, *(f"{part[key] / unit:.{digits}f}" if key in part else "" for key in columns)]
        for op, part in parts.items()
    ]
    total: dict[str, float] = defaultdict(float)
    for part in parts.values():
        for key, value in part.items():
            total[key] += value / unit
    return as_table(["", *columns], [*rows, ["all", *(f"{total[key]:.{digits}f}" for key in columns)]])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", help="this op alone")
    parser.add_argument("--build", action="store_true", help="compile every file alone and measure it")
    parser.add_argument("--tests", action="store_true", help="run `make test OP=…` for every op and measure it")
    parser.add_argument("--build-dir", type=Path, default=BUILD, help="where CMake has built the libraries")
    asked = parser.parse_args(arguments)
    build = asked.build_dir.resolve()
    chosen = [op for op in ops() if asked.op in (None, op.name)]
    if not chosen:
        parser.error(f"--op must be one of {', '.join(op.name for op in ops())}; got {asked.op!r}")
    found = {}
    try:
        for op in chosen:
            found[op] = costs(op, build)
            found[op].build = measured_build(op, build) if asked.build else clock_of_ninja(op, build)
            if asked.tests:
                found[op].tests = core_seconds(["make", "-s", "test", f"OP={op.name}"], ROOT)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    clock = "core-seconds" if asked.build else "seconds of the last build by ninja's clock"
    print(f"Cost and budget of each op; ! is over it. Build: {clock}; tests: core-seconds.\n\n{summary(found)}")
    print(f"\nBuild, {clock}\n\n{by(found, 'build', 1, 1)}")
    print(f"\nMachine code of the CPU kernels, KB\n\n{by(found, 'cpu', 1000, 0)}")
    print(f"\nCode for CUDA devices, compressed, KB\n\n{by(found, 'cuda', 1000, 0)}")
    print(f"\nLines by file\n\n{by(found, 'lines', 1, 0)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
