"""``python -m handgrad new`` and ``add``: a package of ops of one's own, and another op in a package that exists.

The files come from ``templates/``, which Jinja fills in: ``package/`` once for a package, ``operator/<kind>/`` for each
op; ``classic/`` is a whole package of another style. PACKAGE and OP in their names are replaced, ``OP_math.h`` goes
where csrc/README.md says that an op's formula lies, and so on. ruff and clang-format then format the new files, where
these tools are at hand.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import keyword
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handgrad import sdk
from handgrad._version import __version__

#: The family that an op of a kind goes into.
KINDS = {
    "elementwise_loss": "losses",
    "no_gradient": "layers",
    "normalisation": "layers",
    "pointwise_layer": "layers",
    "sampling": "layers",
}
STYLES = ("stable", "classic")
# The kind whose numbers are the author's to name, and the one that it has otherwise.
_PARAMETRIC, _EPSILON = "elementwise_loss", "epsilon=1e-3"
_WIDE = {"losses": "Losses", "layers": "Layers", "boxes": "Boxes"}


def add_command(commands: Any) -> None:
    """Adds ``new`` and ``add`` to the subcommands of ``python -m handgrad``."""
    new: argparse.ArgumentParser = commands.add_parser(
        "new",
        help="start a package of ops of your own",
        description="Writes a complete package with one op: kernels for CPU and CUDA, derivatives, tests, benchmark, "
        "docs. It builds and passes its tests as it is; TODO(author) marks the places to change.",
    )
    new.add_argument("path", metavar="PATH", type=Path, help="a folder that does not exist yet, or is empty")
    new.add_argument("--package", metavar="NAME", help="the package's import name; by default the folder's")
    new.add_argument(
        "--style",
        choices=STYLES,
        default=STYLES[0],
        help="stable: handgrad's own way; classic: pybind11, torch.utils.cpp_extension and autograd.Function, for "
        "comparison (docs/from-cpp-extension.md), with the kind elementwise_loss",
    )
    new.set_defaults(run=_run_new)
    add: argparse.ArgumentParser = commands.add_parser(
        "add",
        help="add an op to a package",
        description="Adds one more op to a package that `new` has made, or to handgrad itself.",
    )
    add.add_argument("op", metavar="OP", help="the op's name, as_python_writes_functions")
    add.add_argument("--root", metavar="PATH", type=Path, default=Path(), help="the package's root; by default here")
    add.set_defaults(run=_run_add)
    new.add_argument("--op", metavar="OP", required=True, help="the first op's name, as_python_writes_functions")
    for parser in (new, add):
        parser.add_argument("--kind", choices=sorted(KINDS), required=True, help="what the op is like")
        parser.add_argument(
            "--parameters",
            metavar='"NAME=DEFAULT ..."',
            help=f"the op's numbers and their defaults, for {_PARAMETRIC}; by default {_EPSILON}",
        )


class ScaffoldError(Exception):
    """Nothing was written, for the reason given."""


def _run_new(arguments: argparse.Namespace) -> int:
    def run() -> None:
        written = new(
            arguments.path, arguments.op, arguments.kind, arguments.package, arguments.style, arguments.parameters
        )
        print(f"{len(written)} files in {arguments.path}. Next:\n")
        print(f"    cd {arguments.path} && git init && git add .")
        print("    pip install --no-build-isolation -e . && pytest")
        print("    grep -rn 'TODO(author)' .")

    return _reported(run)


def _run_add(arguments: argparse.Namespace) -> int:
    def run() -> None:
        for path in add(arguments.root, arguments.op, arguments.kind, arguments.parameters):
            print(path)

    return _reported(run)


def _reported(run: Any) -> int:
    try:
        run()
    except ScaffoldError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def new(
    path: Path,
    op: str,
    kind: str,
    package: str | None = None,
    style: str = STYLES[0],
    parameters: str | None = None,
) -> list[Path]:
    """Writes a package with one op into ``path``; returns the files."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ScaffoldError(f"new: PATH must be a folder that does not exist yet or is empty; {path} is neither.")
    package = package or re.sub(r"\W", "_", path.resolve().name)
    _check_name("--package", package)
    if importlib.util.find_spec(package) is not None:
        raise ScaffoldError(f"new: --package must be a name that is not taken; {package!r} can be imported already.")
    named = _Named.of(package, op, kind, parameters)
    if style == "classic":
        if kind != "elementwise_loss":
            raise ScaffoldError(f"new: --style classic is there for the kind elementwise_loss alone; got {kind}.")
        if parameters is not None:
            raise ScaffoldError(
                f"new: --parameters must be left out unless --style is {STYLES[0]}; got {parameters!r} with {style}."
            )
        written = _render(path, named, "classic", {})
    else:
        written = _render(path, named, "package", {}) + _add_op(path, named)
    _format(path, written)
    return written


def add(root: Path, op: str, kind: str, parameters: str | None = None) -> list[Path]:
    """Adds an op to the package with the root ``root``; returns the files written and changed."""
    listing = root / "CMakeLists.txt"
    match = re.search(r"^handgrad_add_library\((\w+) ", listing.read_text(), re.M) if listing.is_file() else None
    if match is None:
        raise ScaffoldError(
            f"add: --root must be the root of a package of ops, whose CMakeLists.txt calls handgrad_add_library; "
            f"{root.resolve()} is none. `python -m handgrad new` makes one."
        )
    named = _Named.of(match[1], op, kind, parameters)
    taken = [path for path in root.glob(f"csrc/*/{op}") if path.is_dir()]
    if taken:
        raise ScaffoldError(f"add: OP must be a new name; {taken[0]} is there already.")
    written = _add_op(root, named)
    _format(root, written)
    return written


@dataclass(frozen=True)
class _Named:
    package: str
    op: str
    kind: str
    family: str
    #: Names of the op's numbers, and their defaults as Python writes them.
    parameters: dict[str, str]

    @classmethod
    def of(cls, package: str, op: str, kind: str, parameters: str | None) -> _Named:
        _check_name("the op's name", op)
        if op == package:
            raise ScaffoldError(f"the op's name must differ from the package's, its namespace in C++; both are {op!r}.")
        if op in _words_of_headers():
            raise ScaffoldError(f"the op's name must mean nothing else in C++; {op!r} is a word of handgrad's headers.")
        if parameters is not None and kind != _PARAMETRIC:
            raise ScaffoldError(f"--parameters must be left out unless --kind is {_PARAMETRIC}; got {parameters!r}.")
        return cls(package, op, kind, KINDS[kind], _parsed(_EPSILON if parameters is None else parameters))

    @property
    def values(self) -> dict[str, Any]:
        words = self.op.replace("_", " ")
        return {
            "package": self.package,
            "distribution": self.package.replace("_", "-"),
            "op": self.op,
            "Class": "".join(word[:1].upper() + word[1:] for word in self.op.split("_")),
            "title": words,
            "Title": words[:1].upper() + words[1:],
            "family": self.family,
            "kind": self.kind,
            "version": __version__,
            "year": datetime.date.today().year,
            **self._parameter_values(),
        }

    def _parameter_values(self) -> dict[str, Any]:
        names = list(self.parameters)
        return {
            "names": names,
            "first": names[0],
            "first_default": self.parameters[names[0]],
            "parameters": ", ".join(names),
            "schema_parameters": ", ".join(f"float {name}" for name in names),
            "cpp_parameters": ", ".join(f"double {name}" for name in names),
            "annotated_parameters": ", ".join(f"{name}: float" for name in names),
            "default_parameters": ", ".join(f"{name}: float = {number}" for name, number in self.parameters.items()),
            "plain_default_parameters": ", ".join(f"{name}={number}" for name, number in self.parameters.items()),
        }

    def places(self) -> dict[str, str]:
        """Where each of an op's files goes."""
        op, family = self.op, self.family
        sources = {f"OP{end}": f"csrc/{family}/{op}/{op}{end}" for end in _SOURCES}
        return {
            **sources,
            "OP.py": f"python/{self.package}/{family}/{op}.py",
            "test_OP.py": f"tests/{family}/test_{op}.py",
            "bench_OP.py": f"benchmarks/{family}/bench_{op}.py",
            "OP.md": f"docs/{family}/{op}.md",
        }


_SOURCES = (".cpp", "_math.h", "_host.h", "_cpu.cpp", "_cuda.cu")
# Words that a compiler keeps for itself, beyond Python's.
_CXX_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """alignas alignof asm auto bool case catch char const constexpr default delete do double enum explicit export
        extern false float friend goto inline int long mutable namespace new noexcept nullptr operator private protected
        public register short signed sizeof static struct switch template this throw true typedef typeid typename union
        unsigned using virtual void volatile""",
    )
)


def _check_name(what: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name in _CXX_KEYWORDS:
        raise ScaffoldError(
            f"{what} must be small letters, digits and underscores, no word of Python or C++; got {name!r}."
        )


# What the templates call something else.
_TAKEN = frozenset(
    re.findall(
        r"\w+",
        """body by code curvature d factor g inputs loss output r radius reduction scaled self share slope t targets
        tensors u v value x""",
    )
)


def _parsed(parameters: str) -> dict[str, str]:
    """The names and the defaults in "gamma=2.0 clip=0.05"."""
    parsed: dict[str, str] = {}
    for item in parameters.split():
        name, _, number = item.partition("=")
        _check_name("a name in --parameters", name)
        if name in _TAKEN or name in parsed:
            raise ScaffoldError(f"a name in --parameters must be new to the op's files; {name!r} is there already.")
        if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?", number):
            raise ScaffoldError(f"--parameters must give each name a number, as in gamma=2.0; got {item!r}.")
        parsed[name] = number
    if not parsed:
        raise ScaffoldError("--parameters must name at least one number, as in gamma=2.0; got none.")
    if not float(next(iter(parsed.values()))) > 0:
        raise ScaffoldError(
            "--parameters must begin with a number above 0, which the op's formula takes as it is written."
        )
    return parsed


def _words_of_headers() -> set[str]:
    words: set[str] = set()
    for path in (sdk.include_dir() / "common").iterdir():
        words.update(re.findall(r"\w+", re.sub(r"//[^\n]*", "", path.read_text())))
    return words


def _add_op(root: Path, named: _Named) -> list[Path]:
    family = root / "python" / named.package / named.family / "__init__.py"
    written = _render(root, named, f"operator/{named.kind}", named.places())
    if not family.exists():
        family.write_text(f'"""{_WIDE[named.family]}."""\n')
        written += _show_family(root, named)
    _export(family, named)
    return [*written, family]


def _export(path: Path, named: _Named) -> None:
    """The op's one line in its family's ``__init__.py``, and its names in ``__all__``."""
    values = named.values
    text = path.read_text()
    names = sorted([values["Class"], named.op])
    line = f"from {named.package}.{named.family}.{named.op} import {', '.join(names)}"
    imports = re.findall(r"^from .+ import (?:\([^)]*\)|.+)$", text, re.M)
    exported = re.search(r"^__all__ = \[(.*?)\]", text, re.M | re.S)
    known = re.findall(r'"(\w+)"', exported[1]) if exported else []
    docstring = re.match(r'""".*?"""', text, re.S)
    everything = ", ".join(f'"{name}"' for name in sorted([*known, *names]))
    head = docstring[0] if docstring else f'"""{_WIDE[named.family]}."""'
    path.write_text("\n".join([head, "", *sorted([*imports, line]), "", f"__all__ = [{everything}]", ""]))


def _show_family(root: Path, named: _Named) -> list[Path]:
    """A new family in the package's own ``__init__.py``, where that is written as `new` writes it."""
    path = root / "python" / named.package / "__init__.py"
    text = path.read_text()
    line = re.search(rf"^from {named.package} import ([\w, ]+?)  # noqa: E402$", text, re.M)
    if line is None:
        print(f"{path}: import {named.family} there.", file=sys.stderr)
        return []
    families = sorted({*line[1].split(", "), named.family})
    text = text.replace(line[0], f"from {named.package} import {', '.join(families)}  # noqa: E402")
    shown = ", ".join(f'"{family}"' for family in families)
    path.write_text(re.sub(r"^__all__ = \[.*?\]", f"__all__ = [{shown}]", text, flags=re.M | re.S))
    return [path]


def _render(root: Path, named: _Named, folder: str, places: dict[str, str]) -> list[Path]:
    """Fills in every template of ``folder``; ``places`` says where they go, where that is not where they lie."""
    import jinja2  # torch needs it too, so that it is always there

    templates = sdk.templates_dir()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates / "operator", templates]),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    written = []
    for source in sorted((templates / folder).rglob("*.jinja")):
        name = source.relative_to(templates / folder).as_posix().removesuffix(".jinja")
        target = root / places.get(name, name.replace("PACKAGE", named.package).replace("OP", named.op))
        target.parent.mkdir(parents=True, exist_ok=True)
        template = environment.get_template(source.relative_to(templates).as_posix())
        target.write_text(template.render(named.values), encoding="utf-8")
        written.append(target)
    return written


def _format(root: Path, paths: list[Path]) -> None:
    """Lines are as long as the names in them: what the formatters would change is changed, where they are installed."""
    files = [str(path.resolve()) for path in paths]
    python = [path for path in files if path.endswith(".py")]
    sources = [path for path in files if path.endswith((".cpp", ".h", ".cu"))]
    for command in (
        ["ruff", "check", "-q", "--no-cache", "--fix", "--select", "I", *python],
        ["ruff", "format", "-q", "--no-cache", *python],
        ["clang-format", "-i", *sources],
    ):
        # Beside this Python first: a virtual environment need not be active.
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        program = shutil.which(command[0], path=search)
        if program:
            subprocess.run([program, *command[1:]], cwd=root, check=True)
