"""Tick 8: the dtype under autocast."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from handgrad.testing.calls import Checks, after, directions, of_floating, scalar, second_grads, value_and_grads
from handgrad.testing.spec import OpSpec, Sample


def cases(spec: OpSpec, root: Path) -> Checks:
    yield "bfloat16", functools.partial(_autocast, spec, torch.bfloat16)
    yield "float16", functools.partial(_autocast, spec, torch.float16)


def _autocast(spec: OpSpec, low: torch.dtype) -> None:
    sample = spec.samples[0].to(low)
    expected_dtype = spec.autocast or low
    with torch.autocast(sample.tensors[0].device.type, dtype=low):
        outputs, grads = value_and_grads(spec, spec.call, sample)
        if spec.derivatives:
            _derivatives(spec, sample, grads)
    for output in outputs:
        assert output.dtype == expected_dtype or not output.is_floating_point(), (
            f"{spec.name} under autocast with {low}: an output is {output.dtype}, and must be {expected_dtype}, by "
            f"autocast={spec.autocast} of its spec. The rule is autocast= where the op is registered"
        )
    expected = value_and_grads(spec, spec.call, sample.to(expected_dtype))
    hint = f"{spec.name} under autocast with {low}: the {{}} are not those of the same call in {expected_dtype}"
    torch.testing.assert_close(outputs, expected[0], rtol=0, atol=0, msg=after(hint.format("outputs")))
    spec.close(grads, expected[1], low, msg=after(hint.format("gradients")))


def _derivatives(spec: OpSpec, sample: Sample, grads: tuple[Tensor, ...]) -> None:
    """Each has the dtype of what it is the gradient of, the second ones too; and forward mode runs."""
    moving = [leaf for leaf in sample.leaves() if leaf.requires_grad]
    for order, found in (("gradient", grads), ("second derivative", second_grads(spec, spec.call, sample))):
        for grad, leaf in zip(found, moving, strict=True):
            assert grad.dtype == leaf.dtype, (
                f"{spec.name} under autocast: a {order} is {grad.dtype}, and its argument {leaf.dtype}"
            )
    function, tensors = of_floating(scalar(spec, sample.kwargs), sample)
    tangent = torch.func.jvp(function, tensors, directions(tensors))[1]
    assert tangent.isfinite(), f"{spec.name} under autocast: the tangent of forward mode is {tangent}"
