"""Tick 4: tensors with any strides; channels_last in, channels_last out."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from handgrad.testing.calls import Checks, after, as_tuple, reproducible, sources, value_and_grads
from handgrad.testing.spec import OpSpec, Sample


def cases(spec: OpSpec, root: Path) -> Checks:
    for sample in spec.samples:
        if sample.tensors[0].dim() == 0:
            continue
        yield f"any_{sample.name}", functools.partial(_any, spec, sample.to(torch.float64), root)
        yield f"any_{sample.name}_bfloat16", functools.partial(_any, spec, sample.to(torch.bfloat16), root)
    yield "expanded", functools.partial(_expanded, spec)
    if spec.channels_last:
        yield "channels_last_kept", functools.partial(_channels_last, spec, root)


def arrangements(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same values in other arrangements of memory."""
    yield "transposed", transposed(tensor)
    strange: float = True
    if tensor.dtype is not torch.bool:
        strange = float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
    sparse = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), strange)
    sparse[..., ::2] = tensor
    yield "every_second", sparse[..., ::2]
    offset = tensor.new_full((tensor.shape[0] + 1, *tensor.shape[1:]), strange)
    offset[1:] = tensor
    yield "offset", offset[1:]
    if tensor.dim() > 2:
        inner = tensor.new_full((*tensor.shape[:-2], tensor.shape[-2], tensor.shape[-1] + 3), strange)
        inner[..., : tensor.shape[-1]] = tensor
        yield "padded_rows", inner[..., : tensor.shape[-1]]
    if tensor.dim() >= 3:
        yield "channels_last", channels_last(tensor)


def transposed(tensor: Tensor) -> Tensor:
    """The same values with dimension 0 innermost."""
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def channels_last(tensor: Tensor) -> Tensor:
    """The same values with dimension 1 innermost, whatever the rank."""
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.dim() >= 3 else tensor


def _any(spec: OpSpec, sample: Sample, root: Path) -> None:
    expected = value_and_grads(spec, spec.call, sample)
    variants = [dict(arrangements(tensor)) for tensor in sample.tensors]
    for kind in variants[0]:
        # All tensors so arranged, and each alone among contiguous ones.
        for chosen in [range(len(variants)), *([index] for index in range(len(variants)))]:
            tensors = tuple(
                # A bias, say, has fewer arrangements than an image.
                variants[index].get(kind, tensor) if index in chosen else tensor
                for index, tensor in enumerate(sample.tensors)
            )
            actual = value_and_grads(spec, spec.call, Sample(kind, tensors, sample.kwargs))
            # The order of a sum may follow memory.
            hint = (
                f"{spec.name}, {kind} in place of contiguous memory: a loop does not follow the strides of a "
                f"tensor that it reads, or a contiguous() is missing; look at {sources(spec, root)}"
            )
            torch.testing.assert_close(actual, expected, msg=after(hint))


def _expanded(spec: OpSpec) -> None:
    sample = spec.with_rows(spec.samples[0], lambda tensor: tensor[:1].expand(4, *tensor.shape[1:]))
    dense = sample.map(torch.clone)
    torch.testing.assert_close(spec.call(*sample.tensors, **sample.kwargs), spec.call(*dense.tensors, **dense.kwargs))
    if not spec.derivatives:
        return
    # Gradients that are one number for all, as sum().backward() hands them over.
    grads = []
    for make in (torch.ones_like, lambda out: out.new_ones(()).expand_as(out)):
        leaves = dense.leaves()
        moving = [leaf for leaf in leaves if leaf.requires_grad]
        with reproducible(dense):
            outputs = as_tuple(spec.call(*leaves, **dense.kwargs))
            grads.append(torch.autograd.grad(outputs, moving, tuple(make(out) for out in outputs)))
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


def _channels_last(spec: OpSpec, root: Path) -> None:
    for sample in spec.samples:
        if sample.tensors[0].dim() != 4:
            continue
        last = sample.map(
            lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        )
        outputs, grads = value_and_grads(spec, spec.call, last)
        for what, tensors in (("output", outputs), ("gradient", grads)):
            for index, tensor in enumerate(tensors):
                assert tensor.dim() != 4 or tensor.is_contiguous(memory_format=torch.channels_last), (
                    f"{spec.name}, sample {sample.name!r}: all tensors are channels_last, and {what} {index} of "
                    f"{tuple(tensor.shape)} has strides {tensor.stride()}; look at what {sources(spec, root)} allocates"
                )
