"""AOTInductor, for the ops of a process in one package: what a package costs hardly depends on what is in it."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor

from handgrad.testing.calls import as_tuple
from handgrad.testing.spec import OpSpec

#: Every spec that a matrix was made of, and of which tick 7 is asked.
SPECS: list[OpSpec] = []


class _Everything(torch.nn.Module):
    """Each op in turn, of tensors of its own."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(modules)

    def forward(self, *tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return tuple(part(*given) for part, given in zip(self.parts, tensors, strict=True))


#: What the packages returned, or why there is none.
_RESULTS: dict[tuple[str, ...], Any] = {}


def check(spec: OpSpec) -> None:
    """What the compiled package returns is what the op returns."""
    together = tuple(SPECS)
    try:
        actual = _compiled(together)[[id(other) for other in together].index(id(spec))]
    except Exception:
        # Somebody's fault: each by itself, so that it is said whose.
        (actual,) = _compile((spec,))
    sample = spec.samples[0]
    torch.testing.assert_close(as_tuple(actual), as_tuple(spec.call(*sample.tensors, **sample.kwargs)))


def _compiled(specs: tuple[OpSpec, ...]) -> tuple[Any, ...]:
    key = tuple(spec.name for spec in specs)
    if key not in _RESULTS:
        try:
            _RESULTS[key] = _compile(specs)
        except Exception as error:
            _RESULTS[key] = error
    if isinstance(_RESULTS[key], Exception):
        raise _RESULTS[key]
    return _RESULTS[key]


def _compile(specs: tuple[OpSpec, ...]) -> tuple[Any, ...]:
    modules, tensors = [], []
    for spec in specs:
        sample = spec.samples[0]
        module, indices = spec.as_module(sample)
        modules.append(module)
        tensors.append(tuple(sample.tensors[index] for index in indices))
    program = torch.export.export(_Everything(modules), tuple(tensors))
    with tempfile.TemporaryDirectory() as folder:
        package = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
        return torch._inductor.aoti_load_package(package)(*tensors)
