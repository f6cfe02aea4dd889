"""What each tick of the op contract asks. ``tick_NAME(spec, root)`` yields named checks; a check asserts.

The checks know nothing of any op: they see its public function, its reference, and what its spec says.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.utils._pytree import tree_leaves

from handgrad.registration import OPERATORS
from handgrad.sdk.loading import LOADED, Loaded
from handgrad.testing import distributed, explain, malformed
from handgrad.testing.spec import OpSpec, Sample, far_apart, halved, reseeded

Check = tuple[str, Callable[[], None]]
Checks = Iterator[Check]


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _outputs(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def _emulated(spec: OpSpec) -> Path | None:
    """The library with the op's emulated CUDA kernels, if they run in place of its CPU kernels."""
    return LOADED.get(spec.namespace, Loaded()).emulated


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _directions(
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


def _value_and_grads(
    spec: OpSpec, function: Callable[..., Any], sample: Sample, representable: torch.dtype | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The outputs, and the gradients of all tensors along a fixed direction: none, if the op has no derivatives."""
    leaves = sample.leaves()
    outputs = _outputs(function(*leaves, **sample.kwargs))
    if not spec.derivatives:
        assert function is spec.reference or not any(out.requires_grad for out in outputs), "an output requires grad"
        return tuple(out.detach() for out in outputs), ()
    grads = torch.autograd.grad(outputs, leaves, _directions(outputs, representable=representable))
    return tuple(out.detach() for out in outputs), grads


def _second_grads(spec: OpSpec, function: Callable[..., Any], sample: Sample) -> tuple[Tensor, ...]:
    """The gradients of a fixed product with the first gradients; the op itself is called even if it has none."""
    leaves = sample.leaves()
    outputs = _outputs(function(*leaves, **sample.kwargs))
    if not spec.derivatives:
        return ()
    first = torch.autograd.grad(outputs, leaves, _directions(outputs), create_graph=True)
    # What an output is linear in by itself, as in a bias, is in no first gradient.
    return torch.autograd.grad(first, leaves, _directions(first, seed=2), materialize_grads=True)


def _scalar(spec: OpSpec, kwargs: dict[str, Any], function: Callable[..., Any] | None = None) -> Callable[..., Tensor]:
    """A twice differentiable scalar of the op's outputs whose gradient depends on all of them."""

    def scalar(*tensors: Tensor) -> Tensor:
        outputs = _outputs((function or spec.function)(*tensors, **kwargs))
        return sum(((out * out).sum() + out.sum() for out in outputs), start=tensors[0].new_zeros(()))

    return scalar


def _where_the_samples_are(spec: OpSpec, run: Callable[[], None]) -> None:
    """A callable of the spec that makes its own tensors, on the device of the spec's samples."""
    device = spec.samples[0].tensors[0].device
    with contextlib.nullcontext() if device.type == "cpu" else device:
        run()


# ---- 1: kernels against the reference in float64 ---------------------------------------------------------------------


def _against_reference(spec: OpSpec, sample: Sample, dtype: torch.dtype, device: str = "cpu") -> None:
    rounded = sample.map(Tensor.cpu).to(dtype)
    # The reference, in float64 if it can be, sees the very numbers that the kernel sees.
    expected = _value_and_grads(spec, spec.reference, rounded.to(spec.compute_dtype(dtype)), representable=dtype)
    outputs, grads = _value_and_grads(spec, spec.function, rounded.map(lambda tensor: tensor.to(device)))
    floating = [out.dtype for out in outputs if out.is_floating_point()]
    assert all(found == dtype for found in floating), f"outputs are {floating}, not {dtype}"
    spec.close(tuple(out.cpu() for out in outputs), expected[0], dtype)
    spec.close(tuple(grad.cpu() for grad in grads), expected[1], dtype)


def tick_cpu(spec: OpSpec, root: Path) -> Checks:
    for dtype in spec.dtypes:
        for sample in (*spec.samples, spec.large):
            name = f"{sample.name}_{_name_of(dtype)}"
            yield name, functools.partial(_against_reference, spec, sample, dtype)


def tick_cuda(spec: OpSpec, root: Path) -> Checks:
    for dtype in spec.dtypes:
        for sample in (*spec.samples, spec.large):
            name = f"{sample.name}_{_name_of(dtype)}"
            yield name, functools.partial(_against_reference, spec, sample, dtype, "cuda")


# ---- 3: derivatives --------------------------------------------------------------------------------------------------


def tick_derivatives(spec: OpSpec, root: Path) -> Checks:
    for sample in spec.samples:

        def first(sample: Sample = sample) -> None:
            with _explained(spec, sample, root, order=1):
                assert gradcheck(
                    functools.partial(spec.function, **sample.kwargs),
                    sample.leaves(),
                    check_forward_ad=True,
                    check_batched_grad=True,
                    check_batched_forward_grad=True,
                )

        def second(sample: Sample = sample) -> None:
            with _explained(spec, sample, root, order=2):
                assert gradgradcheck(
                    functools.partial(spec.function, **sample.kwargs),
                    sample.leaves(),
                    check_fwd_over_rev=True,
                    check_batched_grad=True,
                )

        yield f"gradcheck_{sample.name}", first
        yield f"gradgradcheck_{sample.name}", second

    def one_at_a_time() -> None:
        # An argument that does not require grad must not disturb the gradient of one that does.
        sample = spec.samples[0]
        _, expected = _value_and_grads(spec, spec.function, sample)
        for place in range(len(sample.tensors)):
            tensors = [tensor.detach() for tensor in sample.tensors]
            tensors[place].requires_grad_()
            outputs = _outputs(spec.function(*tensors, **sample.kwargs))
            (grad,) = torch.autograd.grad(outputs, tensors[place], _directions(outputs))
            # Not to the bit: another loop is at work, in which the compiler may fuse other multiplications and
            # additions.
            torch.testing.assert_close(grad, expected[place])

    yield "one_argument_at_a_time", one_at_a_time
    for name, identity in spec.identities.items():
        yield f"identity_{name}", functools.partial(_where_the_samples_are, spec, identity)


@contextlib.contextmanager
def _explained(spec: OpSpec, sample: Sample, root: Path, order: int) -> Iterator[None]:
    """gradcheck says that something is off; what is off is found out here."""
    try:
        yield
    except GradcheckError as error:
        # Forward mode and batches have words of gradcheck's own, where the derivatives themselves are right.
        text = explain.wrong_derivatives(spec, sample, root, order)
        raise AssertionError(text or f"{spec.name}, sample {sample.name!r}: {error}") from None


# ---- 4: strides ------------------------------------------------------------------------------------------------------


def _strided_variants(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same values in other arrangements of memory."""
    yield "transposed", tensor.transpose(0, -1).contiguous().transpose(0, -1)
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
        yield "channels_last", tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def tick_strides(spec: OpSpec, root: Path) -> Checks:
    for sample in spec.samples:
        if sample.tensors[0].dim() == 0:
            continue

        def strided(sample: Sample = sample, dtype: torch.dtype = torch.float64) -> None:
            sample = sample.to(dtype)
            expected = _value_and_grads(spec, spec.function, sample)
            variants = [dict(_strided_variants(tensor)) for tensor in sample.tensors]
            for kind in variants[0]:
                # All tensors so arranged, and each alone among contiguous ones.
                for chosen in [range(len(variants)), *([place] for place in range(len(variants)))]:
                    tensors = tuple(
                        # A bias, say, has fewer arrangements than an image.
                        variants[place].get(kind, tensor) if place in chosen else tensor
                        for place, tensor in enumerate(sample.tensors)
                    )
                    actual = _value_and_grads(spec, spec.function, Sample(kind, tensors, sample.kwargs))
                    # The order of a sum may follow memory.
                    torch.testing.assert_close(actual, expected, msg=f"{kind}: {{}}".format)

        yield f"any_{sample.name}", strided
        yield f"any_{sample.name}_bfloat16", functools.partial(strided, sample, torch.bfloat16)

    def expanded() -> None:
        sample = spec.samples[0].map(lambda tensor: tensor[:1].expand(4, *tensor.shape[1:]))
        dense = sample.map(torch.clone)
        torch.testing.assert_close(
            spec.function(*sample.tensors, **sample.kwargs), spec.function(*dense.tensors, **dense.kwargs)
        )
        if not spec.derivatives:
            return
        # Gradients that are one number for all, as sum().backward() hands them over.
        grads = []
        for make in (torch.ones_like, lambda out: out.new_ones(()).expand_as(out)):
            leaves = dense.leaves()
            outputs = _outputs(spec.function(*leaves, **dense.kwargs))
            grads.append(torch.autograd.grad(outputs, leaves, tuple(make(out) for out in outputs)))
        torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)

    def layout() -> None:
        for sample in spec.samples:
            if sample.tensors[0].dim() != 4:
                continue
            last = sample.map(
                lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
            )
            outputs, grads = _value_and_grads(spec, spec.function, last)
            for tensor in (*outputs, *grads):
                if tensor.dim() == 4:
                    assert tensor.is_contiguous(memory_format=torch.channels_last), "channels_last was lost"

    yield "expanded", expanded
    if spec.channels_last:
        yield "channels_last_kept", layout


# ---- 5, 6: sizes at both ends ----------------------------------------------------------------------------------------


def tick_empty(spec: OpSpec, root: Path) -> Checks:
    for sample in spec.empty:

        def empty(sample: Sample = sample) -> None:
            expected = _value_and_grads(spec, spec.reference, sample)
            actual = _value_and_grads(spec, spec.function, sample)
            torch.testing.assert_close(actual, expected, equal_nan=True)
            assert all(torch.isfinite(grad).all() for grad in _second_grads(spec, spec.function, sample))

        yield sample.name, empty


def tick_indexing(spec: OpSpec, root: Path) -> Checks:
    def addresses() -> None:
        sample = spec.samples[0].to(torch.bfloat16)
        expected = _value_and_grads(spec, spec.function, sample)
        actual = _value_and_grads(spec, spec.function, sample.map(far_apart))
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)

    yield "addresses_beyond_int32", addresses
    # Two billion elements are two billion emulated threads, an hour of them; the addresses are checked there too.
    if not _emulated(spec):
        yield "numel_beyond_int32", functools.partial(_where_the_samples_are, spec, spec.numel_beyond_int32)


# ---- 7: fake, opcheck, compile, export, AOTInductor ------------------------------------------------------------------


def _record_calls(spec: OpSpec, sample: Sample) -> dict[str, tuple[Any, ...]]:
    """The arguments of one call of the op and of each of its private ops, seen while differentiating twice."""
    from torch.utils._python_dispatch import TorchDispatchMode

    calls: dict[str, tuple[Any, ...]] = {}

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func._schema.name
            if name in OPERATORS and spec.name in name:
                calls.setdefault(name, tuple(a.detach() if isinstance(a, Tensor) else a for a in args))
            return func(*args, **(kwargs or {}))

    with Recorder():
        _second_grads(spec, spec.function, sample)
    return calls


def tick_compile(spec: OpSpec, root: Path) -> Checks:
    def opcheck(name: str) -> None:
        for sample in (spec.samples[0], spec.samples[-1]):
            args = _record_calls(spec, sample)[name]
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
                    torch.library.opcheck(OPERATORS[name].overload, again)

    for name in (spec.operator, *map(spec.private, spec.private_ops)):
        if name in OPERATORS:
            yield f"opcheck_{name.split('::')[1]}", functools.partial(opcheck, name)

    def compiled() -> None:
        for sample in spec.samples:
            torch._dynamo.reset()
            step = torch.compile(spec.function, fullgraph=True, dynamic=True)
            torch.testing.assert_close(
                _value_and_grads(spec, step, sample),
                _value_and_grads(spec, spec.function, sample),
                msg=sample.name.__add__,
            )

    def one_graph_for_all_sizes() -> None:
        from torch._dynamo.testing import CompileCounter

        torch._dynamo.reset()
        counter = CompileCounter()
        step = torch.compile(spec.function, backend=counter, fullgraph=True, dynamic=True)
        sample = spec.samples[0]
        for repeat in (2, 3, 5):
            grown = spec.grown(sample, repeat)
            torch.testing.assert_close(
                step(*grown.tensors, **grown.kwargs), spec.function(*grown.tensors, **grown.kwargs)
            )
        assert counter.frame_count == 1, f"compiled {counter.frame_count} times for three batch sizes"

    def compiled_transforms() -> None:
        sample = spec.samples[0]
        scalar = _scalar(spec, sample.kwargs)
        tangents = _directions(sample.tensors)
        for transform in (
            lambda *tensors: torch.func.jvp(scalar, tensors, tangents),
            lambda *tensors: torch.func.grad(scalar, argnums=tuple(range(len(tensors))))(*tensors),
            lambda *tensors: torch.vmap(scalar)(*(torch.stack([tensor, tensor]) for tensor in tensors)),
        ):
            torch._dynamo.reset()
            torch.testing.assert_close(
                torch.compile(transform, fullgraph=True)(*sample.tensors), transform(*sample.tensors)
            )

    def exported() -> None:
        for sample in spec.samples:
            module = spec.as_module(sample.kwargs)
            names = [spec.counted(place) for place in range(len(sample.tensors))]
            dims = {name: torch.export.Dim(name, min=1) for name in names}
            shapes = tuple({0: dims[name]} for name in names)
            # A dimension of size 1 would be taken for a constant.
            example = sample.map(lambda tensor: torch.cat([tensor] * 2))
            # Where a module takes *tensors, they are one argument.
            named: Any = shapes if spec.module is not None else (shapes,)
            program = torch.export.export(module, example.tensors, dynamic_shapes=named)
            assert any(node.target == OPERATORS[spec.operator].overload for node in program.graph.nodes)
            grown = spec.grown(sample, 3)
            torch.testing.assert_close(program.module()(*grown.tensors), module(*grown.tensors))

    def ahead_of_time() -> None:
        sample = spec.samples[0]
        module = spec.as_module(sample.kwargs)
        program = torch.export.export(module, sample.tensors)
        with tempfile.TemporaryDirectory() as folder:
            package = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
            loaded = torch._inductor.aoti_load_package(package)
            torch.testing.assert_close(loaded(*sample.tensors), module(*sample.tensors))

    yield "compile", compiled
    yield "one_graph_for_all_sizes", one_graph_for_all_sizes
    if spec.derivatives:
        yield "compiled_transforms", compiled_transforms
    yield "export", exported
    yield "aoti", ahead_of_time


# ---- 8: autocast -----------------------------------------------------------------------------------------------------


def tick_autocast(spec: OpSpec, root: Path) -> Checks:
    def autocast(low: torch.dtype) -> None:
        sample = spec.samples[0].to(low)
        expected_dtype = spec.autocast or low
        with torch.autocast(sample.tensors[0].device.type, dtype=low):
            outputs, grads = _value_and_grads(spec, spec.function, sample)
            if spec.derivatives:
                leaves = sample.leaves()
                all_grads = (*grads, *_second_grads(spec, spec.function, sample))
                tangent = torch.func.jvp(_scalar(spec, sample.kwargs), sample.tensors, _directions(sample.tensors))[1]
                assert all(grad.dtype == leaf.dtype for grad, leaf in zip(all_grads, (*leaves, *leaves), strict=True))
                assert tangent.isfinite()
        assert all(out.dtype == expected_dtype for out in outputs if out.is_floating_point())
        expected = _value_and_grads(spec, spec.function, sample.to(expected_dtype))
        torch.testing.assert_close(outputs, expected[0], rtol=0, atol=0)
        spec.close(grads, expected[1], low)

    yield "bfloat16", functools.partial(autocast, torch.bfloat16)
    yield "float16", functools.partial(autocast, torch.float16)


# ---- 9: torch.func ---------------------------------------------------------------------------------------------------


def tick_func(spec: OpSpec, root: Path) -> Checks:
    def vmap(sample: Sample) -> None:
        stacked = [torch.stack([tensor, halved(tensor), tensor.flip(0)]) for tensor in sample.tensors]
        function = functools.partial(spec.function, **sample.kwargs)
        for mapped in _subsets(len(stacked)):
            for dim in (0, 1, -1):
                in_dims = tuple(dim if place in mapped else None for place in range(len(stacked)))
                tensors = [
                    tensor.movedim(0, dim).contiguous() if place in mapped else tensor[0]
                    for place, tensor in enumerate(stacked)
                ]
                loop = [
                    _outputs(
                        function(*(tensor[i] if place in mapped else tensor[0] for place, tensor in enumerate(stacked)))
                    )
                    for i in range(3)
                ]
                with _no_loops():
                    actual = torch.vmap(function, in_dims)(*tensors)
                torch.testing.assert_close(_outputs(actual), tuple(torch.stack(o) for o in zip(*loop, strict=True)))

    def per_sample(sample: Sample) -> None:
        # Per-sample gradients and Hessians, against a loop.
        stacked = [torch.stack([tensor, 0.5 * tensor]) for tensor in sample.tensors]
        scalar = _scalar(spec, sample.kwargs)
        for transform in (torch.func.grad, torch.func.hessian):
            with _no_loops():
                actual = torch.vmap(transform(scalar))(*stacked)
            loop = [transform(scalar)(*(tensor[i] for tensor in stacked)) for i in range(2)]
            torch.testing.assert_close(actual, torch.stack(loop))

    def transforms(sample: Sample) -> None:
        ours, reference = _scalar(spec, sample.kwargs), _scalar(spec, sample.kwargs, spec.reference)
        tangents = _directions(sample.tensors)
        for argument in range(len(sample.tensors)):
            grad = functools.partial(torch.func.grad, argnums=argument)
            jacrev = functools.partial(torch.func.jacrev, argnums=argument)
            jacfwd = functools.partial(torch.func.jacfwd, argnums=argument)
            ways: dict[str, Callable[..., Any]] = {
                "grad": grad,
                "jvp": lambda f: lambda *x: torch.func.jvp(f, x, tangents),
                "vjp": lambda f: lambda *x: torch.func.vjp(f, *x)[1](x[0].new_ones(())),
                "jacrev": jacrev,
                "jacfwd": jacfwd,
                "hessian": functools.partial(torch.func.hessian, argnums=argument),
                "jacrev_of_jacfwd": lambda f, a=jacrev, b=jacfwd: a(b(f)),
                "jacfwd_of_jacfwd": lambda f, b=jacfwd: b(b(f)),
                "jacrev_of_jacrev": lambda f, a=jacrev: a(a(f)),
                "third": lambda f, g=grad, a=jacrev: g(lambda *x: a(a(f))(*x).square().sum()),
                "third_forward": lambda f, g=grad: (
                    lambda *x: torch.func.jvp(g(lambda *y: g(f)(*y).square().sum()), x, tangents)
                ),
            }
            for name, transform in ways.items():
                actual, expected = transform(ours)(*sample.tensors), transform(reference)(*sample.tensors)
                torch.testing.assert_close(actual, expected, msg=f"{name} of argument {argument}: {{}}".format)

    for sample in spec.samples:
        yield f"vmap_{sample.name}", functools.partial(vmap, sample)
        if not spec.derivatives:
            continue
        yield f"per_sample_{sample.name}", functools.partial(per_sample, sample)
        yield f"transforms_{sample.name}", functools.partial(transforms, sample)


@contextlib.contextmanager
def _no_loops() -> Iterator[None]:
    """torch warns where vmap falls back to a loop over samples; here that is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="There is a performance drop")
        yield


def _subsets(count: int) -> Iterator[set[int]]:
    for bits in range(1, 2**count):
        yield {place for place in range(count) if bits >> place & 1}


# ---- 10: the reference -----------------------------------------------------------------------------------------------


def tick_reference(spec: OpSpec, root: Path) -> Checks:
    def independent() -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        sample = spec.samples[0]
        graph = make_fx(functools.partial(spec.reference, **sample.kwargs))(*sample.tensors)
        called = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
        assert called
        assert all(name.startswith(("aten.", "prims.", "<built-in")) for name in called), called

    def private(name: str) -> None:
        # The private ops' references, which run on devices without a kernel and give the third derivatives.
        for sample in spec.samples:
            args = _record_calls(spec, sample)[name]
            operator = OPERATORS[name]
            torch.testing.assert_close(operator.overload(*args), operator.reference(*args))

    def module() -> None:
        for sample in spec.samples:
            made = spec.as_module(sample.kwargs)
            torch.testing.assert_close(
                made(*sample.tensors), spec.function(*sample.tensors, **sample.kwargs), rtol=0, atol=0
            )
            assert list(made.state_dict()) == []
            assert spec.name.replace("_", "") in repr(made).lower()
            for value in sample.kwargs.values():
                assert repr(value) in repr(made), f"{value!r} does not show in {made!r}"

    yield "plain_pytorch", independent
    for name in map(spec.private, spec.private_ops):
        if name in OPERATORS:
            yield f"of_{name.split('::')[1]}", functools.partial(private, name)
    if spec.module is not None:
        yield "module", module


# ---- 11: ONNX --------------------------------------------------------------------------------------------------------


def tick_onnx(spec: OpSpec, root: Path) -> Checks:
    def exported(sample: Sample) -> None:
        import handgrad.onnx

        sample = sample.to(torch.float32)
        with tempfile.TemporaryDirectory() as folder:
            # verify runs onnxruntime at the exported batch size and at another one
            handgrad.onnx.export(spec.as_module(sample.kwargs), sample.tensors, Path(folder) / "op.onnx", verify=True)

    for sample in spec.samples:
        if spec.onnx is None or sample.name in spec.onnx:
            yield sample.name, functools.partial(exported, sample)


# ---- 12: determinism -------------------------------------------------------------------------------------------------


def tick_deterministic(spec: OpSpec, root: Path) -> Checks:
    def threads(dtype: torch.dtype) -> None:
        sample = spec.large.to(dtype)
        before, free = torch.get_num_threads(), not torch.are_deterministic_algorithms_enabled()
        try:
            # A device may have a faster path that adds in the order in which threads come; this is the other one.
            torch.use_deterministic_algorithms(not sample.tensors[0].is_cpu or not free)
            results = []
            for count in (1, 2, 3, 7, 2):
                torch.set_num_threads(count)
                first = _value_and_grads(spec, spec.function, sample)
                results.append((*first, _second_grads(spec, spec.function, sample)))
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(not free)
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=0, atol=0, equal_nan=True)

    for dtype in spec.dtypes:
        yield f"any_number_of_threads_{_name_of(dtype)}", functools.partial(threads, dtype)

    def schedules(sample: Sample) -> None:
        # A kernel that lacks a barrier, or adds in the order in which its threads come, shows in one of these.
        library = ctypes.CDLL(str(_emulated(spec)))
        deterministic = torch.are_deterministic_algorithms_enabled()
        try:
            torch.use_deterministic_algorithms(True)
            results = []
            for schedule in ("forward", "reverse", *(f"random:{seed}" for seed in range(8))):
                assert library.handgrad_emulator_set_schedule(schedule.encode()) == 0
                first = _value_and_grads(spec, spec.function, sample)
                results.append((*first, _second_grads(spec, spec.function, sample)))
            torch.use_deterministic_algorithms(False)
            # Where this is another path, its sums may follow the order of the threads, but nothing else may.
            free = (*_value_and_grads(spec, spec.function, sample), _second_grads(spec, spec.function, sample))
        finally:
            torch.use_deterministic_algorithms(deterministic)
            library.handgrad_emulator_set_schedule((os.environ.get("HANDGRAD_EMULATOR_SCHEDULE") or "forward").encode())
        for tensor in tree_leaves(results):
            assert tensor.isfinite().all(), "not all of an output was written: in the emulator it begins as NaN"
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=0, atol=0)
        torch.testing.assert_close(free, results[0])

    if _emulated(spec):
        for sample in spec.samples:
            yield f"any_schedule_{sample.name}", functools.partial(schedules, sample)


# ---- 13: sentences ---------------------------------------------------------------------------------------------------


def tick_sentences(spec: OpSpec, root: Path) -> Checks:
    import pytest

    for bad in spec.bad:

        def fails(bad: Any = bad) -> None:
            with pytest.raises(bad.error, match=bad.sentence):
                bad.call()

        yield bad.name, fails
    yield "malformed", functools.partial(malformed.run, spec)


# ---- 14: sharding ----------------------------------------------------------------------------------------------------


def tick_sharding(spec: OpSpec, root: Path) -> Checks:
    yield "dtensor", functools.partial(distributed.run, distributed.dtensor, spec)
    if spec.derivatives:
        yield "ddp", functools.partial(distributed.run, distributed.ddp, spec)


# ---- 15: memory ------------------------------------------------------------------------------------------------------


def allocated(run: Callable[[], Any]) -> int:
    """Bytes that torch's allocator hands out while ``run`` runs."""
    from torch._C._profiler import _EventType

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = run()
    del kept
    # Each allocation by itself: the sums that events() shows by operator leave out what an operator has returned.
    events, sizes = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            sizes.append(event.extra_fields.alloc_size)
    return sum(size for size in sizes if size > 0)


def tick_memory(spec: OpSpec, root: Path) -> Checks:
    def saved() -> None:
        for sample in (*spec.samples, spec.large):
            leaves = sample.leaves()
            inputs = {leaf.untyped_storage().data_ptr() for leaf in leaves}
            saved: list[Tensor] = []

            def keep(tensor: Tensor, saved: list[Tensor] = saved) -> Tensor:
                saved.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                spec.function(*leaves, **sample.kwargs)
            foreign = [tuple(t.shape) for t in saved if t.untyped_storage().data_ptr() not in inputs]
            assert not foreign, f"saved beside the inputs: tensors of {foreign}"

    def handed_out() -> None:
        sample = spec.large
        leaves = sample.leaves()
        outputs = _outputs(spec.function(*leaves, **sample.kwargs))
        directions = _directions(outputs)
        forward = allocated(lambda: spec.function(*sample.tensors, **sample.kwargs))
        backward = allocated(lambda: torch.autograd.grad(outputs, leaves, directions))
        slack = spec.device_scratch if _emulated(spec) else 4096
        results = sum(out.numel() * out.element_size() for out in outputs)
        assert results <= forward <= results + slack, f"forward allocates {forward} bytes for outputs of {results}"
        grads = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        assert grads <= backward <= grads + slack, f"backward allocates {backward} bytes for gradients of {grads}"

    yield "saves_only_inputs", saved
    yield "allocates_only_results", handed_out


# ---- 16: documented --------------------------------------------------------------------------------------------------


def tick_documented(spec: OpSpec, root: Path) -> Checks:
    def found(pattern: str) -> None:
        paths = list(root.glob(pattern))
        assert len(paths) == 1, f"expected one file {pattern} in {root}, found {paths}"
        assert len(paths[0].read_text().splitlines()) > 10

    yield "docs_page", functools.partial(found, f"docs/*/{spec.name}.md")
    yield "benchmark", functools.partial(found, f"benchmarks/*/bench_{spec.name}.py")

    def docstring() -> None:
        import doctest

        modules = () if spec.module is None else (type(spec.module(**spec.samples[0].kwargs)),)
        for thing in (spec.function, *modules):
            text = thing.__doc__ or ""
            for part in ("Args:", "Example:"):
                assert part in text, f"{thing.__name__} has no {part}"
            scope = {**spec.function.__globals__, "torch": torch}
            for example in doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs=scope):
                runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
                report: list[str] = []
                runner.run(example, out=report.append)
                assert runner.tries, f"{thing.__name__} has no example that runs"
                assert not runner.failures, "".join(report)

    yield "docstring", docstring
