"""Tick 1: the kernels, in every type, against the reference in float64."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from handgrad.arguments import dtype_name
from handgrad.testing.calls import Checks, after, value_and_grads
from handgrad.testing.spec import OpSpec, Sample


def cases(spec: OpSpec, root: Path, device: str = "cpu") -> Checks:
    for dtype in spec.dtypes:
        for sample in (*spec.samples, spec.large):
            name = f"{sample.name}_{dtype_name(dtype)}"
            yield name, functools.partial(_against_reference, spec, sample, dtype, device)


def _against_reference(spec: OpSpec, sample: Sample, dtype: torch.dtype, device: str) -> None:
    rounded = sample.map(Tensor.cpu).to(dtype)
    # The reference, in float64 if it can be, sees the very numbers that the kernel sees.
    wide = torch.float32 if spec.widens and dtype.itemsize == 2 else dtype
    expected = value_and_grads(spec, spec.reference, rounded.to(spec.compute_dtype(dtype)), representable=wide)
    outputs, grads = value_and_grads(spec, spec.call, rounded.map(lambda tensor: tensor.to(device)))
    # What is made of integers is of the type that the reference gives it.
    found = [out.dtype for out in outputs]
    wanted = [wide if out.is_floating_point() and dtype.is_floating_point else out.dtype for out in expected[0]]
    assert found == wanted, f"outputs are {found}, not {wanted}"
    kind = dtype_name(dtype)
    hint = f"{spec.name}, sample {sample.name!r} in {kind}: the {{}} are not those of the reference in float64"
    if dtype.itemsize == 2:
        hint += "; half types are to be computed and summed in Compute<T>, float32, and rounded once"
    spec.close(tuple(out.cpu() for out in outputs), expected[0], dtype, msg=after(hint.format("outputs")))
    spec.close(tuple(grad.cpu() for grad in grads), expected[1], dtype, msg=after(hint.format("gradients")))
