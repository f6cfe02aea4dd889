"""The names that an author gives: of the package, the op and its numbers."""

from __future__ import annotations

import ctypes
import datetime
import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handgrad import sdk
from handgrad._scaffold.words import at_namespace_scope
from handgrad._version import __version__

#: The family that an op of a kind goes into.
KINDS = {
    "box_loss": "losses",
    "elementwise_loss": "losses",
    "no_gradient": "layers",
    "normalisation": "layers",
    "pointwise_layer": "layers",
    "sampling": "layers",
}
#: The kind whose numbers are the author's to name, and the one that it has otherwise.
PARAMETRIC, EPSILON = "elementwise_loss", "epsilon=1e-3"


class ScaffoldError(Exception):
    """Nothing was written, for the reason given."""


@dataclass(frozen=True)
class Named:
    """A package, an op in it, and the op's numbers."""

    package: str
    op: str
    kind: str
    family: str
    #: Names of the op's numbers, and their defaults as Python writes them.
    parameters: dict[str, str]

    @classmethod
    def of(cls, package: str, op: str, kind: str, parameters: str | None) -> Named:
        _check_name("the op's name", op)
        if op == package:
            raise ScaffoldError(f"the op's name must differ from the package's, its namespace in C++; both are {op!r}.")
        named = cls(package, op, kind, KINDS[kind], _parsed(EPSILON if parameters is None else parameters))
        if parameters is not None and kind != PARAMETRIC:
            raise ScaffoldError(f"--parameters must be left out unless --kind is {PARAMETRIC}; got {parameters!r}.")
        named.check_op("in C++", _words_of_headers(), "is a word of handgrad's headers")
        return named

    @property
    def class_name(self) -> str:
        return "".join(word[:1].upper() + word[1:] for word in self.op.split("_"))

    @property
    def values(self) -> dict[str, Any]:
        """What the templates are filled in with."""
        words = self.op.replace("_", " ")
        return {
            "package": self.package,
            "distribution": self.package.replace("_", "-"),
            "op": self.op,
            "Class": self.class_name,
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

    def check_op(self, where: str, words: set[str], verdict: str) -> None:
        """Raises where the op's name, or its class's, is one of ``words``."""
        for name, called in ((self.op, repr(self.op)), (self.class_name, f"{self.class_name!r}, its class's name,")):
            if name in words:
                raise ScaffoldError(f"the op's name must mean nothing else {where}; {called} {verdict}.")

    def check_package(self, path: Path) -> None:
        """Raises where the package's name means something else: to Python, to torch, to C++, in the new folder."""
        package = self.package
        _check_name("--package", package)
        folders = {found.name for found in (sdk.templates_dir() / "package").iterdir() if found.is_dir()}
        if package in folders | set(KINDS.values()):
            raise ScaffoldError(
                f"new: --package must differ from the folders of the package; {package!r} is one of them."
            )
        if _can_be_imported(package, path):
            raise ScaffoldError(
                f"new: --package must be a name that is not taken; {package!r} can be imported already."
            )
        if package in _namespaces_of_torch():
            raise ScaffoldError(
                f"new: --package must be a name that torch lets other people's ops have; {package!r} is a namespace of "
                "torch's own."
            )
        if package in _words_of_headers():
            raise ScaffoldError(
                f"new: --package must mean nothing else in C++; {package!r} is a word of handgrad's headers."
            )
        if hasattr(ctypes.CDLL(None), package):
            raise ScaffoldError(
                f"new: --package must mean nothing else in C++, whose namespace it names; {package!r} is a function of "
                "the C library."
            )


def name_of_package(path: Path) -> str:
    """The package's name, made of its folder's."""
    folder = path.resolve().name
    name = re.sub(r"\W", "_", folder)
    if not _is_name(name):
        better = re.sub(r"^[0-9_]+", "", re.sub(r"[^a-z0-9_]", "_", folder.lower())).strip("_")
        better = better if _is_name(better) else "my_ops"
        raise ScaffoldError(
            "new: the package's name is PATH's unless --package gives one, and must be small letters, digits and "
            f"underscores, no word of Python or C++; got {folder!r}. Add, for example, --package {better}"
        )
    return name


# Words that a compiler keeps for itself, beyond Python's: keywords, spellings of operators, macros of every header.
_CXX_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """alignas alignof and_eq asm assert auto bitand bitor bool case catch char char16_t char32_t char8_t co_await
        co_return co_yield compl concept const const_cast consteval constexpr constinit decltype default delete do
        double dynamic_cast enum errno explicit export extern false float friend goto inline int linux long mutable
        namespace new noexcept not_eq nullptr operator or_eq private protected public register reinterpret_cast requires
        short signed sizeof static static_assert static_cast struct switch template this thread_local throw true typedef
        typeid typename union unix unsigned using virtual void volatile wchar_t xor xor_eq""",
    )
)


def _is_name(name: str) -> bool:
    known = keyword.iskeyword(name) or name in _CXX_KEYWORDS
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and not known


def _check_name(what: str, name: str) -> None:
    if not _is_name(name):
        raise ScaffoldError(
            f"{what} must be small letters, digits and underscores, no word of Python or C++; got {name!r}."
        )


def _parsed(parameters: str) -> dict[str, str]:
    """The names and the defaults in "gamma=2.0 clip=0.05"."""
    parsed: dict[str, str] = {}
    for item in parameters.split():
        name, _, number = item.partition("=")
        _check_name("a name in --parameters", name)
        if name in parsed:
            raise ScaffoldError(f"a name in --parameters must be new to the op's files; {name!r} is there already.")
        parsed[name] = _as_python_writes(number, item)
    if not parsed:
        raise ScaffoldError("--parameters must name at least one number, as in gamma=2.0; got none.")
    if not float(next(iter(parsed.values()))) > 0:
        raise ScaffoldError(
            "--parameters must begin with a number above 0, which the op's formula takes as it is written."
        )
    return parsed


def _as_python_writes(number: str, item: str) -> str:
    """``.5`` as 0.5, ``1E5`` as 1e5, ``007`` as 7: what Python reads, in the way that its formatters write it."""
    match = re.fullmatch(r"(-?)([0-9]*)(\.?)([0-9]*)(?:e([+-]?)([0-9]+))?", number.lower())
    if match is None or not (match[2] or match[4]):
        raise ScaffoldError(f"--parameters must give each name a number, as in gamma=2.0; got {item!r}.")
    sign, whole, point, fraction, exponent_sign, exponent = match.groups()
    text = f"{sign}{whole.lstrip('0') or '0'}" + (f".{fraction or '0'}" if point else "")
    text += f"e{exponent_sign.replace('+', '')}{exponent}" if exponent else ""
    if abs(float(text)) == float("inf"):
        raise ScaffoldError(f"--parameters must give each name a number that float64 can hold; got {item!r}.")
    return text


def _words_of_headers() -> set[str]:
    paths = (path for path in (sdk.include_dir() / "common").rglob("*") if path.suffix in {".h", ".cuh"})
    return {word for path in paths for word in at_namespace_scope(path.read_text())}


def _namespaces_of_torch() -> set[str]:
    import torch

    known = {name.partition("::")[0] for name in torch._C._dispatch_get_all_op_names()}
    # torch.library refuses these itself.
    return known | set(getattr(torch.library, "_reserved_namespaces", ())) | {"aten", "prim"}


def _can_be_imported(package: str, path: Path) -> bool:
    spec = importlib.util.find_spec(package)
    if spec is None:
        return False
    # A folder without modules can be "imported" from the folder around it: so can the one that is to be filled.
    folders = list(spec.submodule_search_locations or ()) if spec.origin is None else []
    return not folders or any(Path(folder).resolve() != path.resolve() for folder in folders)
