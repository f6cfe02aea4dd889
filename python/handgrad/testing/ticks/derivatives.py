"""Tick 3: backward, double backward and forward mode, by finite differences; with activation checkpointing, and with
saved tensors that are kept elsewhere; the op's identities."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError

from handgrad.registration import OPERATORS
from handgrad.testing import explain
from handgrad.testing.calls import (
    Checks,
    after,
    as_tuple,
    directions,
    reproducible,
    second_grads,
    value_and_grads,
    where_the_samples_are,
)
from handgrad.testing.private import argument_names, is_placeholder, masks, recorded, with_argument
from handgrad.testing.spec import OpSpec, Sample
from handgrad.testing.ticks.strides import channels_last


def cases(spec: OpSpec, root: Path) -> Checks:
    for sample in spec.samples:
        yield f"gradcheck_{sample.name}", functools.partial(_first, spec, sample, root)
        yield f"gradgradcheck_{sample.name}", functools.partial(_second, spec, sample, root)
        yield f"checkpointed_{sample.name}", functools.partial(_checkpointed, spec, sample)
        yield f"offloaded_{sample.name}", functools.partial(_offloaded, spec, sample)
    for name in map(spec.private, spec.private_ops):
        if name in OPERATORS and "output_mask" in argument_names(name):
            yield f"only_what_is_asked_{name.split('::')[1]}", functools.partial(_only_what_is_asked, spec, name)
    yield "one_argument_at_a_time", functools.partial(_one_at_a_time, spec)
    for name, identity in spec.identities.items():
        yield f"identity_{name}", functools.partial(where_the_samples_are, spec, identity)


def _first(spec: OpSpec, sample: Sample, root: Path) -> None:
    with reproducible(sample), _explained(spec, sample, root, order=1):
        assert gradcheck(
            functools.partial(spec.call, **sample.kwargs),
            sample.leaves(),
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )


def _second(spec: OpSpec, sample: Sample, root: Path) -> None:
    with reproducible(sample), _explained(spec, sample, root, order=2):
        assert gradgradcheck(
            functools.partial(spec.call, **sample.kwargs),
            sample.leaves(),
            check_fwd_over_rev=True,
            check_batched_grad=True,
        )


@contextlib.contextmanager
def _explained(spec: OpSpec, sample: Sample, root: Path, order: int) -> Iterator[None]:
    """gradcheck says that something is off; what is off is found out here."""
    try:
        yield
    except GradcheckError as error:
        # Forward mode and batches have words of gradcheck's own, where the derivatives themselves are right.
        text = explain.wrong_derivatives(spec, sample, root, order)
        raise AssertionError(text or f"{spec.name}, sample {sample.name!r}{_where(str(error))}: {error}") from None


def _where(found: str) -> str:
    """Which rule gradcheck had at work when it ``found`` something."""
    if "batched" in found or "vmap" in found:
        return " (right for one direction, and not for several: look at the vmap rules of its autograd Functions)"
    if "forward" in found:
        return " (backward is right, and forward mode is not: look at jvp of its autograd Functions)"
    return ""


def _one_at_a_time(spec: OpSpec) -> None:
    """An argument that does not require grad must not disturb the gradient of one that does."""
    sample = spec.samples[0]
    moving = [index for index, tensor in enumerate(sample.tensors) if tensor.is_floating_point()]
    expected = dict(zip(moving, value_and_grads(spec, spec.call, sample)[1], strict=True))
    for index in moving:
        tensors = [tensor.detach() for tensor in sample.tensors]
        tensors[index].requires_grad_()
        outputs = as_tuple(spec.call(*tensors, **sample.kwargs))
        (grad,) = torch.autograd.grad(outputs, tensors[index], directions(outputs))
        # Not to the bit: another loop is at work, in which the compiler may fuse other multiplications and additions.
        torch.testing.assert_close(grad, expected[index])


def _checkpointed(spec: OpSpec, sample: Sample) -> None:
    """Activation checkpointing frees what was saved, calls the op again in backward, and hands each tensor out once."""
    from torch.utils.checkpoint import checkpoint

    def again(*tensors: Tensor, **kwargs: Any) -> Any:
        return checkpoint(functools.partial(spec.call, **kwargs), *tensors, use_reentrant=False)

    hint = f"{spec.name}, sample {sample.name!r}, under torch.utils.checkpoint(use_reentrant=False): other {{}}"
    for what, call in (("gradients", value_and_grads), ("second derivatives", second_grads)):
        actual, expected = call(spec, again, sample), call(spec, spec.call, sample)
        torch.testing.assert_close(actual, expected, msg=after(hint.format(what)))


class _Elsewhere:
    """Hooks of saved tensors that keep them as save_on_cpu does: in memory of their own, contiguous; and count."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self.readings: list[int] = []

    def pack(self, tensor: Tensor) -> int:
        self.kept.append(tensor.detach().clone(memory_format=torch.contiguous_format))
        self.readings.append(0)
        return len(self.kept) - 1

    def unpack(self, index: int) -> Tensor:
        self.readings[index] += 1
        return self.kept[index]

    def read_once(self, spec: OpSpec, order: str) -> None:
        """Asserts it of the backward since the last call."""
        for tensor, count in zip(self.kept, self.readings, strict=True):
            assert count <= 1, (
                f"{spec.name}: a saved tensor of {tuple(tensor.shape)} is unpacked {count} times in one {order}. Each "
                "reading of ctx.saved_tensors unpacks them all, from a disk or another device it may be, and under "
                "activation checkpointing the second raises: read it once, into names"
            )
        self.readings = [0] * len(self.readings)


def _offloaded(spec: OpSpec, sample: Sample) -> None:
    sample = sample.map(channels_last) if spec.channels_last else sample
    expected = (*value_and_grads(spec, spec.call, sample)[1], *second_grads(spec, spec.call, sample))
    elsewhere = _Elsewhere()
    leaves = sample.leaves()
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    with torch.autograd.graph.saved_tensors_hooks(elsewhere.pack, elsewhere.unpack):
        outputs = as_tuple(spec.call(*leaves, **sample.kwargs))
        first = torch.autograd.grad(outputs, moving, directions(outputs), create_graph=True)
    elsewhere.read_once(spec, "backward")
    second = torch.autograd.grad(first, moving, directions(first, seed=2), materialize_grads=True)
    elsewhere.read_once(spec, "double backward")
    hint = f"{spec.name}, sample {sample.name!r}: other derivatives where saved tensors are copies, contiguous ones"
    torch.testing.assert_close((*first, *second), expected, msg=after(hint))


def _only_what_is_asked(spec: OpSpec, name: str) -> None:
    """A result that output_mask does not ask for is a tensor without elements, and does not disturb the others; a
    direction that is None is one of zeros."""
    operator, names = OPERATORS[name], argument_names(name)
    for sample in spec.samples:
        args = recorded(spec, sample)[name]
        count = len(operator.overload._schema.returns)
        whole = as_tuple(operator.overload(*with_argument(name, args, "output_mask", [True] * count)))
        for mask in masks(count):
            masked = with_argument(name, args, "output_mask", mask)
            for by, run in (("the kernel", operator.overload), ("the reference", operator.reference)):
                for index, (result, full) in enumerate(zip(as_tuple(run(*masked)), whole, strict=True)):
                    of_what = f"{name}, output_mask {mask}: result {index} of {by}"
                    if mask[index]:
                        torch.testing.assert_close(result, full, msg=after(f"{of_what} is another than without mask"))
                        continue
                    assert is_placeholder(result), f"{of_what} must be new_empty(0); got {tuple(result.shape)}"
                    assert (result.dtype, result.device) == (full.dtype, full.device), f"{of_what} is {result.dtype}"
        for index, argument in enumerate(names):
            if argument.startswith("grad_grad_") and args[index] is not None:
                results = [
                    as_tuple(operator.overload(*with_argument(name, args, argument, direction)))
                    for direction in (None, torch.zeros_like(args[index]))
                ]
                torch.testing.assert_close(*results, msg=after(f"{name}: {argument} None is not as zeros"))
