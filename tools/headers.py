"""Compiles handgrad's sources against the headers of the torch that this Python has: people build plugins, and handgrad
itself, against any that is promised.

    .venv-abi/bin/python tools/headers.py

Which files, and how, is read from build/cmake, where the libraries were built against another torch: of C++ every
schema and every file of one CPU library, of which no code is made; of CUDA, which takes long, the least file. It
needs nothing but torch.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cmake"


def chosen(build: Path) -> Iterator[dict[str, Any]]:
    """The entries of compile_commands.json to try."""
    entries: list[dict[str, Any]] = json.loads((build / "compile_commands.json").read_text())
    libraries = sorted({_library(entry) for entry in entries})
    cpu = next((name for name in libraries if re.search(r"_cpu(_v\d)?$", name)), "")
    for entry in entries:
        if _library(entry) in (cpu, re.sub(r"_cpu(_v\d)?$", "", cpu)):
            yield entry
    cuda = [entry for entry in entries if _library(entry).endswith("_cuda")]
    if cuda:
        yield min(cuda, key=lambda entry: Path(entry["file"]).stat().st_size)


def _library(entry: dict[str, Any]) -> str:
    return str(entry["output"]).partition("CMakeFiles/")[2].partition(".dir")[0]


def against(entry: dict[str, Any], include: Path, output: Path) -> list[str]:
    """The entry's command, with torch's headers from ``include`` and no more work than it takes to read them."""
    words = shlex.split(entry["command"])
    # Torch's headers are all that comes from elsewhere, and so all that is a system's to the compiler.
    for index, word in enumerate(words):
        if word == "-isystem":
            words[index + 1] = str(include)
        elif word.startswith("-isystem"):
            words[index] = f"-isystem={include}"
    words[words.index("-o") + 1] = str(output)
    return [
        *(word for word in words if not re.fullmatch(r"-O\d", word)),
        "-O0" if entry["file"].endswith(".cu") else "-fsyntax-only",
    ]


def main(build: Path = BUILD) -> int:
    import torch

    include = Path(torch.__file__).parent / "include"
    count = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for entry in chosen(build):
            command = against(entry, include, Path(folder, "object.o"))
            done = subprocess.run(command, cwd=entry["directory"], capture_output=True, text=True)
            count += 1
            if done.returncode:
                failed += 1
                print(f"{entry['file']} does not compile:\n{(done.stdout + done.stderr)[:4000]}", file=sys.stderr)
    print(f"{count - failed} of {count} files compile against the headers of torch {torch.__version__}")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
