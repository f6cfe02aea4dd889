"""Mistakes that authors make in the Python of an op: each is planted in a small op, and what the matrix then says must
lead to it. Mistakes in kernels and schemas, which take a build, are in test_mistakes.py."""

import itertools
from pathlib import Path

import pytest
import torch

from handgrad.registration import batch_first, register, through_reference
from handgrad.testing import OpSpec, Sample, reseeded, ticks

NAMESPACE = "python_mistakes"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
COUNTER = itertools.count()


# ---- the op: weight * sin(scale * input), element by element, its kernels in Python ----------------------------------


def value(input, weight, scale):
    return torch.sin(scale * input) * weight


def backward_kernel(grad_output, input, weight, scale, output_mask):
    grad_input = scale * torch.cos(scale * input) * weight * grad_output if output_mask[0] else input.new_empty(0)
    grad_weight = torch.sin(scale * input) * grad_output if output_mask[1] else weight.new_empty(0)
    return grad_input, grad_weight


def double_backward_kernel(grad_grad_input, grad_grad_weight, grad_output, input, weight, scale, output_mask):
    u = torch.zeros_like(input) if grad_grad_input is None else grad_grad_input
    v = torch.zeros_like(weight) if grad_grad_weight is None else grad_grad_weight
    sine, slope = torch.sin(scale * input), scale * torch.cos(scale * input)
    results = (
        lambda: slope * weight * u + sine * v,
        lambda: (slope * v - scale**2 * sine * weight * u) * grad_output,
        lambda: slope * grad_output * u,
    )
    return tuple(make() if asked else input.new_empty(0) for make, asked in zip(results, output_mask, strict=True))


def backward_fake(grad_output, input, weight, scale, output_mask):
    return tuple(torch.empty_like(input) if asked else input.new_empty(0) for asked in output_mask)


def double_backward_fake(grad_grad_input, grad_grad_weight, grad_output, input, weight, scale, output_mask):
    return tuple(torch.empty_like(input) if asked else input.new_empty(0) for asked in output_mask)


class Planted:
    """The op, registered once more under a name of its own. Subclasses change what is wrong about them."""

    autocast = torch.float32

    def __init__(self):
        name = f"op_{next(COUNTER)}"
        tensors, rest = "Tensor input, Tensor weight", "float scale"
        self.name = name
        schemas = {
            name: f"({tensors}, {rest}) -> Tensor",
            f"_{name}_backward": f"(Tensor grad_output, {tensors}, {rest}, bool[2] output_mask) "
            "-> (Tensor grad_input, Tensor grad_weight)",
            f"_{name}_double_backward": "(Tensor? grad_grad_input, Tensor? grad_grad_weight, Tensor grad_output, "
            f"{tensors}, {rest}, bool[3] output_mask) "
            "-> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_weight)",
        }
        kernels = (value, self.backward_kernel, self.double_backward_kernel)
        for (op, schema), kernel in zip(schemas.items(), kernels, strict=True):
            LIBRARY.define(op + schema)
            LIBRARY.impl(op, kernel, "CPU")
        self.forward_op, self.backward_op, self.double_backward_op = self.registered(*schemas)
        self.spec = self.described()

    def registered(self, name, backward, double_backward):
        whole = (lambda *args: self.forward_op(*args), lambda *args: self.backward_op(*args))
        first = register(
            f"{NAMESPACE}::{name}",
            autograd=self.function(
                self.forward_setup, self.forward_backward, self.forward_jvp, self.vmap_of(whole[0], 2)
            ),
            fake=self.fake,
            reference=value,
            autocast=self.autocast,
        )
        second = register(
            f"{NAMESPACE}::{backward}",
            autograd=self.function(
                self.backward_setup, self.backward_backward, self.backward_jvp, self.vmap_of(whole[1], 3)
            ),
            fake=backward_fake,
            reference=backward_kernel,
        )
        third = register(
            f"{NAMESPACE}::{double_backward}",
            autograd=through_reference(
                double_backward_kernel, self.vmap_of(lambda *args: self.double_backward_op(*args), 5)
            ),
            fake=double_backward_fake,
            reference=double_backward_kernel,
        )
        return first, second, third

    @staticmethod
    def function(setup_context, backward, jvp, vmap):
        methods = {"setup_context": setup_context, "backward": backward, "jvp": jvp, "vmap": vmap}
        return type("Function", (torch.autograd.Function,), {key: staticmethod(m) for key, m in methods.items()})

    backward_kernel = staticmethod(backward_kernel)
    double_backward_kernel = staticmethod(double_backward_kernel)

    @staticmethod
    def fake(input, weight, scale):
        return torch.empty_like(input)

    # -- the op's Function

    @staticmethod
    def forward_setup(ctx, inputs, output):
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    def forward_backward(self, ctx, grad_output):
        return *self.backward_op(grad_output, *ctx.saved_tensors, ctx.scale, list(ctx.needs_input_grad[:2])), None

    def forward_jvp(self, ctx, *tangents):
        input, weight = ctx.saved_tensors
        mask = [True, False, False]
        return self.double_backward_op(*tangents[:2], torch.zeros_like(input), input, weight, ctx.scale, mask)[0]

    # -- the backward's Function

    @staticmethod
    def backward_setup(ctx, inputs, output):
        *tensors, ctx.scale, ctx.mask = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    def backward_backward(self, ctx, *grad_grads):
        directions = [grad if asked else None for grad, asked in zip(grad_grads, ctx.mask, strict=True)]
        return *self.double_backward_op(*directions, *ctx.saved_tensors, ctx.scale, [True] * 3), None, None

    def backward_jvp(self, ctx, grad_tangent, *tangents):
        grad_output, input, weight = ctx.saved_tensors
        linear = torch.zeros_like(input) if grad_tangent is None else grad_tangent
        by_grad = self.backward_op(linear, input, weight, ctx.scale, [True] * 2)
        by_rest = self.double_backward_op(*tangents[:2], grad_output, input, weight, ctx.scale, [False, True, True])[1:]
        return tuple(a + b if asked else a.new_empty(0) for a, b, asked in zip(by_grad, by_rest, ctx.mask, strict=True))

    @staticmethod
    def vmap_of(call, tensors):
        """Element by element, a further dimension in front changes nothing."""

        def vmap(info, in_dims, *args):
            moved = [batch_first(arg, dim, info.batch_size) for arg, dim in zip(args[:tensors], in_dims, strict=False)]
            results = call(*moved, *args[tensors:])
            if isinstance(results, torch.Tensor):
                return results, 0
            return tuple(r if r.dim() > 1 else r.expand(info.batch_size, 0) for r in results), (0,) * len(results)

        return vmap

    # -- its spec

    def described(self):
        def function(input, weight, scale):
            return self.forward_op(input, weight, scale)

        def tensors(*shape, dtype=torch.float64):
            generator = reseeded(len(shape))
            return tuple(torch.randn(*shape, dtype=dtype, generator=generator) for _ in range(2))

        return OpSpec(
            name=self.name,
            operator=f"{NAMESPACE}::{self.name}",
            function=function,
            reference=value,
            samples=[
                Sample("matrix", tensors(4, 3), {"scale": 1.5}),
                Sample("images", tensors(2, 3, 2, 2), {"scale": 0.5}),
            ],
            large=Sample("large", tensors(131, 83, dtype=torch.float32), {"scale": 1.5}),
            empty=[],
            module=None,
            bad=[],
            identities={},
            numel_beyond_int32=lambda: None,
            autocast=torch.float32,
        )


def cases(op, *words):
    """The cases of the ticks with these words, by name."""
    found = {}
    for word in words:
        found |= {f"{word}-{name}": run for name, run in ticks.cases(word, op.spec, Path(__file__).parent)}
    return found


ASKED = ("derivatives", "strides", "autocast", "func", "memory", "reference")


def test_without_a_mistake_all_is_well():
    op = Planted()
    # Kernels in Python take more memory than their results.
    left_out = ("memory-allocates", "compile-compile", "compile-aoti", "compile-export", "compile-one")
    for name, run in cases(op, *ASKED, "compile").items():
        if not name.startswith(left_out):
            run()


# ---- the mistakes ----------------------------------------------------------------------------------------------------


class ReadTwice(Planted):
    def forward_backward(self, ctx, grad_output):
        input, weight = ctx.saved_tensors[0], ctx.saved_tensors[1]
        return *self.backward_op(grad_output, input, weight, ctx.scale, [True, True]), None


class Kept(Planted):
    @staticmethod
    def forward_setup(ctx, inputs, output):
        Planted.forward_setup(ctx, inputs, output)
        ctx.kept = (inputs[0] - inputs[1]).square()


class KeptDeeper(Planted):
    @staticmethod
    def backward_setup(ctx, inputs, output):
        Planted.backward_setup(ctx, inputs, output)
        sine = torch.sin(inputs[1])
        ctx.again = {"sine": lambda: sine}


class SavesMore(Planted):
    @staticmethod
    def forward_setup(ctx, inputs, output):
        Planted.forward_setup(ctx, inputs, output)
        ctx.save_for_backward(*inputs[:2], torch.sin(inputs[0]))

    def forward_backward(self, ctx, grad_output):
        input, weight, _ = ctx.saved_tensors
        return *self.backward_op(grad_output, input, weight, ctx.scale, [True, True]), None


class ContiguousFake(Planted):
    @staticmethod
    def fake(input, weight, scale):
        return input.new_empty(input.shape)


class NoAutocast(Planted):
    autocast = None


class VmapReduces(Planted):
    @staticmethod
    def vmap_of(call, tensors):
        rule = Planted.vmap_of(call, tensors)

        def vmap(info, in_dims, *args):
            results, _ = rule(info, in_dims, *args)
            return (results.sum(0), None) if isinstance(results, torch.Tensor) else (results, (0,) * len(results))

        return vmap


class TangentDropped(Planted):
    def forward_jvp(self, ctx, *tangents):
        return Planted.forward_jvp(self, ctx, tangents[0], None)


class OneTooFew(Planted):
    def forward_backward(self, ctx, grad_output):
        return self.backward_op(grad_output, *ctx.saved_tensors, ctx.scale, [True, True])


class MeanForgotten(Planted):
    @staticmethod
    def backward_kernel(grad_output, input, weight, scale, output_mask):
        grad_input, grad_weight = backward_kernel(grad_output, input, weight, scale, output_mask)
        return grad_input * input.numel(), grad_weight


class MaskIgnored(Planted):
    @staticmethod
    def backward_kernel(grad_output, input, weight, scale, output_mask):
        return backward_kernel(grad_output, input, weight, scale, [True, True])


class DirectionNeeded(Planted):
    @staticmethod
    def double_backward_kernel(grad_grad_input, grad_grad_weight, *rest):
        ones = torch.ones_like(rest[0])
        return double_backward_kernel(grad_grad_input, ones if grad_grad_weight is None else grad_grad_weight, *rest)


@pytest.mark.parametrize(
    ("mistake", "case", "said"),
    [
        (ReadTwice, "derivatives-checkpointed_matrix", r"make sure to do so only once"),
        (
            ReadTwice,
            "derivatives-offloaded_matrix",
            r"a saved tensor of \(4, 3\) is unpacked 2 times in one backward. Each reading of ctx.saved_tensors",
        ),
        (
            Kept,
            "memory-keeps_nothing_else",
            r"ctx.kept is a tensor of \(4, 3\) that lies on the context.* goes through ctx.save_for_backward",
        ),
        (KeptDeeper, "memory-keeps_nothing_else", r"ctx.again\['sine'\]'s sine is a tensor of \(4, 3\)"),
        (SavesMore, "memory-saves_only_inputs", r"saved beside the inputs: tensors of \[\(4, 3\)\]"),
        (
            ContiguousFake,
            "compile-layouts_{op}",
            r"for transposed input, weight the fake kernel, fake= .* promises strides \(3, 1\) for result 0 .* kernel "
            r"returns \(1, 4\)",
        ),
        (
            NoAutocast,
            "autocast-bfloat16",
            "an output is torch.bfloat16, and must be torch.float32.*autocast= where the op is registered",
        ),
        (
            VmapReduces,
            "func-vmap_matrix",
            r"vmap with in_dims \(0, None\): look at the vmap rule of its autograd Functions",
        ),
        (TangentDropped, "func-transforms_matrix", "torch.func.jvp with respect to argument 0: look at jvp of its"),
        (TangentDropped, "derivatives-gradcheck_matrix", r"\(backward is right, and forward mode is not: look at jvp"),
        (OneTooFew, "derivatives-gradcheck_matrix", r"incorrect number of gradients \(expected 3, got 2\)"),
        (
            MeanForgotten,
            "derivatives-gradcheck_matrix",
            r"to input is off in 12 of 144 entries.*Everywhere the analytic one is 12 times the numeric one: a wrong "
            r"factor, the number of elements; is a mean multiplied by it once too often\?.*to weight is right",
        ),
        (
            MaskIgnored,
            "derivatives-only_what_is_asked__{op}_backward",
            r"output_mask \[True, False\]: result 1 of the kernel must be new_empty\(0\); got \(4, 3\)",
        ),
        (
            DirectionNeeded,
            "derivatives-only_what_is_asked__{op}_double_backward",
            "grad_grad_weight None is not as zeros",
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_mistake_is_reported_in_words_that_lead_to_it(mistake, case, said):
    op = mistake()
    (word, name) = case.format(op=op.name).split("-")
    run = cases(op, word)[f"{word}-{name}"]
    with pytest.raises(Exception, match=f"(?s){said}"):
        run()
