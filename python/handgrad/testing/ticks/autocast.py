"""Tick 8: the dtype under autocast."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from handgrad.testing.calls import Checks, directions, scalar, second_grads, value_and_grads
from handgrad.testing.spec import OpSpec


def cases(spec: OpSpec, root: Path) -> Checks:
    yield "bfloat16", functools.partial(_autocast, spec, torch.bfloat16)
    yield "float16", functools.partial(_autocast, spec, torch.float16)


def _autocast(spec: OpSpec, low: torch.dtype) -> None:
    sample = spec.samples[0].to(low)
    expected_dtype = spec.autocast or low
    with torch.autocast(sample.tensors[0].device.type, dtype=low):
        outputs, grads = value_and_grads(spec, spec.function, sample)
        if spec.derivatives:
            leaves = sample.leaves()
            all_grads = (*grads, *second_grads(spec, spec.function, sample))
            tangent = torch.func.jvp(scalar(spec, sample.kwargs), sample.tensors, directions(sample.tensors))[1]
            assert all(grad.dtype == leaf.dtype for grad, leaf in zip(all_grads, (*leaves, *leaves), strict=True))
            assert tangent.isfinite()
    assert all(out.dtype == expected_dtype for out in outputs if out.is_floating_point())
    expected = value_and_grads(spec, spec.function, sample.to(expected_dtype))
    torch.testing.assert_close(outputs, expected[0], rtol=0, atol=0)
    spec.close(grads, expected[1], low)
