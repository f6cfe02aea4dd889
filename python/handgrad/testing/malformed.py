"""Malformed calls, drawn by hypothesis: each must be refused with a sentence, and none may crash or pass unnoticed."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handgrad.testing.spec import OpSpec

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


def run(spec: OpSpec) -> None:
    """Breaks one argument at a time of every sample of ``spec``."""
    samples = [sample for sample in spec.samples if sample.tensors[0].dim() > 0]
    integers = {
        name
        for sample in samples
        for name, tensor in zip(_tensor_names(spec, len(sample.tensors)), sample.tensors, strict=True)
        if not tensor.is_floating_point()
    }

    @st.composite
    def calls(draw: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        sample = draw(st.sampled_from(samples))
        sample = sample.to(torch.float32)
        tensors, kwargs = list(sample.tensors), dict(sample.kwargs)
        names = list(_tensor_names(spec, len(tensors)))
        broken = draw(st.sampled_from([*range(len(tensors)), *kwargs]))
        if isinstance(broken, int):
            strategies = [_broken_tensors(tensors[broken], spec.any_rank)]
            if names[broken] in spec.optional:
                strategies = [strategies[0].filter(lambda value: value is not None)]
            if len(tensors) > 1:
                counted = [spec.counted(index) for index in range(len(tensors))]
                strategies.append(_broken_mates(tensors[broken], counted.count(counted[broken]) == 1))
            tensors[broken] = draw(st.one_of(strategies))
            name = names[broken]
            # Targets and their like may come as integers: a spec says so by listing the op as converting.
        else:
            takes = spec.lenient.get(broken, lambda value: False)
            kwargs[broken] = draw(_broken_values(kwargs[broken]).filter(lambda value: not takes(value)))
            name = broken
        return name, tuple(tensors), kwargs

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(calls())
    def refused(call: tuple[str, tuple[Any, ...], dict[str, Any]]) -> None:
        name, tensors, kwargs = call
        try:
            outcome = spec.function(*tensors, **kwargs)
        except REFUSALS as refusal:
            text = str(refusal)
            # One of a pair that does not fit may be named by either side.
            names = _tensor_names(spec, len(tensors)) if name in _tensor_names(spec, len(tensors)) else [name]
            assert any(candidate in text for candidate in names), f"{name} is not named in: {text}"
            assert len(text.split()) >= 5, f"not a sentence: {text}"
            return
        # Where floating-point numbers were due, integers may be converted: then the result is that of the converted
        # call.
        names = _tensor_names(spec, len(tensors))
        broken = tensors[names.index(name)] if name in names else None
        converted = isinstance(broken, torch.Tensor) and name not in integers and not broken.is_floating_point()
        assert converted, f"accepted a call with a broken {name}: {tensors} {kwargs}"
        as_float = tuple(
            tensor if other in integers else tensor.to(torch.float32)
            for other, tensor in zip(names, tensors, strict=True)
        )
        torch.testing.assert_close(outcome, spec.function(*as_float, **kwargs))

    refused()


def _tensor_names(spec: OpSpec, count: int) -> list[str]:
    code = spec.function.__code__
    return list(code.co_varnames[:count])
