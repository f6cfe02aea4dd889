"""ONNX: models with handgrad's ops, and any op registered by :func:`handgrad.registration.register`, as ONNX files.

:func:`export` is the front door. Behind it each op becomes standard ONNX operators in one of two ways, both given when
the op is registered: its ``onnx`` function, where ONNX has an operator that means the same, and its ``reference`` in
plain PyTorch otherwise. Importing this module also teaches both to ``torch.onnx.export(..., dynamo=False)``.

What is exported how: docs/onnx.md.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from handgrad.registration import OBSERVERS, OPERATORS, Operator
from handgrad.sdk import lazy

__all__ = ["Exported", "VerificationError", "decompositions", "export", "operator", "unknown_size", "verify"]


class VerificationError(RuntimeError):
    """The ONNX file does not compute what the model computes."""


@dataclass(frozen=True)
class Exported:
    """What :func:`export` wrote."""

    path: Path
    program: Any = field(repr=False)  #: the :class:`torch.onnx.ONNXProgram`: the graph, for further changes
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    max_difference: float | None  #: the largest difference that verification found; None where it was not asked for


# ---- export ----------------------------------------------------------------------------------------------------------


def export(
    model: nn.Module,
    args: Any,
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int | None = None,
    verify: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
) -> Exported:
    """Writes ``model`` as one ONNX file of standard operators.

    The model is exported in evaluation mode, without gradients, and left in the mode it was in. It may return one
    tensor or several, in tuples, lists and dictionaries; the file has them flattened.

    Args:
        model: the network, or a module around a network and a loss.
        args: an example input: a tensor, or a tuple of the positional arguments, which may be tensors, numbers, and
            tuples, lists and dictionaries of them. Tensors become the file's inputs, in order; all else is fixed.
        path: the file to write.
        kwargs: the keyword arguments of the example, if any. Their tensors follow those of ``args``, in the order of
            the model's signature.
        dynamic_batch: leave dimension 0 of every tensor input open. False fixes every size as in the example.
        dynamic_shapes: which sizes to leave open instead, as :func:`torch.export.export` takes it.
        input_names, output_names: names in the file, one for each tensor; None lets torch choose.
        opset_version: version of ONNX's standard operators, at least 18; None for torch's choice.
        verify: run the file in onnxruntime and compare it with the model, see :func:`verify`: on the example, and, when
            the batch is dynamic, on a batch of another size made of the example's rows.
        rtol, atol: the tolerances of that comparison.

    Returns:
        An :class:`Exported`, with the names in the file, the ONNX program, and the largest difference that was found.

    Raises:
        ImportError: onnx or onnxscript is missing, or onnxruntime under ``verify``.
        TypeError, ValueError: a bad argument; a model that does not work for every batch size, under ``dynamic_batch``.
        VerificationError: the file differs from the model by more than the tolerances. It is left for inspection.

    Example::

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), handgrad.layers.LocalResponseNorm(5))
        >>> exported = handgrad.onnx.export(model, torch.rand(1, 3, 32, 32), "model.onnx", verify=True)
        >>> exported.max_difference < 1e-5
        True
    """
    _require("export", "onnx", "onnxscript", *(["onnxruntime"] if verify else []))
    _check_model("export", model)
    file = _check_path(path)
    call = _bind("export", model, args, kwargs)
    for name, names in (("input_names", input_names), ("output_names", output_names)):
        _check_names(name, names)
    if opset_version is not None and (isinstance(opset_version, bool) or not isinstance(opset_version, int)):
        raise TypeError(f"export: opset_version must be an integer or None; got {opset_version!r}")
    if opset_version is not None and opset_version < 18:
        raise ValueError(f"export: opset_version must be at least 18; got {opset_version}")
    count = len(_tensors(call))
    if input_names is not None and len(input_names) != count:
        raise ValueError(f"export: input_names must have one name for each tensor, {count}; got {len(input_names)}")
    free_batch = dynamic_batch and dynamic_shapes is None
    example = call
    if free_batch:
        for tensor in _tensors(call):
            if tensor.dim() and not tensor.shape[0]:
                raise ValueError(f"export: args must hold at least one sample each; got {tuple(tensor.shape)}")
        # torch.export takes a size of 1 for a constant.
        example = _with_batch(call, lambda size: max(size, 2))
        dynamic_shapes = tree_map(_open_batch, example.named)

    with _evaluating(model), _quiet():
        try:
            program = torch.export.export(
                model, example.args, example.kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
        except torch._dynamo.exc.UserError as error:
            if not free_batch:
                raise
            raise ValueError(
                "export: dynamic_batch: the model does not work for every batch size, or some tensor input has no "
                "batch in dimension 0. Pass dynamic_batch=False, or say in dynamic_shapes what may vary. torch found: "
                f"{' '.join(str(error).strip().split()[:60])} ..."
            ) from error
        # Only registered ops: torch.onnx has operators of its own for much that torch's full table would take apart.
        table = decompositions()
        if any(node.target in table for node in _nodes(program.graph_module)):
            program = program.run_decompositions(table)
        exported = torch.onnx.export(
            program,
            input_names=input_names,
            output_names=output_names,
            opset_version=opset_version,
            verbose=False,
            dynamo=True,
        )
    assert exported is not None  # None comes from the classic exporter only
    graph = exported.model.graph
    written = exported.model.opset_imports.get("", opset_version)
    if opset_version is not None and written != opset_version:
        raise ValueError(
            f"export: opset_version: this model could not be written in version {opset_version}; torch offers {written}"
        )
    if output_names is not None and len(output_names) != len(graph.outputs):
        raise ValueError(
            f"export: output_names must have one name for each output, {len(graph.outputs)}; got {len(output_names)}"
        )
    _name_operators(graph)
    if free_batch:
        _name_batch(graph)
    # One file; beyond ONNX's limit of 2 GB torch writes the weights beside it all the same.
    exported.save(file, external_data=False)

    difference = None
    if verify:
        session = _Session(file)
        difference = _compare(model, session, call, rtol, atol)
        if free_batch:
            sizes = {tensor.shape[0] for tensor in _tensors(call) if tensor.dim()}
            # One more, and where there are several sizes, whose relation is the model's affair, twice of each.
            other = _with_batch(call, lambda size: size + 1 if len(sizes) == 1 else 2 * size)
            difference = max(difference, _compare(model, session, other, rtol, atol))
    return Exported(
        file,
        exported,
        tuple(value.name or "" for value in graph.inputs),
        tuple(value.name or "" for value in graph.outputs),
        difference,
    )


def verify(
    model: nn.Module,
    path: str | os.PathLike[str],
    args: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> float:
    """Compares an ONNX file, run by onnxruntime on the CPU, with the model it was exported from.

    Args:
        model: the network; it is run in evaluation mode, without gradients, and left in the mode it was in.
        path: the ONNX file.
        args, kwargs: the input, as :func:`export` takes it; of any size that the file allows.
        rtol, atol: a number ``y`` of the file agrees with the model's ``x`` if ``abs(x - y) <= atol + rtol * abs(x)``.
            None stands for 1e-4 and 1e-5, and for 1e-2 both where the output is of a half type.
            NaN agrees with NaN, and infinity with itself.

    Returns:
        The largest absolute difference.

    Raises:
        ImportError: onnxruntime is missing.
        TypeError, ValueError: a bad argument.
        VerificationError: a number, a shape, a type or the count of outputs does not agree.

    Example::

        >>> handgrad.onnx.verify(model, "model.onnx", torch.rand(7, 3, 32, 32)) < 1e-5
        True
    """
    _require("verify", "onnxruntime")
    _check_model("verify", model)
    return _compare(model, _Session(Path(path)), _bind("verify", model, args, kwargs), rtol, atol)


# ---- what an op becomes ----------------------------------------------------------------------------------------------


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Every registered op with the function that replaces it in an exported program.

    For those who call torch's own steps: the program of :func:`torch.export.export` can be given to
    :func:`torch.onnx.export` once these have been applied.

    Example::

        >>> program = torch.export.export(model, (torch.rand(2, 3, 32, 32),))
        >>> program = program.run_decompositions(handgrad.onnx.decompositions())
        >>> torch.onnx.export(program, verbose=False).save("model.onnx")
    """

    def decomposition(op: Operator) -> Callable[..., Any]:
        def decomposed(*args: Any, **kwargs: Any) -> Any:
            parameters = op.overload._schema.arguments
            rest = [kwargs.get(p.name, p.default_value) for p in parameters[len(args) :]]
            args = (*args, *rest)
            with disable_proxy_modes_tracing(), _sizes_forgotten(args):
                outputs = tree_flatten(op.overload(*args))[0]
            return _in_torch(op, args, [output.dtype for output in outputs])

        return decomposed

    lazy.load_all()
    return {op.overload: decomposition(op) for op in OPERATORS.values()}


def _sizes_forgotten(args: Any) -> Any:
    """Where a size of the outputs depends on values, torch makes a name for it, and would miss it later."""
    modes = [tensor.fake_mode for tensor in _tensors(args) if isinstance(tensor, FakeTensor)]
    environment = modes[0].shape_env if modes else None
    return nullcontext() if environment is None else environment.ignore_fresh_unbacked_symbols()


def operator(
    op_type: str,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype,
    shape: Sequence[int | torch.SymInt],
) -> Tensor:
    """Stands for one ONNX operator in the ``onnx`` function of an op, under either exporter.

    Args:
        op_type: its name; ``"domain::Name"`` if it is not one of ONNX's standard operators.
        inputs: its inputs, None for one that is left out.
        attributes: its attributes: integers, floats, strings, and sequences of them. The type counts: ``1.0``, not
            ``1``, where ONNX has a float.
        dtype, shape: the type and the sizes of its output.

    Returns:
        A placeholder for the output, which other functions of torch may go on with. It holds zeros.

    Raises:
        TypeError: an attribute has a type that ONNX has not.

    Example::

        >>> def _onnx(input, p):  # handed to handgrad.registration.register(..., onnx=_onnx)
        ...     if p != 2.0:
        ...         return NotImplemented  # ONNX has no such operator: the reference is exported
        ...     axes = {"axis": 1, "p": 2}
        ...     return operator("LpNormalization", [input], axes, dtype=input.dtype, shape=input.shape)
    """
    attributes = dict(attributes or {})
    for name, value in attributes.items():
        _attribute_kind(name, value)
    if torch.jit.is_tracing():
        sizes = [int(size) for size in shape]
        return _TracedOperator.apply(op_type, attributes, dtype, sizes, *inputs)
    return torch.onnx.ops.symbolic(op_type, inputs, attributes, dtype=dtype, shape=shape)


def unknown_size(tensor: Tensor) -> Any:
    """For the ``shape`` of :func:`operator`: a size that only a run of the file will tell.

    Args:
        tensor: any tensor at hand.
    """
    # A size of the same kind, of a tensor that the exporter will find unused.
    return torch.nonzero(tensor).shape[0]


def _in_torch(op: Operator, args: Sequence[Any], dtypes: Sequence[torch.dtype]) -> Any:
    """The op by its ``onnx`` function or its reference; ``dtypes`` are the outputs'."""
    # Kernels compute half types in float32, where a reference might overflow; and onnxruntime has few operators for
    # them.
    args = tree_map_only(Tensor, lambda x: x.float() if x.dtype in _HALF else x, list(args))
    result = NotImplemented if op.onnx is None else op.onnx(*args)
    if result is NotImplemented:
        result = op.reference(*args)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    # A trace would keep a cast that changes nothing.
    cast = [x if x.dtype is dtype else x.to(dtype) for x, dtype in zip(outputs, dtypes, strict=True)]
    return cast[0] if isinstance(result, Tensor) else tuple(cast)


_HALF = (torch.float16, torch.bfloat16)


def _attribute_kind(name: str, value: Any) -> str:
    first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and len(value) else value
    for kind, types in (("i", int), ("f", float), ("s", str)):
        if isinstance(first, types):
            return kind
    raise TypeError(
        f"operator: attributes must be integers, floats, strings or non-empty sequences of them; got {name}={value!r}"
    )


# ---- the classic exporter, torch.onnx.export(..., dynamo=False) ------------------------------------------------------


class _TracedOperator(torch.autograd.Function):
    """What :func:`operator` leaves in a trace: the classic exporter asks a Function for its ``symbolic``."""

    @staticmethod
    def forward(ctx: Any, op_type: str, attributes: Any, dtype: torch.dtype, sizes: list[int], *_: Any) -> Tensor:
        return torch.zeros(sizes, dtype=dtype)

    @staticmethod
    def symbolic(g: Any, op_type: str, attributes: Any, dtype: torch.dtype, sizes: list[int], *inputs: Any) -> Any:
        values = list(inputs)
        while values and values[-1] is None:
            values.pop()
        for place, value in enumerate(values):
            if value is None:
                values[place] = g.op("Constant")  # without a value: an input left out
                values[place].setType(torch._C.OptionalType.ofTensor())
        named = {f"{name}_{_attribute_kind(name, value)}": value for name, value in attributes.items()}
        return g.op(op_type, *values, **named)


def _register_classic(name: str) -> None:
    torch.onnx.register_custom_op_symbolic(name, _symbolic(OPERATORS[name]), opset_version=9)


def _symbolic(op: Operator) -> Callable[..., Any]:
    """The op's symbolic function: traces what stands for it, as torch traced the model, and puts that in its place."""

    def symbolic(g: Any, *values: Any) -> Any:
        from torch.onnx import symbolic_helper
        from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

        node = g.original_node
        old_outputs = list(node.outputs())
        inner = _TracedArguments(op, symbolic_helper, old_outputs)
        args = [
            inner.read(parameter.name, parameter.type, value, old)
            for parameter, value, old in zip(op.overload._schema.arguments, values, node.inputs(), strict=True)
        ]
        dtypes = [output.type().dtype() for output in old_outputs]
        tensors = inner.examples()

        def run(*given: Tensor) -> Any:
            filled = tree_map_only(_Hole, lambda hole: given[hole.place], args)
            return _in_torch(op, filled, dtypes)

        with warnings.catch_warnings():
            # A reference may compare sizes; what it finds then is as fixed as the rest of a trace.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            graph = torch.jit._get_trace_graph(run, tensors)[0]
        for simplify in (
            torch._C._jit_pass_inline,
            torch._C._jit_pass_lower_all_tuples,
            torch._C._jit_pass_constant_propagation,
            torch._C._jit_pass_dce,
            torch._C._jit_pass_cse,
            torch._C._jit_pass_peephole,
            torch._C._jit_pass_onnx_preprocess,
            torch._C._jit_pass_prepare_division_for_onnx,
            torch._C._jit_pass_erase_number_types,
        ):
            simplify(graph)
        known = dict(zip(graph.inputs(), inner.values, strict=True))
        block = graph.return_node().owningBlock()
        known = torch._C._jit_pass_onnx_block(
            block, g.block, GLOBALS.operator_export_type, known, g.values_in_env, True
        )
        outputs = [known[output] for output in graph.outputs()]
        for output, old in zip(outputs, old_outputs, strict=True):
            if output.type().dtype() is None:
                output.setType(old.type())
        return outputs[0] if len(outputs) == 1 else outputs

    return symbolic


@dataclass(frozen=True)
class _Hole:
    """The place of a tensor among an op's arguments."""

    place: int


class _TracedArguments:
    """An op's arguments as the classic exporter knows them: values of a graph, with constants among them."""

    def __init__(self, op: Operator, helper: Any, outputs: Sequence[Any]) -> None:
        self.op = op
        self.helper = helper
        self.outputs = outputs
        self.values: list[Any] = []  # the tensors, in the new graph
        self.olds: list[Any] = []  # the same in the traced one, whose types tell the sizes

    def read(self, name: str, kind: Any, value: Any, old: Any) -> Any:
        if self.helper._is_none(value):
            return None
        while isinstance(kind, torch._C.OptionalType):
            kind = kind.getElementType()
        if isinstance(kind, torch._C.TensorType):
            self.values.append(value)
            self.olds.append(old)
            return _Hole(len(self.values) - 1)
        if isinstance(kind, torch._C.ListType) and isinstance(kind.getElementType(), torch._C.TensorType):
            element = kind.getElementType()
            parts = zip(self.helper._unpack_list(value), old.node().inputs(), strict=True)
            return [self.read(name, element, *part) for part in parts]
        descriptor = {"int": "i", "float": "f", "bool": "b", "str": "s", "List[int]": "is", "List[float]": "fs"}
        if str(kind) not in descriptor:
            raise NotImplementedError(
                f"{self.op.overload.name()}: {name}: torch.onnx.export(..., dynamo=False) knows no argument of type "
                f"{kind}; export with handgrad.onnx.export"
            )
        read = self.helper._get_const(value, descriptor[str(kind)], name)
        return bool(read) if str(kind) == "bool" else read

    def examples(self) -> tuple[Tensor, ...]:
        """Zeros of the sizes in the trace. What follows is independent of those that were declared dynamic."""
        found = [self._sizes(old.type()) for old in self.olds]
        neighbours = [*found, *(self._sizes(output.type()) for output in self.outputs)]
        tensors = []
        for sizes, old in zip(found, self.olds, strict=True):
            dtype = old.type().dtype()
            if sizes is None or dtype is None:
                raise RuntimeError(
                    f"{self.op.overload.name()}: torch.onnx.export(..., dynamo=False) lost the shape or type of an "
                    "input on the way; export with handgrad.onnx.export"
                )
            for place, size in enumerate(sizes):
                if size is None:
                    # Its own size is forgotten, but those that computed with it still have theirs.
                    known = [other[place] for other in neighbours if other is not None and len(other) > place]
                    sizes[place] = next((other for other in known if other is not None), 2)
            tensors.append(torch.zeros([size or 0 for size in sizes], dtype=dtype))
        return tuple(tensors)

    @staticmethod
    def _sizes(kind: Any) -> list[int | None] | None:
        """The sizes in a type. A dynamic one is None, if the strides of a dense tensor do not tell it."""
        if not isinstance(kind, torch._C.TensorType) or kind.dim() is None:
            return None
        sizes: list[int | None] = list(kind.varyingSizes() or ())
        strides = kind.strides()
        if strides is not None:
            order = sorted(range(len(sizes)), key=lambda place: (strides[place], -place))
            for inner, outer in pairwise(order):
                if sizes[inner] is None and strides[inner]:
                    sizes[inner] = strides[outer] // strides[inner]
        return sizes


# ---- verification ----------------------------------------------------------------------------------------------------


class _Session:
    """An ONNX file in onnxruntime, on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise ValueError(f"verify: path must be an ONNX file; got {str(path)!r}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about its own optimiser
        self.path = path
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen classes for this, and no common one
            raise VerificationError(f"{path} cannot be loaded by onnxruntime: {error}") from error

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        inputs = self.session.get_inputs()
        if len(inputs) != len(tensors):
            raise ValueError(
                f"verify: {self.path} has {len(inputs)} inputs; args and kwargs have {len(tensors)} tensors"
            )
        binding = self.session.io_binding()
        for value, tensor in zip(inputs, tensors, strict=True):
            binding.bind_ortvalue_input(value.name, _to_onnxruntime(tensor))
        for value in self.session.get_outputs():
            binding.bind_output(value.name, "cpu")
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:
            raise VerificationError(f"{self.path} cannot be run by onnxruntime: {error}") from error
        return [_from_onnxruntime(value) for value in binding.get_outputs()]


def _to_onnxruntime(tensor: Tensor) -> Any:
    import onnxruntime

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:  # numpy has none
        bits = tensor.view(torch.int16).numpy()
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, 16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy())


def _from_onnxruntime(value: Any) -> Tensor:
    return torch.from_dlpack(value._ortvalue)


def _compare(model: nn.Module, session: _Session, call: _Call, rtol: float | None, atol: float | None) -> float:
    with _evaluating(model):
        expected = _tensors(model(*call.args, **call.kwargs))
    found = session(_tensors(call))
    if len(found) != len(expected):
        raise VerificationError(f"{session.path} has {len(found)} outputs, and the model has {len(expected)}")
    largest = 0.0
    for value, ours, theirs in zip(session.session.get_outputs(), expected, found, strict=True):
        of = f"{session.path}: output {value.name!r}, for inputs of shape {_shapes(_tensors(call))},"
        ours = ours.detach().cpu()
        if ours.shape != theirs.shape:
            raise VerificationError(f"{of} has shape {tuple(theirs.shape)}, and {tuple(ours.shape)} in torch")
        if ours.dtype != theirs.dtype:
            raise VerificationError(f"{of} has type {theirs.dtype}, and {ours.dtype} in torch")
        largest = max(largest, _difference(of, ours, theirs, rtol, atol))
    return largest


def _difference(of: str, ours: Tensor, theirs: Tensor, rtol: float | None, atol: float | None) -> float:
    default = (1e-2, 1e-2) if ours.dtype in _HALF else (1e-4, 1e-5)
    relative = default[0] if rtol is None else rtol
    absolute = default[1] if atol is None else atol
    x, y = ours.double().flatten(), theirs.double().flatten()
    same = (x == y) | (x.isnan() & y.isnan())
    difference = torch.where(same, 0.0, (x - y).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    wrong = ~same & ~(difference <= absolute + relative * x.abs().nan_to_num(nan=0.0, posinf=0.0))
    if wrong.any():
        at = int(torch.where(wrong, difference, -1.0).argmax())
        raise VerificationError(
            f"{of} differs from the model in {int(wrong.sum()):,} of {wrong.numel():,} numbers, by up to "
            f"{float(difference[at]):.3g} (torch {float(x[at]):.6g}, onnxruntime {float(y[at]):.6g}); allowed are "
            f"rtol={relative:g}, atol={absolute:g}"
        )
    return float(difference.max()) if len(difference) else 0.0


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)


# ---- arguments -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """An example call of a model, its keyword arguments in the order of the signature."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: dict[str, Any]  #: both by the signature's names: what dynamic_shapes refers to


def _bind(function: str, model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None) -> _Call:
    if isinstance(args, Tensor):
        args = (args,)
    if not isinstance(args, tuple | list):
        raise TypeError(f"{function}: args must be a tensor or a tuple of arguments; got {_described(args)}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"{function}: kwargs must be a dictionary of arguments; got {_described(kwargs)}")
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **(kwargs or {}))
    except TypeError as error:
        raise TypeError(f"{function}: args and kwargs must fit {type(model).__name__}.forward: {error}") from None
    order = list(signature.parameters)
    ordered = dict(
        sorted((kwargs or {}).items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    )
    call = _Call(tuple(args), ordered, dict(bound.arguments))
    if not _tensors(call):
        raise ValueError(f"{function}: args must hold at least one tensor; got {_described(args)}")
    return call


def _tensors(tree: Any) -> list[Tensor]:
    tree = (tree.args, tree.kwargs) if isinstance(tree, _Call) else tree
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def _with_batch(call: _Call, new_size: Callable[[int], int]) -> _Call:
    """The same call with other batch sizes: the rows of each tensor, repeated in turn."""

    def resized(tensor: Tensor) -> Tensor:
        if not tensor.dim() or new_size(tensor.shape[0]) == tensor.shape[0]:
            return tensor
        rows = torch.arange(new_size(tensor.shape[0]), device=tensor.device) % tensor.shape[0]
        return tensor.detach().index_select(0, rows)

    args, kwargs, named = tree_map_only(Tensor, resized, (call.args, call.kwargs, call.named))
    return _Call(args, kwargs, named)


def _nodes(module: nn.Module) -> Iterator[torch.fx.Node]:
    """The nodes of a graph and of those inside it: branches, autocast regions."""
    for part in module.modules():
        if isinstance(part, torch.fx.GraphModule):
            yield from part.graph.nodes


def _open_batch(leaf: Any) -> dict[int, Any] | None:
    return {0: torch.export.Dim.DYNAMIC} if isinstance(leaf, Tensor) and leaf.dim() else None


def _name_operators(graph: Any) -> None:
    """What :func:`operator` made is called ``_symbolic`` by torch: calls it by the operator's name instead."""
    values = [output for node in graph for output in node.outputs]
    taken = {value.name for value in (*graph.inputs, *values)}
    for value in values:
        name = (value.name or "").replace("_symbolic", value.producer().op_type.lower())
        if (value.name or "").startswith("_symbolic") and name not in taken:
            value.name = name


def _name_batch(graph: Any) -> None:
    """Calls the open dimension ``batch`` throughout, where all inputs share it."""
    import onnx_ir

    dims = {value.shape[0] for value in graph.inputs if value.shape is not None and len(value.shape)}
    if len(dims) != 1 or not isinstance(dim := dims.pop(), onnx_ir.SymbolicDim):
        return
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None and dim in value.shape.dims:
            value.shape = onnx_ir.Shape("batch" if size == dim else size for size in value.shape)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # Module by module: model.train() would wake those that were in evaluation mode, or are held there.
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on what is as it should be, or is found and said here in a sentence: constants
    left out, a version of the operators that cannot be had."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require(function: str, *packages: str) -> None:
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise ImportError(
            f"handgrad.onnx.{function} needs {' and '.join(missing)}. Install it with: pip install handgrad[onnx]"
        )


def _check_model(function: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module; got {_described(model)}")


def _check_path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"export: path must be the name of a file; got {_described(path)}")
    file = Path(path)
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"export: path must be a file in a folder that exists; got {str(path)!r}")
    return file


def _check_names(name: str, names: Any) -> None:
    if names is None:
        return
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"export: {name} must be a sequence of strings; got {names!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"export: {name} must differ from each other; got {list(names)!r}")


def _described(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"


# ---- registration with the classic exporter: the ops there are, and those still to come ------------------------------

for _name in OPERATORS:
    _register_classic(_name)
OBSERVERS.append(_register_classic)
