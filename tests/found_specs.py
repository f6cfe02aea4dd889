"""Every OpSpec of the tests, for questions that are asked of all ops at once."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import handgrad
from handgrad.testing import OpSpec

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def found_specs() -> tuple[tuple[str, OpSpec], ...]:
    """(name, spec): some ops have several, for several public functions or uses."""
    found = []
    for path in sorted(ROOT.glob("tests/*/test_*.py")):
        location = importlib.util.spec_from_file_location(f"found_{path.stem}", path)
        module = importlib.util.module_from_spec(location)
        location.loader.exec_module(module)
        specs = [(name, value) for name, value in vars(module).items() if isinstance(value, OpSpec)]
        found += [(spec.name if name == "SPEC" else f"{spec.name}-{name}", spec) for name, spec in specs]
    return tuple(found)


def module_of(spec: OpSpec, kwargs: dict[str, Any]) -> nn.Module:
    """The op as a module that is called with all tensors of a sample, its weights among them."""
    if spec.module is not None and not spec.own and not spec.module_kwargs:
        return spec.module(**kwargs)
    return _Functional(spec, kwargs)


class _Functional(nn.Module):
    def __init__(self, spec: OpSpec, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.kwargs = spec.call, kwargs

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors, **self.kwargs)


def public_function(spec: OpSpec):
    """The op's public function. A spec may have one around it, whose tensors are in a row."""
    for family in handgrad.__all__:
        exported = getattr(getattr(handgrad, family), "__all__", ())
        if spec.name in exported:
            functions = [getattr(getattr(handgrad, family), name) for name in exported]
            return spec.function if spec.function in functions else getattr(getattr(handgrad, family), spec.name)
    raise AssertionError(f"no family exports {spec.name}")


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)
