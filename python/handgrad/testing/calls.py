"""Ways to call an op that the ticks share: values and derivatives of a sample, along fixed directions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handgrad.sdk.loading import LOADED, Loaded
from handgrad.testing.spec import OpSpec, Sample, reseeded

#: What a tick yields: the name of a case, and what asserts.
Check = tuple[str, Callable[[], None]]
Checks = Iterator[Check]


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def sources(spec: OpSpec, root: Path) -> str:
    """Where the op's C++ lies, for messages."""
    folders = sorted(
        path.parent.relative_to(root).as_posix() for path in root.glob(f"csrc/*/{spec.name}/{spec.name}.cpp")
    )
    return folders[0] if folders else "its C++ sources"


def after(hint: str) -> Callable[[str], str]:
    """What torch.testing found, after a sentence about where it may come from."""
    return lambda found: f"{hint}.\n{found}"


def emulated(spec: OpSpec) -> Path | None:
    """The library with the op's emulated CUDA kernels, if they run in place of its CPU kernels."""
    return LOADED.get(spec.namespace, Loaded()).emulated


def directions(
    outputs: tuple[Tensor, ...], seed: int = 1, representable: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """Fixed random tensors like ``outputs``, their values rounded to ``representable`` first."""
    generator = reseeded(seed)
    return tuple(
        torch.randn(out.shape, dtype=torch.float64, generator=generator)
        .to(representable or out.dtype)
        .to(out.dtype)
        .to(out.device)
        for out in outputs
    )


def value_and_grads(
    spec: OpSpec, function: Callable[..., Any], sample: Sample, representable: torch.dtype | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The outputs, and the gradients of all floating-point tensors along a fixed direction: none, if the op has no
    derivatives."""
    leaves = sample.leaves()
    outputs = as_tuple(function(*leaves, **sample.kwargs))
    if not spec.derivatives:
        assert function is spec.reference or not any(out.requires_grad for out in outputs), "an output requires grad"
        return tuple(out.detach() for out in outputs), ()
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    grads = torch.autograd.grad(outputs, moving, directions(outputs, representable=representable))
    return tuple(out.detach() for out in outputs), grads


def second_grads(spec: OpSpec, function: Callable[..., Any], sample: Sample) -> tuple[Tensor, ...]:
    """The gradients of a fixed product with the first gradients; the op itself is called even if it has none."""
    leaves = sample.leaves()
    outputs = as_tuple(function(*leaves, **sample.kwargs))
    if not spec.derivatives:
        return ()
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    first = torch.autograd.grad(outputs, moving, directions(outputs), create_graph=True)
    # What an output is linear in by itself, as in a bias, is in no first gradient.
    return torch.autograd.grad(first, moving, directions(first, seed=2), materialize_grads=True)


def scalar(spec: OpSpec, kwargs: dict[str, Any], function: Callable[..., Any] | None = None) -> Callable[..., Tensor]:
    """A twice differentiable scalar of the op's outputs whose gradient depends on all of them."""
    # Not below: Dynamo of some versions of torch cannot look inside what finds `call`.
    call = function or spec.call

    def of_tensors(*tensors: Tensor) -> Tensor:
        outputs = as_tuple(call(*tensors, **kwargs))
        return sum(((out * out).sum() + out.sum() for out in outputs), start=tensors[0].new_zeros(()))

    return of_tensors


def of_floating(function: Callable[..., Any], sample: Sample) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """``function`` of the sample's floating-point tensors alone, and these: integers have no tangents."""
    tensors = sample.tensors
    indices = [index for index, tensor in enumerate(tensors) if tensor.is_floating_point()]
    if len(indices) == len(tensors):
        return function, tensors

    def bound(*given: Tensor) -> Any:
        whole = list(tensors)
        for index, tensor in zip(indices, given, strict=True):
            whole[index] = tensor
        return function(*whole)

    return bound, tuple(tensors[index] for index in indices)


@contextlib.contextmanager
def deterministic_algorithms(on: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def reproducible(sample: Sample) -> contextlib.AbstractContextManager[None]:
    """For checks to the bit: on a device a faster path may add in the order in which threads come."""
    on_device = not sample.tensors[0].is_cpu
    return deterministic_algorithms(on_device or torch.are_deterministic_algorithms_enabled())


def where_the_samples_are(spec: OpSpec, run: Callable[[], None]) -> None:
    """A callable of the spec that makes its own tensors, on the device of the spec's samples."""
    device = spec.samples[0].tensors[0].device
    with contextlib.nullcontext() if device.type == "cpu" else device:
        run()
