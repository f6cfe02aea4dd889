"""Tick 7: fake kernels, opcheck, torch.compile, export, AOTInductor."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handgrad.registration import OPERATORS
from handgrad.testing import ahead_of_time
from handgrad.testing.calls import Checks, as_tuple, directions, of_floating, scalar, value_and_grads
from handgrad.testing.private import argument_names, masks, recorded, with_argument
from handgrad.testing.spec import OpSpec, Sample
from handgrad.testing.ticks.strides import channels_last, transposed


def cases(spec: OpSpec, root: Path) -> Checks:
    for name in (spec.operator, *map(spec.private, spec.private_ops)):
        if name in OPERATORS:
            yield f"opcheck_{name.split('::')[1]}", functools.partial(_opcheck, spec, name)
            yield f"layouts_{name.split('::')[1]}", functools.partial(_layouts, spec, name)
    for sample in spec.samples:
        # In a graph an op is one node, of which AOTAutograd and Inductor make the same for every sample: they are asked
        # once, and of the others Dynamo, which traces what the arguments' values lead through, in a fifth of the time.
        backend = "inductor" if sample is spec.samples[0] else "eager"
        yield f"compile_{sample.name}", functools.partial(_compiled, spec, sample, backend)
        yield f"export_{sample.name}", functools.partial(_exported, spec, sample)
    yield "one_graph_for_all_sizes", functools.partial(_one_graph_for_all_sizes, spec)
    if spec.derivatives:
        yield "compiled_transforms", functools.partial(_compiled_transforms, spec)
    yield "aoti", functools.partial(ahead_of_time.check, spec)


def _opcheck(spec: OpSpec, name: str) -> None:
    for sample in (spec.samples[0], spec.samples[-1]):
        args = recorded(spec, sample)[name]
        _check_fake(name, args, "contiguous tensors")
        for requires_grad in (False, True):
            again = tuple(
                a.detach().clone().requires_grad_(requires_grad and a.is_floating_point())
                if isinstance(a, Tensor)
                else a
                for a in args
            )
            with warnings.catch_warnings():
                # opcheck looks at .grad of tensors that it made itself
                warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
                torch.library.opcheck(OPERATORS[name].overload, again, test_utils=_opchecks(spec, name, requires_grad))


def _opchecks(spec: OpSpec, name: str, requires_grad: bool) -> tuple[str, ...]:
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    # The last op's derivatives go through its reference, and AOTAutograd, which differentiates once, never meets them.
    last = bool(spec.private_ops) and name == spec.private(spec.private_ops[-1])
    return checks if last and requires_grad else (*checks, "test_aot_dispatch_dynamic")


def _layouts(spec: OpSpec, name: str) -> None:
    """opcheck asks a fake kernel about the strides of the tensors that it is given, and those are contiguous."""
    for sample in spec.samples:
        args = recorded(spec, sample)[name]
        _check_fake(name, args, "contiguous tensors")
        if "output_mask" in argument_names(name):
            for mask in masks(len(OPERATORS[name].overload._schema.returns)):
                _check_fake(name, with_argument(name, args, "output_mask", mask), f"output_mask {mask}")
        for layout, arrange, rank in (("channels_last", channels_last, 3), ("transposed", transposed, 2)):
            indices = [index for index, arg in enumerate(args) if isinstance(arg, Tensor) and arg.dim() >= rank]
            # All of them, and each alone among contiguous ones.
            for chosen in ([indices] if indices else []) + [[index] for index in indices if len(indices) > 1]:
                arranged = tuple(arrange(arg) if index in chosen else arg for index, arg in enumerate(args))
                names = [OPERATORS[name].overload._schema.arguments[index].name for index in chosen]
                _check_fake(name, arranged, f"{layout} {', '.join(names)}")


def _check_fake(name: str, args: tuple[Any, ...], given: str) -> None:
    """What opcheck would say of a fake kernel that promises other results than the kernel's, in one message."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    overload = OPERATORS[name].overload
    real = overload(*args)
    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True) as mode:
        fake = overload(*(mode.from_tensor(arg) if isinstance(arg, Tensor) else arg for arg in args))
    for index, (promised, returned) in enumerate(zip(as_tuple(fake), as_tuple(real), strict=True)):
        # A size that depends on values is promised as a symbol.
        sizes = [size if isinstance(size, int) else None for size in promised.shape]
        fits = len(sizes) == returned.dim() and all(a in (None, b) for a, b in zip(sizes, returned.shape, strict=True))
        if not fits or promised.dtype != returned.dtype:
            raise AssertionError(
                f"{name}: the fake kernel, fake= of its register(...), promises {tuple(promised.shape)} of "
                f"{promised.dtype} for result {index}, and the kernel returns {tuple(returned.shape)} of "
                f"{returned.dtype}"
            )
        assert _strides(promised, returned) == _strides(returned, returned), (
            f"{name}: for {given} the fake kernel, fake= of its register(...), promises strides {promised.stride()} "
            f"for result {index} of {tuple(returned.shape)}, and the kernel returns {returned.stride()}: what "
            "torch.compile makes of it would fail, or read elsewhere"
        )


def _strides(tensor: Tensor, real: Tensor) -> list[int]:
    """Those that say something: where there is more than one step to go."""
    return [stride for stride, size in zip(tensor.stride(), real.shape, strict=True) if size > 1 and real.numel()]


def _compiled(spec: OpSpec, sample: Sample, backend: str) -> None:
    torch._dynamo.reset()
    step = torch.compile(spec.call, fullgraph=True, dynamic=True, backend=backend)
    torch.testing.assert_close(value_and_grads(spec, step, sample), value_and_grads(spec, spec.call, sample))


def _one_graph_for_all_sizes(spec: OpSpec) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(spec.call, backend=counter, fullgraph=True, dynamic=True)
    sample = spec.samples[0]
    for repeat in (2, 3, 5):
        grown = spec.grown(sample, repeat)
        torch.testing.assert_close(step(*grown.tensors, **grown.kwargs), spec.call(*grown.tensors, **grown.kwargs))
    assert counter.frame_count == 1, f"compiled {counter.frame_count} times for three batch sizes"


def _compiled_transforms(spec: OpSpec) -> None:
    sample = spec.samples[0]
    of_tensors, given = of_floating(scalar(spec, sample.kwargs), sample)
    tangents = directions(given)
    for transform in (
        lambda *tensors: torch.func.jvp(of_tensors, tensors, tangents),
        lambda *tensors: torch.func.grad(of_tensors, argnums=tuple(range(len(tensors))))(*tensors),
        lambda *tensors: torch.vmap(of_tensors)(*(torch.stack([tensor, tensor]) for tensor in tensors)),
    ):
        torch._dynamo.reset()
        # Of a derivative Dynamo traces the reference, torch's own operations: what AOTAutograd and Inductor make of
        # those is no question to an op, and takes several times as long.
        step = torch.compile(transform, fullgraph=True, backend="eager")
        torch.testing.assert_close(step(*given), transform(*given))


def _exported(spec: OpSpec, sample: Sample) -> None:
    module, indices = spec.as_module(sample)
    names = [spec.counted(index) for index in indices]
    dims = {name: torch.export.Dim(name, min=1) for name in names}
    shapes = tuple({0: dims[name]} for name in names)
    # A dimension of size 1 would be taken for a constant.
    example = tuple(torch.cat([sample.tensors[index]] * 2) for index in indices)
    # Where a module takes *tensors, they are one argument.
    named: Any = shapes if spec.module is not None else (shapes,)
    program = torch.export.export(module, example, dynamic_shapes=named)
    assert any(node.target == OPERATORS[spec.operator].overload for node in program.graph.nodes)
    grown = spec.grown(sample, 3).tensors
    tensors = [grown[index] for index in indices]
    torch.testing.assert_close(program.module()(*tensors), module(*tensors))
