"""Tick 10: the reference in plain PyTorch, those of the private ops, and the module."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from handgrad.registration import OPERATORS
from handgrad.testing.calls import Checks, after, as_tuple, sources
from handgrad.testing.private import recorded
from handgrad.testing.spec import OpSpec


def cases(spec: OpSpec, root: Path) -> Checks:
    yield "plain_pytorch", functools.partial(_plain_pytorch, spec)
    for name in map(spec.private, spec.private_ops):
        if name in OPERATORS:
            yield f"of_{name.split('::')[1]}", functools.partial(_private, spec, name, root)
    if spec.module is not None:
        yield "module", functools.partial(_module, spec)


def _plain_pytorch(spec: OpSpec) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    sample = spec.samples[0]
    graph = make_fx(functools.partial(spec.reference, **sample.kwargs))(*sample.tensors)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert called
    assert all(name.startswith(("aten.", "prims.", "<built-in")) for name in called), called


def _private(spec: OpSpec, name: str, root: Path) -> None:
    """The private ops' references, which run on devices without a kernel and give the third derivatives."""
    for sample in spec.samples:
        args = recorded(spec, sample)[name]
        operator = OPERATORS[name]
        returns = operator.overload._schema.returns
        results = zip(as_tuple(operator.overload(*args)), as_tuple(operator.reference(*args)), strict=True)
        for index, (actual, expected) in enumerate(results):
            of_what = returns[index].name or f"result {index}"
            hint = (
                f"{name}, sample {sample.name!r}: {of_what} of the kernel is not that of the reference, which "
                f"follows from the reference of {spec.name}; look at {sources(spec, root)}"
            )
            torch.testing.assert_close(actual, expected, msg=after(hint))


def _module(spec: OpSpec) -> None:
    for sample in spec.samples:
        made, indices = spec.as_module(sample)
        actual = made(*(sample.tensors[index] for index in indices))
        torch.testing.assert_close(actual, spec.call(*sample.tensors, **sample.kwargs), rtol=0, atol=0)
        own = spec.parameters.values()
        assert set(made.state_dict()) <= set(own), f"{list(made.state_dict())} beside {list(own)} of the spec"
        assert spec.name.replace("_", "") in repr(made).lower()
        # Tensors are in the state, and too long to show.
        for value in (value for value in sample.kwargs.values() if not isinstance(value, Tensor)):
            assert repr(value) in repr(made), f"{value!r} does not show in {made!r}"
