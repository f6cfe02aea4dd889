"""Ops without derivatives, as handgrad.registration registers them: one of a fixed size, one whose size depends on
values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from handgrad.registration import dynamic_size, register, without_derivatives
from handgrad.testing import OpSpec, Sample

NAMESPACE = "handgrad_test_registration"


def picked_impl(input: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Which numbers are above the limit, and twice these numbers."""
    places = torch.nonzero(input > limit).flatten()
    return places, 2 * input[places]


def picked_fake(input: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    size = dynamic_size(input.shape[0])
    return input.new_empty(size, dtype=torch.int64), input.new_empty(size)


def largest_impl(input: Tensor) -> Tensor:
    return input.argmax(-1)


def largest_vmap(info: Any, in_dims: Any, input: Tensor) -> Any:
    return largest(input.movedim(in_dims[0], 0)), 0


LIBRARY = torch.library.Library(NAMESPACE, "DEF")
LIBRARY.define("picked(Tensor input, float limit) -> (Tensor places, Tensor doubled)")
LIBRARY.define("largest(Tensor input) -> Tensor")
LIBRARY.impl("picked", picked_impl, "CPU")
LIBRARY.impl("largest", largest_impl, "CPU")
picked = register(
    f"{NAMESPACE}::picked", autograd=without_derivatives(), fake=picked_fake, reference=picked_impl, gathers=True
)
largest = register(
    f"{NAMESPACE}::largest",
    autograd=without_derivatives(largest_vmap),
    fake=lambda input: input.new_empty(input.shape[:-1], dtype=torch.int64),
    reference=largest_impl,
)

INPUT = torch.tensor([0.3, -1.0, 2.0, 0.7, -0.2])


def energy(input: Tensor) -> Tensor:
    """What was picked is a constant; what is computed with it is not."""
    places, doubled = picked(input, 0.5)
    return (input[places] ** 2).sum() + doubled.sum() * input.sum()


def expected_gradient(input: Tensor) -> Tensor:
    above = input > 0.5
    return 2 * input * above + 2 * input[above].sum()


def test_outputs_require_no_grad_and_carry_no_tangent():
    input = INPUT.clone().requires_grad_()
    for function in (picked, torch.ops.handgrad_test_registration.picked):
        assert not any(out.requires_grad for out in function(input, 0.5))
        with forward_ad.dual_level():
            outputs = function(forward_ad.make_dual(INPUT, torch.ones(5)), 0.5)
            assert all(forward_ad.unpack_dual(out).tangent is None for out in outputs)
    assert not largest(input).requires_grad


def test_gradients_flow_around_it_in_every_mode():
    wanted = expected_gradient(INPUT)
    input = INPUT.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(energy(input), input)[0], wanted)
    torch.testing.assert_close(torch.func.grad(energy)(INPUT), wanted)
    torch.testing.assert_close(torch.func.jvp(energy, (INPUT,), (torch.ones(5),))[1], wanted.sum())
    hessian = torch.func.hessian(energy)(INPUT)
    torch.testing.assert_close(hessian, 2.0 * torch.diag((INPUT > 0.5).float()))


@pytest.mark.parametrize("transform", [None, torch.func.grad], ids=["autograd", "func_grad"])
def test_gradients_flow_around_it_when_compiled(transform):
    input = INPUT.clone()
    if transform is None:
        input.requires_grad_()
        step = torch.compile(energy, fullgraph=True, dynamic=True)
        (found,) = torch.autograd.grad(step(input), input)
    else:
        found = torch.compile(transform(energy), fullgraph=True)(input)
    torch.testing.assert_close(found, expected_gradient(INPUT))


@pytest.mark.parametrize("order", [(5, 0, 1), (0, 5)])
def test_a_size_that_depends_on_values_may_be_none(order):
    """At first or in a recompile; as of torch's nonzero, code that indexes with the result goes on."""

    def step(input: Tensor) -> Tensor:
        indices, doubled = picked(input, -10.0)
        return input[indices] + doubled

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    for count in order:
        torch.testing.assert_close(compiled(INPUT[:count]), step(INPUT[:count]))


def test_vmap_needs_a_rule():
    stack = torch.stack([INPUT, -INPUT])
    assert torch.vmap(largest)(stack).tolist() == [2, 1]
    slopes = torch.vmap(torch.func.grad(lambda input: input.gather(0, largest(input)[None]).sum()))(stack)
    assert slopes.nonzero().tolist() == [[0, 2], [1, 1]]
    for function in (lambda input: picked(input, 0.5), torch.func.grad(energy)):
        with pytest.raises(RuntimeError, match="the sizes of an op's results must not depend on values"):
            torch.vmap(function)(stack)


def test_a_spec_without_derivatives_says_why():
    with pytest.raises(ValueError, match="largest: not_applicable must say why tick 3 is not asked"):
        OpSpec(
            name="largest",
            operator=f"{NAMESPACE}::largest",
            function=largest,
            reference=largest_impl,
            samples=[Sample("row", (INPUT,))],
            large=Sample("large", (INPUT,)),
            empty=[],
            module=None,
            bad=[],
            identities={},
            numel_beyond_int32=lambda: None,
            derivatives=False,
        )
