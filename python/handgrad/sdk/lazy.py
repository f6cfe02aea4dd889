"""Families and ops are imported when they are first used, so that many are imported as fast as few.

A family's ``__init__.py`` says what it offers in plain imports, one line for each op::

    from typing import TYPE_CHECKING

    from handgrad.sdk import lazy

    if TYPE_CHECKING or not lazy.exports(__name__):
        from my_ops.losses.my_loss import MyLoss, my_loss

    __all__ = ["MyLoss", "my_loss"]

Type checkers and editors see the imports. When the program runs, :func:`exports` reads them from the source, makes each
of their names one that is imported when somebody asks for it, and returns True. Where there is no source to read, as in
an application that was frozen to bytecode, it returns False and they run as they stand. The package's own
``__init__.py`` offers its families in the same way: ``from my_ops import losses``.

What an op is in Python (derivatives, fake kernel, vmap rule, fallback) is registered when its module is imported, while
its schema and kernels are there as soon as the library is loaded. So nobody may get hold of an op without its module.
There are two ways to one:

* through the package, ``my_ops.losses.my_loss``, which imports the module;
* through ``torch.ops.my_ops``, by which everything in torch that is written in Python finds an op by its name: user
  code, ``torch.export.load``, pickled graphs, compiled code from a cache, torch's own dispatch to fake tensors and
  other modes. The namespace becomes a :class:`_Namespace`, which imports the module when the op is first asked for.

torch's C++ looks an op up without asking Python: a TorchScript file, an AOTInductor package and a C++ program get the
kernels. These give values; a program that wants derivatives of a TorchScript file, or runs one on a device for which
the package has no kernels, calls :func:`load_all` first.
"""

from __future__ import annotations

import ast
import importlib
import sys
from importlib.util import find_spec, resolve_name
from types import ModuleType
from typing import Any

__all__ = ["exports", "load_all"]

#: By package and by family: what each of its names stands for, as a module and a name in it.
_EXPORTS: dict[str, dict[str, tuple[str, str]]] = {}


def exports(package: str) -> bool:
    """Makes the names that the ``__init__.py`` of ``package`` imports under ``if TYPE_CHECKING or not exports(...)``
    names that are imported on first use. Returns whether it could: False asks the caller to import them now."""
    module = sys.modules[package]
    get_source = getattr(module.__spec__ and module.__spec__.loader, "get_source", None)
    source = get_source and get_source(package)
    if not source:
        return False
    _EXPORTS[package] = {
        alias.asname or alias.name: (resolve_name("." * line.level + (line.module or ""), package), alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If)
        and any(getattr(node, "id", "") == "TYPE_CHECKING" for node in ast.walk(block.test))
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    module.__class__ = _Package
    if _families(package) and "torch" in sys.modules:
        _watch(package)
    return True


def load_all(package: str | None = None) -> None:
    """Imports every op of ``package``, or of all packages that are imported, and with it what torch is told of them:
    for who wants to see all that there are (:data:`handgrad.registration.OPERATORS`), or finds ops in ways that do not
    ask Python. A module of a family that is named after no op, and may want packages that are not there, is left."""
    if package is not None:
        importlib.import_module(package)
    for name in list(_EXPORTS) if package is None else [package]:
        for family in _families(name):
            whole = importlib.import_module(f"{name}.{family}")
            for export, (module, _) in _EXPORTS.get(whole.__name__, {}).items():
                if _is_op(name, module.rpartition(".")[2]):
                    getattr(whole, export)


def _is_op(package: str, name: str) -> bool:
    import torch

    return bool(torch._C._jit_get_schemas_for_operator(f"{package.rpartition('.')[2]}::{name}"))


def _families(package: str) -> list[str]:
    """The names that a package imports from itself are those of its families."""
    return [name for name, (module, _) in _EXPORTS.get(package, {}).items() if module == package]


class _Package(ModuleType):
    """A package whose names are imported when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        package = self.__name__
        if name not in _EXPORTS[package]:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = _EXPORTS[package][name]
        if module == package:
            value: Any = importlib.import_module(f"{package}.{original}")
        else:
            value = getattr(importlib.import_module(module), original)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # An op's function has the name of its module, which Python's import makes an attribute of the family. There the
        # name means the function.
        if isinstance(value, ModuleType) and _EXPORTS[self.__name__].get(name) == (value.__name__, name):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_EXPORTS[self.__name__]})


def _watch(package: str) -> None:
    """Has ``torch.ops.<package>`` import an op's module before it hands out the op."""
    import torch

    class _Namespace(torch._ops._OpNamespace):
        # Ops are named after it, and found again by that name.
        __module__ = torch._ops._OpNamespace.__module__

        def __getattr__(self, op: str) -> Any:
            if not op.startswith("__"):
                _load_op(package, op)
            # The module has asked for its op already, and there must be one object for each.
            return vars(self)[op] if op in vars(self) else super().__getattr__(op)

    # The very object, which somebody may hold already. What it has handed out, it does not ask for again.
    namespace = getattr(torch.ops, package.rpartition(".")[2])
    known = list(namespace)
    namespace.__class__ = _Namespace
    for op in known:
        _load_op(package, op)


def _load_op(package: str, op: str) -> None:
    """Imports the module that the op belongs to: its own name, or that of ``foo`` for ``_foo_backward``."""
    words = op.lstrip("_").split("_")
    for count in range(len(words), 0, -1):
        modules = [f"{package}.{family}.{'_'.join(words[:count])}" for family in _families(package)]
        # While an op is being imported, it asks for itself.
        found = [name for name in modules if name in sys.modules] or [name for name in modules if find_spec(name)]
        if found:
            importlib.import_module(found[0])
            return
