"""Tick 3: backward, double backward and forward mode, by finite differences; the op's identities."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError

from handgrad.testing import explain
from handgrad.testing.calls import Checks, as_tuple, directions, value_and_grads, where_the_samples_are
from handgrad.testing.spec import OpSpec, Sample


def cases(spec: OpSpec, root: Path) -> Checks:
    for sample in spec.samples:
        yield f"gradcheck_{sample.name}", functools.partial(_first, spec, sample, root)
        yield f"gradgradcheck_{sample.name}", functools.partial(_second, spec, sample, root)
    yield "one_argument_at_a_time", functools.partial(_one_at_a_time, spec)
    for name, identity in spec.identities.items():
        yield f"identity_{name}", functools.partial(where_the_samples_are, spec, identity)


def _first(spec: OpSpec, sample: Sample, root: Path) -> None:
    with _explained(spec, sample, root, order=1):
        assert gradcheck(
            functools.partial(spec.function, **sample.kwargs),
            sample.leaves(),
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )


def _second(spec: OpSpec, sample: Sample, root: Path) -> None:
    with _explained(spec, sample, root, order=2):
        assert gradgradcheck(
            functools.partial(spec.function, **sample.kwargs),
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
        raise AssertionError(text or f"{spec.name}, sample {sample.name!r}: {error}") from None


def _one_at_a_time(spec: OpSpec) -> None:
    """An argument that does not require grad must not disturb the gradient of one that does."""
    sample = spec.samples[0]
    _, expected = value_and_grads(spec, spec.function, sample)
    for place in range(len(sample.tensors)):
        tensors = [tensor.detach() for tensor in sample.tensors]
        tensors[place].requires_grad_()
        outputs = as_tuple(spec.function(*tensors, **sample.kwargs))
        (grad,) = torch.autograd.grad(outputs, tensors[place], directions(outputs))
        # Not to the bit: another loop is at work, in which the compiler may fuse other multiplications and additions.
        torch.testing.assert_close(grad, expected[place])
