"""Copies of a model's methods in which some functions are others: the machinery of
:func:`handgrad.transfer.replace_functions`.

A method calls a library's function by a global name of its file: ``roi_align(...)``, or ``box_ops.nms(...)`` over a
module. So a copy of the method with other globals calls another function, and nobody else's does. Where the call is
further down, in a function that the method calls, that one is copied too.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_Function = types.FunctionType
# How many modules may be between a global name and a function: torchvision.ops.boxes.nms is two.
_DEPTH = 3


class Rewiring:
    """Finds the functions through which a set of classes reaches the keys of ``replacements``, and copies them.

    Args:
        replacements: old function to new one.
        packages: names of the top-level packages whose functions are followed; all others are left alone.
    """

    def __init__(self, replacements: Mapping[Callable[..., Any], Callable[..., Any]], packages: Iterable[str]) -> None:
        self._replacements = dict(replacements)
        self._packages = set(packages)
        self._callees: dict[_Function, list[Any]] = {}
        self._copies: dict[_Function, _Function] = {}
        self._classes: dict[type, type] = {}

    def reached(self, function: _Function) -> set[Callable[..., Any]]:
        """Those of the old functions that ``function`` calls, itself or through others."""
        found: set[Callable[..., Any]] = set()
        seen = {function}
        waiting = [function]
        while waiting:
            for callee in self._called_by(waiting.pop()):
                if callee in self._replacements:
                    found.add(callee)
                elif callee not in seen:
                    seen.add(callee)
                    waiting.append(callee)
        return found

    def copy(self, value: Any) -> Any:
        """What stands for ``value``: the new function for an old one, a copy of a function that reaches one, and
        ``value`` itself otherwise."""
        if _hashable(value) and value in self._replacements:
            return self._replacements[value]
        if not isinstance(value, _Function) or not self.reached(value):
            return value
        if value not in self._copies:
            scope = dict(value.__globals__)
            # A decorator's function holds the one that it wraps in a cell. Cells without functions stay the same.
            cells = tuple(types.CellType() if _contents(cell) else cell for cell in value.__closure__ or ())
            copied = types.FunctionType(value.__code__, scope, value.__name__, value.__defaults__, cells or None)
            functools.update_wrapper(copied, value)
            copied.__kwdefaults__ = value.__kwdefaults__
            # Noted before its globals are filled in, so that functions which call each other find each other's copies.
            self._copies[value] = copied
            for cell, old in zip(cells, value.__closure__ or (), strict=True):
                for function in _contents(old):
                    cell.cell_contents = self.copy(function)
            names = _names_in(value.__code__)
            for name in names & scope.keys():
                scope[name] = self._in_scope(scope[name], names, _DEPTH)
        return self._copies[value]

    def subclass(self, kind: type) -> type:
        """A class like ``kind`` whose methods are copied; ``kind`` itself if none of them reaches an old function."""
        if kind not in self._classes:
            # A method may be reached over super(), so each class of the hierarchy has its copies right in front of it.
            own, *inherited = (self._copied_methods(base) for base in kind.__mro__)
            patches = [
                type(base.__name__, (base,), methods)
                for base, methods in zip(kind.__mro__[1:], inherited, strict=True)
                if methods
            ]
            if own or patches:
                named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
                self._classes[kind] = type(kind.__name__, (kind, *patches), own | named)
            else:
                self._classes[kind] = kind
        return self._classes[kind]

    def calls(self, kind: type) -> list[tuple[str, str]]:
        """(method, old function) for each method of ``kind`` that reaches one and may still be called."""
        return [
            (name, old.__name__)
            for name, function in _methods(kind)
            if name != "__init__"
            for old in sorted(self.reached(function), key=lambda old: old.__name__)
        ]

    def _copied_methods(self, base: type) -> dict[str, Any]:
        methods: dict[str, Any] = {}
        for name, raw in vars(base).items():
            if isinstance(raw, _Function):
                copied: Any = self.copy(raw)
                if copied is not raw:
                    methods[name] = copied
            elif isinstance(raw, (staticmethod, classmethod)) and isinstance(raw.__func__, _Function):
                copied = self.copy(raw.__func__)
                if copied is not raw.__func__:
                    methods[name] = type(raw)(copied)
        return methods

    def _called_by(self, function: _Function) -> list[Any]:
        if function not in self._callees:
            names = _names_in(function.__code__)
            scope = function.__globals__
            values = [scope[name] for name in names & scope.keys()]
            values += [inner for cell in function.__closure__ or () for inner in _contents(cell)]
            self._callees[function] = [
                callee for value in values for callee in self._functions_in(value, names, _DEPTH)
            ]
        return self._callees[function]

    def _functions_in(self, value: Any, names: set[str], depth: int) -> Iterator[Any]:
        if isinstance(value, types.ModuleType):
            if depth and self._is_followed(value.__name__):
                for name in sorted(names & vars(value).keys()):
                    yield from self._functions_in(vars(value)[name], names, depth - 1)
        elif (_hashable(value) and value in self._replacements) or (
            isinstance(value, _Function) and self._is_followed(value.__module__)
        ):
            yield value

    def _in_scope(self, value: Any, names: set[str], depth: int) -> Any:
        """What a copied function finds under a global name: for a module, a namespace in which functions differ."""
        if not isinstance(value, types.ModuleType):
            return self.copy(value)
        if not depth or not self._is_followed(value.__name__):
            return value
        changed = {}
        for name in names & vars(value).keys():
            copied = self._in_scope(vars(value)[name], names, depth - 1)
            if copied is not vars(value)[name]:
                changed[name] = copied
        if not changed:
            return value
        namespace = types.ModuleType(value.__name__, value.__doc__)
        vars(namespace).update(vars(value) | changed)
        return namespace

    def _is_followed(self, module: str | None) -> bool:
        return (module or "").partition(".")[0] in self._packages


def _methods(kind: type) -> Iterator[tuple[str, _Function]]:
    seen = set()
    for base in kind.__mro__:
        for name, raw in vars(base).items():
            function = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
            if isinstance(function, _Function) and name not in seen:
                seen.add(name)
                yield name, function


def _names_in(code: types.CodeType) -> set[str]:
    """Global names and attributes that the code uses, in functions defined inside it too."""
    inner = (constant for constant in code.co_consts if inspect.iscode(constant))
    return set(code.co_names).union(*map(_names_in, inner))


def _contents(cell: types.CellType) -> list[_Function]:
    """The function in a cell, if there is one."""
    try:
        return [cell.cell_contents] if isinstance(cell.cell_contents, _Function) else []
    except ValueError:  # empty
        return []


def _hashable(value: Any) -> bool:
    return callable(value) and getattr(type(value), "__hash__", None) is not None
