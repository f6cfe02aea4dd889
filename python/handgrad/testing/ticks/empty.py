"""Tick 5: no elements, in one way or another."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from handgrad.testing.calls import Checks, second_grads, value_and_grads
from handgrad.testing.spec import OpSpec, Sample


def cases(spec: OpSpec, root: Path) -> Checks:
    for sample in spec.empty:
        yield sample.name, functools.partial(_empty, spec, sample)


def _empty(spec: OpSpec, sample: Sample) -> None:
    expected = value_and_grads(spec, spec.reference, sample)
    actual = value_and_grads(spec, spec.call, sample)
    torch.testing.assert_close(actual, expected, equal_nan=True)
    assert all(torch.isfinite(grad).all() for grad in second_grads(spec, spec.call, sample))
