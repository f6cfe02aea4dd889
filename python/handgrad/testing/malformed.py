"""Malformed calls: each argument of every sample, broken in every way; each must be refused with an error message that
names the argument."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from handgrad.testing.spec import OpSpec, Sample

#: What a refusal may be. An AttributeError or an AssertionError would be an accident, not a refusal.
REFUSALS = (TypeError, ValueError, RuntimeError)


def _broken_tensors(tensor: torch.Tensor, any_rank: bool) -> Iterator[Any]:
    """What somebody may pass by mistake where ``tensor`` was due; all of it wrong for every op with several samples."""
    yield from (None, "", "mean", 0.5, math.nan, tensor.tolist(), tensor.numpy(force=True))
    yield tensor.to(torch.complex64)
    yield tensor.to_sparse()
    if tensor.dim():
        floating = tensor.is_floating_point()
        for kind in (torch.int32, torch.bool, torch.uint8) if floating else (torch.float32, torch.float16):
            yield tensor.to(kind)
    if not any_rank:
        yield from (tensor.reshape(*tensor.shape, *[1] * extra) for extra in (4, 6))


def _broken_mates(tensor: torch.Tensor, has_own_rows: bool) -> Iterator[Any]:
    """What does not go with the other tensors of a call."""
    if not has_own_rows:
        yield from (torch.cat([tensor] * times) for times in (2, 4))
    yield tensor[..., None].expand(*tensor.shape, 2)
    yield tensor.to("meta")


def _broken_values(value: Any) -> Iterator[Any]:
    """What somebody may pass where a number or a name was due."""
    yield from (None, math.nan, math.inf, -math.inf, [value], "nonsense", 1j, torch.zeros(3))
    if isinstance(value, str):
        yield from ("", "MEAN", 3, True)
    if isinstance(value, int) and not isinstance(value, bool):
        yield from (-1000, 10**30)


def _calls(spec: OpSpec, sample: Sample) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """The name of an argument that is broken, and a call with it."""
    names = spec.tensor_names(len(sample.tensors))
    counted = [spec.counted(index) for index in range(len(sample.tensors))]
    for index, (name, tensor) in enumerate(zip(names, sample.tensors, strict=True)):
        broken = [
            value for value in _broken_tensors(tensor, spec.any_rank) if value is not None or name not in spec.optional
        ]
        if len(names) > 1:
            broken += _broken_mates(tensor, counted.count(counted[index]) == 1)
        takes = spec.takes(name)
        for value in broken:
            if not takes(value):
                yield name, (*sample.tensors[:index], value, *sample.tensors[index + 1 :]), sample.kwargs
    for name, number in sample.kwargs.items():
        takes = spec.takes(name)
        for value in _broken_values(number):
            if not takes(value):
                yield name, sample.tensors, {**sample.kwargs, name: value}


def run(spec: OpSpec) -> None:
    """Breaks one argument at a time of every sample of ``spec``."""
    for sample in (sample.to(torch.float32) for sample in spec.samples if sample.tensors[0].dim() > 0):
        for name, tensors, kwargs in _calls(spec, sample):
            text = refusal(spec, name, tensors, kwargs)
            # One of a pair that does not fit may be named by either side.
            names = spec.tensor_names(len(tensors))
            wanted = names if name in names else [name]
            if text is not None:
                assert any(candidate in text for candidate in wanted), f"{name} is not named in: {text}"
                assert len(text.split()) >= 5, f"says too little: {text}"


def refusal(spec: OpSpec, broken: str, tensors: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
    """What the op says of a call with this argument broken; None if it has converted integers, where floating-point
    numbers were due, and returns what comes of the converted ones."""
    try:
        outcome = spec.call(*tensors, **kwargs)
    except REFUSALS as error:
        return str(error)
    names = spec.tensor_names(len(tensors))
    given = dict(zip(names, tensors, strict=True)).get(broken)
    floating = {
        name
        for sample in spec.samples
        for name, tensor in zip(names, sample.tensors, strict=False)
        if tensor.is_floating_point()
    }
    converts = isinstance(given, torch.Tensor) and broken in floating and not given.is_floating_point()
    assert converts, f"accepted a call with a broken {broken}: {tensors} {kwargs}"
    as_float = (t.to(torch.float32) if name in floating else t for name, t in zip(names, tensors, strict=True))
    torch.testing.assert_close(outcome, spec.call(*as_float, **kwargs))
    return None
