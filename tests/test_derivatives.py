"""handgrad.derivatives over an op made here: a batch, a weight that all samples share, a shift that is optional and not
needed by the backward, and an argument of the private ops' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._pytree import tree_leaves, tree_map_only

from handgrad.derivatives import BATCHED, ELEMENTWISE, WHOLE, Derivatives

NAMESPACE = "handgrad_test_derivatives"
CALLS: list[tuple[str, Any]] = []


def mix_reference(input: Tensor, weight: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """(batch, n) x (m, n) to (batch, m)."""
    output = torch.sin(scale * input) @ (weight**2).t()
    return output if shift is None else output + shift


def mix_fake(input: Tensor, weight: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    torch._check(input.shape[1] == weight.shape[1], lambda: "mix: weight must have the columns of input")
    return input.new_empty(input.shape[0], weight.shape[0])


LIBRARY = torch.library.Library(NAMESPACE, "DEF")
LIBRARY.define("mix(Tensor input, Tensor weight, Tensor? shift, float scale) -> Tensor")
LIBRARY.define(
    "_mix_backward(Tensor grad_output, Tensor input, Tensor weight, float scale, bool careful, bool[3] output_mask) "
    "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_shift)"
)
LIBRARY.define(
    "_mix_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_weight, Tensor? grad_grad_shift, "
    "Tensor grad_output, Tensor input, Tensor weight, float scale, bool careful, bool[3] output_mask) "
    "-> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_weight)"
)
LIBRARY.impl("mix", mix_reference, "CPU")


def backward_impl(*args: Any) -> Any:
    CALLS.append(("backward", list(args[-1])))
    return mix.backward_reference(*args)


def double_backward_impl(*args: Any) -> Any:
    CALLS.append(("double_backward", list(args[-1])))
    return mix.double_backward_reference(*args)


LIBRARY.impl("_mix_backward", backward_impl, "CPU")
LIBRARY.impl("_mix_double_backward", double_backward_impl, "CPU")
ROLES = {"input": BATCHED, "weight": WHOLE, "shift": WHOLE, "output": BATCHED}
OMITTED = {"shift": lambda weight, **_: weight.new_zeros(weight.shape[0])}
mix = Derivatives(
    f"{NAMESPACE}::mix",
    reference=mix_reference,
    fake=mix_fake,
    roles=ROLES,
    omitted=OMITTED,
    extras={"careful": lambda: False},
)


def tensors(shift: bool = True) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((4, 3), (2, 3), (2,))]
    return [tensor.requires_grad_() for tensor in made[: 3 if shift else 2]] + ([] if shift else [None])


@pytest.mark.parametrize("shift", [True, False])
def test_derivatives(shift):
    def function(*args: Tensor) -> Tensor:
        return mix(*args, *([] if shift else [None]), 1.3)

    leaves = [tensor for tensor in tensors(shift) if tensor is not None]
    torch.testing.assert_close(function(*leaves), mix_reference(*tensors(shift), 1.3))
    assert gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, leaves, check_fwd_over_rev=True, check_batched_grad=True)


def test_only_what_is_asked_for_is_asked_for():
    """A frozen weight, a jvp, a direction that nobody gives."""
    input, weight, shift = tensors()
    CALLS.clear()
    mix(input, weight.detach(), shift, 1.3).sum().backward()
    assert CALLS == [("backward", [True, False, True])]

    CALLS.clear()
    torch.func.jvp(lambda x: mix(x, weight.detach(), shift.detach(), 1.3), (input.detach(),), (input.detach(),))
    assert CALLS == [("double_backward", [True, False, False])]

    CALLS.clear()
    frozen = weight.detach()
    (grad,) = torch.autograd.grad(mix(input, frozen, None, 1.3).sum(), input, create_graph=True)
    grad.sum().backward()
    assert CALLS == [("backward", [True, False, False]), ("double_backward", [False, True, False])]


def test_saved_tensors_are_unpacked_once():
    unpacked: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: unpacked.append(x) or x):
        output = mix(*tensors(), 1.3)
    output.sum().backward()
    assert len(unpacked) == 2


@pytest.mark.parametrize("in_dims", [(0, None, None), (0, 0, None), (None, 1, 0), (1, None, 0)])
def test_vmap(in_dims):
    """A weight of its own for each sample is computed sample by sample; one weight for all is not."""
    generator = torch.Generator().manual_seed(1)
    args = []
    for tensor, dim in zip(tensors(), in_dims, strict=True):
        shape = list(tensor.shape)
        if dim is not None:
            shape.insert(dim, 5)
        args.append(torch.randn(shape, dtype=torch.float64, generator=generator))

    def gradients(*given: Tensor) -> Any:
        return torch.func.grad(lambda x, w, s: mix(x, w, s, 1.3).pow(2).sum(), (0, 1, 2))(*given)

    actual = torch.func.vmap(gradients, in_dims)(*args)
    for index in range(5):
        sample = [x if dim is None else x.select(dim, index) for x, dim in zip(args, in_dims, strict=True)]
        torch.testing.assert_close([grad[index] for grad in actual], list(gradients(*sample)))


@pytest.mark.parametrize("mask", [[True, True, True], [False, True, False]])
def test_fakes_promise_what_comes(mask):
    op = getattr(torch.ops, NAMESPACE)
    input, weight, shift = (tensor.detach() for tensor in tensors())
    grad_output = torch.randn(4, 2, dtype=torch.float64)
    arguments = (grad_output, input, weight, 1.3, False, mask)
    for overload, args in (
        (op.mix.default, (input, weight, None, 1.3)),
        (op.mix.default, (input, weight, shift, 1.3)),
        (op._mix_backward.default, arguments),
        (op._mix_double_backward.default, (None, torch.randn_like(weight), shift, *arguments)),
    ):
        real = overload(*args)
        with FakeTensorMode() as mode:
            fake = overload(*tree_map_only(Tensor, mode.from_tensor, args))
        promised = [(x.shape, x.stride(), x.dtype) for x in tree_leaves(fake)]
        assert promised == [(x.shape, x.stride(), x.dtype) for x in tree_leaves(real)]


def test_schemas_that_do_not_keep_to_the_rules_are_refused():
    LIBRARY.define("odd(Tensor input, float scale) -> Tensor")
    LIBRARY.define("_odd_backward(Tensor grad_output, Tensor input, float scale) -> Tensor grad_input")
    LIBRARY.define(
        "_odd_double_backward(Tensor? grad_grad_input, Tensor grad_output, Tensor input, float scale, "
        "bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_input)"
    )
    for name in ("odd", "_odd_backward", "_odd_double_backward"):
        LIBRARY.impl(name, lambda *args: args[-2], "CPU")
    with pytest.raises(TypeError, match=r"both must end in scale, output_mask; got .*_odd_backward"):
        Derivatives(
            f"{NAMESPACE}::odd", reference=lambda x, s: x, fake=lambda x, s: torch.empty_like(x), roles=ELEMENTWISE
        )
    with pytest.raises(TypeError, match="every tensor, and output, must have a role"):
        Derivatives(f"{NAMESPACE}::mix", reference=mix_reference, fake=mix_fake, roles={"input": BATCHED})
