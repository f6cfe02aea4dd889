"""Tick 13: every bad argument gets an error message that names it, says what was expected and what came."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from handgrad.arguments import dtype_name
from handgrad.registration import OPERATORS
from handgrad.testing import malformed
from handgrad.testing.calls import Checks
from handgrad.testing.distributed import forked
from handgrad.testing.private import argument_names, recorded
from handgrad.testing.spec import Bad, OpSpec, Sample


def cases(spec: OpSpec, root: Path) -> Checks:
    for bad in spec.bad:
        yield bad.name, functools.partial(_fails, bad)
    yield from _usual(spec)
    yield "malformed", functools.partial(malformed.run, spec)
    for name in (spec.operator, *map(spec.private, spec.private_ops)):
        if name in OPERATORS:
            hint = f"{name}: a tensor of another device is read as if it lay on this one; check_device() is missing"
            other = functools.partial(_other_device, spec, name)
            # Reading what is not there ends the process: where one can be forked, it is not this one.
            run = other if torch.cuda.is_available() else functools.partial(forked, other, hint)
            yield f"other_device_{name.split('::')[1]}", run


def _fails(bad: Bad) -> None:
    import pytest

    with pytest.raises(bad.error, match=bad.message):
        bad.call()


# ---- what every op is to refuse --------------------------------------------------------------------------------------


def _usual(spec: OpSpec) -> Iterator[tuple[str, Callable[[], None]]]:
    """For each tensor None, a sparse one, other numbers; and, compiled, a shape that only the fake kernel sees."""
    sample = next((sample for sample in spec.samples if sample.tensors[0].dim()), None)
    if sample is None:
        return
    sample = sample.to(torch.float32)
    names = spec.tensor_names(len(sample.tensors))
    for index, (name, tensor) in enumerate(zip(names, sample.tensors, strict=True)):
        if name not in spec.optional:
            yield f"none_{name}", functools.partial(_refused, spec, sample, index, None, "; got NoneType")
        yield f"sparse_{name}", functools.partial(_refused, spec, sample, index, tensor.to_sparse(), "dense tensor")
        other = torch.int64 if tensor.is_floating_point() else torch.float32
        kind = dtype_name(other)
        if spec.takes(name)(tensor.to(other)):
            continue
        yield f"{kind}_{name}", functools.partial(_refused, spec, sample, index, tensor.to(other), f"got .*{kind}")
    if (len(names) > 1 or not spec.any_rank) and not spec.takes(names[0])(_of_more_dimensions(sample.tensors[0])):
        yield f"compiled_{names[0]}", functools.partial(_refused_by_fake, spec, sample)


def _with(sample: Sample, index: int, value: Any) -> list[Any]:
    return [*sample.tensors[:index], value, *sample.tensors[index + 1 :]]


def _of_more_dimensions(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(*tensor.shape, 1, 1, 1, 1)


def _refused(spec: OpSpec, sample: Sample, index: int, value: Any, said: str) -> None:
    name = spec.tensor_names(len(sample.tensors))[index]
    text = malformed.refusal(spec, name, _with(sample, index, value), sample.kwargs)
    assert text is None or re.search(f"(?s)\\b{name}\\b.* must .*{said}", text), (
        f"{spec.name}: of {name} it should be said what it must be, with {said!r}; got: {text}"
    )


def _refused_by_fake(spec: OpSpec, sample: Sample) -> None:
    """Compiled, an op's arguments reach its fake kernel, which must refuse what the kernel refuses."""
    import pytest

    given = _with(sample, 0, _of_more_dimensions(sample.tensors[0]))
    names = "|".join(spec.tensor_names(len(given)))
    torch._dynamo.reset()
    # Dynamo wraps the fake's exception in one of its own.
    with pytest.raises(Exception, match=f"(?s)\\b({names}) must "):
        torch.compile(spec.call, backend="eager")(*given, **sample.kwargs)


def _other_device(spec: OpSpec, name: str) -> None:
    """A kernel that is called with one tensor on another device, whose pointers are nothing that it can read."""
    sample, keys = spec.samples[0], torch._C.DispatchKey
    here = torch._C.DispatchKeySet(keys.CUDA if sample.tensors[0].is_cuda else keys.CPU)
    args = recorded(spec, sample)[name]
    tensors = [index for index, value in enumerate(args) if isinstance(value, torch.Tensor)]
    for index in tensors if len(tensors) > 1 else ():
        given = (*args[:index], args[index].to("meta"), *args[index + 1 :])
        try:
            OPERATORS[name].overload.redispatch(here, *given)
        except RuntimeError as error:
            said = str(error)
        else:
            said = "nothing"
        assert "must be on the device of" in said, (
            f"{name}, {argument_names(name)[index]} on another device: it should be said where it must be; got: {said}"
        )
