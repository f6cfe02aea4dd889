"""Texts become files, all of them or none; and the lines that show a new op in files that exist."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from handgrad._scaffold.naming import Named, ScaffoldError

_WIDE = {"losses": "Losses", "layers": "Layers", "boxes": "Boxes"}


def write(root: Path, texts: Mapping[str, str], called: str) -> list[Path]:
    """Writes ``texts`` under ``root``, formatted; returns the files. Where one cannot be written, none is, and the
    error message calls ``root`` as the author did: ``called``."""
    try:
        with _beside(root) as draft:
            for name, text in texts.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_text(text, encoding="utf-8")
            _format(draft, root, list(texts))
            _move(draft, root, list(texts))
    except OSError as error:
        raise ScaffoldError(f"{called} must be a folder that can be written to; {root}: {error.strerror}.") from None
    return [root / name for name in texts]


@contextlib.contextmanager
def _beside(root: Path) -> Iterator[Path]:
    """A folder on the file system of ``root``, inside of it where it exists: the formatters then find its settings."""
    parents = [path for path in (root, *root.absolute().parents) if path.exists()]
    with tempfile.TemporaryDirectory(prefix=".handgrad-", dir=parents[0]) as draft:
        yield Path(draft)


def _move(draft: Path, root: Path, names: list[str]) -> None:
    """Moves the files from one folder into the other, and takes all of it back where that fails."""
    made: list[Path] = []
    replaced: dict[Path, bytes | None] = {}
    try:
        for name in names:
            target = root / name
            for folder in reversed(target.parents):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            replaced[target] = target.read_bytes() if target.exists() else None
            os.replace(draft / name, target)
    except OSError:
        for target, content in replaced.items():
            if content is None:
                target.unlink(missing_ok=True)
            else:
                target.write_bytes(content)
        for folder in reversed(made):
            folder.rmdir()
        raise


def exported(text: str, named: Named) -> str:
    """The family's ``__init__.py`` with the op's one line, and its names in ``__all__``; ``text`` may be empty."""
    names = sorted([named.class_name, named.op])
    line = f"from {named.package}.{named.family}.{named.op} import {', '.join(names)}"
    imports = re.findall(r"^from .+ import (?:\([^)]*\)|.+)$", text, re.M)
    listed = re.search(r"^__all__ = \[(.*?)\]", text, re.M | re.S)
    known = re.findall(r'"(\w+)"', listed[1]) if listed else []
    docstring = re.match(r'""".*?"""', text, re.S)
    everything = ", ".join(f'"{name}"' for name in sorted([*known, *names]))
    head = docstring[0] if docstring else f'"""{_WIDE[named.family]}."""'
    return "\n".join([head, "", *sorted([*imports, line]), "", f"__all__ = [{everything}]", ""])


def shown(text: str, named: Named) -> str | None:
    """The package's ``__init__.py`` with a new family; None where it is not written as `new` writes it."""
    line = re.search(rf"^from {named.package} import ([\w, ]+?)  # noqa: E402$", text, re.M)
    if line is None:
        return None
    families = sorted({*line[1].split(", "), named.family})
    text = text.replace(line[0], f"from {named.package} import {', '.join(families)}  # noqa: E402")
    listed = ", ".join(f'"{family}"' for family in families)
    return re.sub(r"^__all__ = \[.*?\]", f"__all__ = [{listed}]", text, flags=re.M | re.S)


def _format(draft: Path, root: Path, names: list[str]) -> None:
    """Lines are as long as the names in them: what the formatters would change is changed, where they are installed."""
    files = [str((draft / name).resolve()) for name in names]
    python = [path for path in files if path.endswith(".py")]
    sources = [path for path in files if path.endswith((".cpp", ".h", ".cu"))]
    # Where imports of the package's own are found: what is there, and what is about to be.
    own = [str(base.resolve() / folder) for base in (root, draft) for folder in ("python", "tests", "")]
    for command in (
        [
            "ruff",
            "check",
            "-q",
            "--no-cache",
            "--fix",
            "--select",
            "I",
            "--config",
            f"src = {json.dumps(own)}",
            *python,
        ],
        ["ruff", "format", "-q", "--no-cache", *python],
        ["clang-format", "-i", *sources],
    ):
        # Beside this Python first: a virtual environment need not be active.
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        program = shutil.which(command[0], path=search)
        if program:
            done = subprocess.run([program, *command[1:]], cwd=draft, capture_output=True, text=True)
            if done.returncode:
                raise ScaffoldError(
                    f"{command[0]} must accept the files, which it does not:\n{done.stdout}{done.stderr}"
                )
