"""Malformed calls, drawn by hypothesis: each must be refused with an error message that names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handgrad.testing.spec import OpSpec, Sample

#: What a refusal may be. An AttributeError or an AssertionError would be an accident, not a refusal.
REFUSALS = (TypeError, ValueError, RuntimeError)


def _broken_tensors(tensor: torch.Tensor, any_rank: bool) -> st.SearchStrategy[Any]:
    """What somebody may pass by mistake where ``tensor`` was due; all of it wrong for every op with several samples."""
    kinds = [torch.int32, torch.bool, torch.uint8] if tensor.is_floating_point() else [torch.float32, torch.float16]
    return st.one_of(
        st.just(None),
        st.text(max_size=5),
        st.floats(),
        st.just(tensor.tolist()),
        st.just(tensor.to(torch.complex64)),
        st.just(tensor.to_sparse()),
        st.just(tensor.numpy(force=True)),
        st.sampled_from(kinds).map(tensor.to) if tensor.dim() else st.just(None),
        st.just(None) if any_rank else st.integers(4, 6).map(lambda extra: tensor.reshape(*tensor.shape, *[1] * extra)),
    )


def _broken_mates(tensor: torch.Tensor, has_own_rows: bool) -> st.SearchStrategy[Any]:
    """What does not go with the other tensors of a call."""
    more_rows = st.integers(1, 3).map(lambda extra: torch.cat([tensor] * (1 + extra)))
    return st.one_of(
        *([] if has_own_rows else [more_rows]),
        st.just(tensor[..., None].expand(*tensor.shape, 2)),
        st.just(tensor.to("meta")),
    )


def _broken_values(value: Any) -> st.SearchStrategy[Any]:
    """What somebody may pass where a number or a name was due."""
    wrong: list[Any] = [None, math.nan, math.inf, -math.inf, [value], "nonsense", 1j, torch.zeros(3)]
    if isinstance(value, str):
        wrong += ["", "MEAN", 3, True]
    if isinstance(value, int) and not isinstance(value, bool):
        wrong += [-1000, 10**30]
    return st.sampled_from(wrong)


@st.composite
def _calls(draw: Any, spec: OpSpec, samples: Sequence[Sample]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The name of an argument that is broken, and a call with it."""
    sample = draw(st.sampled_from(samples))
    tensors, kwargs = list(sample.tensors), dict(sample.kwargs)
    names = spec.tensor_names(len(tensors))
    broken = draw(st.sampled_from([*range(len(tensors)), *kwargs]))
    takes = spec.takes(names[broken] if isinstance(broken, int) else broken)
    if not isinstance(broken, int):
        kwargs[broken] = draw(_broken_values(kwargs[broken]).filter(lambda value: not takes(value)))
        return broken, tuple(tensors), kwargs
    strategies = [_broken_tensors(tensors[broken], spec.any_rank)]
    if names[broken] in spec.optional:
        strategies = [strategies[0].filter(lambda value: value is not None)]
    if len(tensors) > 1:
        counted = [spec.counted(index) for index in range(len(tensors))]
        strategies.append(_broken_mates(tensors[broken], counted.count(counted[broken]) == 1))
    tensors[broken] = draw(st.one_of(strategies).filter(lambda value: not takes(value)))
    return names[broken], tuple(tensors), kwargs


def run(spec: OpSpec) -> None:
    """Breaks one argument at a time of every sample of ``spec``."""
    samples = [sample.to(torch.float32) for sample in spec.samples if sample.tensors[0].dim() > 0]

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(_calls(spec, samples))
    def refused(call: tuple[str, tuple[Any, ...], dict[str, Any]]) -> None:
        name, tensors, kwargs = call
        text = refusal(spec, name, tensors, kwargs)
        # One of a pair that does not fit may be named by either side.
        names = spec.tensor_names(len(tensors))
        wanted = names if name in names else [name]
        if text is not None:
            assert any(candidate in text for candidate in wanted), f"{name} is not named in: {text}"
            assert len(text.split()) >= 5, f"says too little: {text}"

    refused()


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
