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


_FAMILY = '''"""{title}."""

from typing import TYPE_CHECKING

from handgrad.sdk import lazy

if TYPE_CHECKING or not lazy.exports(__name__):
    {line}

__all__ = [{names}]
'''


def exported(text: str, named: Named) -> str | None:
    """The family's ``__init__.py`` with the op's one line, and its names in ``__all__``; ``text`` is empty for a new
    family. None where the file shows no op as `new` writes it."""
    names = sorted([named.class_name, named.op])
    line = f"from {named.package}.{named.family}.{named.op} import {', '.join(names)}"
    if not text:
        return _FAMILY.format(title=_WIDE[named.family], line=line, names=_quoted(names))
    return _with_line(text, rf"from {named.package}\.{named.family}\.\w+ import (?:\([^)]*\)|.+)", line, names)


def shown(text: str, named: Named) -> str | None:
    """The package's ``__init__.py`` with a new family; None where it shows none as `new` writes it."""
    found = re.search(rf"^ *from {named.package} import ([\w, ]+)$", text, re.M)
    if found is None:
        return None
    families = ", ".join(sorted({*found[1].split(", "), named.family}))
    text = text.replace(found[0], found[0].replace(found[1], families))
    return _with_names(text, [named.family])


def _with_line(text: str, pattern: str, line: str, names: list[str]) -> str | None:
    """``line`` among those like it, in their order."""
    found = list(re.finditer(rf"^( *)({pattern})\n", text, re.M))
    if not found:
        return None
    lines = sorted([line, *(match[2] for match in found)])
    start, indent = found[0].start(), found[0][1]
    for match in reversed(found):
        text = text[: match.start()] + text[match.end() :]
    return _with_names(text[:start] + "".join(f"{indent}{each}\n" for each in lines) + text[start:], names)


def _with_names(text: str, names: list[str]) -> str:
    listed = re.search(r"^__all__ = \[(.*?)\]", text, re.M | re.S)
    if listed is None:
        return text
    everything = sorted({*re.findall(r"\w+", listed[1]), *names})
    return text.replace(listed[0], f"__all__ = [{_quoted(everything)}]")


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


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
