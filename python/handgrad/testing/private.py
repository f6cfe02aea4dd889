"""Calls of an op's private ops, as differentiating it makes them. Their arguments are known by the schema's names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from handgrad.registration import OPERATORS
from handgrad.testing.calls import second_grads
from handgrad.testing.spec import OpSpec, Sample


def recorded(spec: OpSpec, sample: Sample) -> dict[str, tuple[Any, ...]]:
    """The arguments, in the order of the schema, of one call of the op and of each of its private ops, seen while
    differentiating twice."""
    wanted = {spec.operator, *map(spec.private, spec.private_ops)}
    calls: dict[str, tuple[Any, ...]] = {}

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = func._schema.name
            if name in wanted and name not in calls:
                rest = func._schema.arguments[len(args) :]
                whole = (*args, *(kwargs.get(argument.name, argument.default_value) for argument in rest))
                calls[name] = tuple(a.detach() if isinstance(a, Tensor) else a for a in whole)
            return func(*args, **kwargs)

    with Recorder():
        second_grads(spec, spec.call, sample)
    return calls


def argument_names(name: str) -> list[str]:
    return [argument.name for argument in OPERATORS[name].overload._schema.arguments]


def with_argument(name: str, args: tuple[Any, ...], argument: str, value: Any) -> tuple[Any, ...]:
    """The call ``args`` of the op ``name``, with another value for one argument."""
    index = argument_names(name).index(argument)
    return (*args[:index], value, *args[index + 1 :])


def masks(count: int) -> Iterator[list[bool]]:
    """Everything, nothing, each result alone, and all but each."""
    for wanted in (True, False):
        yield [wanted] * count
        if count > 1:
            yield from ([(index == chosen) == wanted for index in range(count)] for chosen in range(count))


def is_placeholder(result: Tensor) -> bool:
    """Whether this stands for a gradient that nobody asked for, or that there is none of."""
    return result.shape == (0,)
