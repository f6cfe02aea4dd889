"""The tools that read machine code, and whose a compiled function is: found by its name, as the files of several ops
may have been compiled as one."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"


def tool(name: str) -> str | None:
    """Where one of NVIDIA's tools is: in the package nvidia-cuda-<name>, or wherever it is found."""
    nvidia = importlib.util.find_spec("nvidia")
    folders = nvidia.submodule_search_locations or () if nvidia else ()
    packaged = [path for folder in folders for path in Path(folder).glob(f"*/bin/{name}")]
    return str(packaged[0]) if packaged else shutil.which(name)


def demangled(names: Iterable[str]) -> list[str]:
    said = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return said.stdout.splitlines()


def owner(name: str) -> str | None:
    """The op whose function this is, by its demangled name: in the op's namespace, or of a type that the op's files
    declare. None: of what ops share."""
    types = _owners_of_types()
    spaces = re.findall(r"\bhandgrad::(\w+)::", name)
    found = [space for space in spaces if space in _ops()] + [
        types[word] for word in re.findall(r"\w+", name) if word in types
    ]
    return found[0] if found else None


@functools.cache
def _ops() -> frozenset[str]:
    return frozenset(path.stem for path in CSRC.glob("*/*/*.cpp") if path.stem == path.parent.name)


@functools.cache
def _owners_of_types() -> dict[str, str]:
    """The op, by the names of types that its files declare and no others do."""
    declaring = defaultdict(set)
    for path in CSRC.rglob("*"):
        if path.suffix in {".h", ".cuh", ".cpp", ".cu"}:
            place = path.parent.name if path.parent.name in _ops() else ""
            for name in re.findall(r"^\s*(?:struct|class|enum(?: class)?|using) (\w+)\b", path.read_text(), re.M):
                declaring[name].add(place)
    return {name: next(iter(places)) for name, places in declaring.items() if len(places) == 1 and "" not in places}
