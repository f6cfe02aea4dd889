"""What an op becomes in ONNX: its ``onnx`` function or its reference, under either exporter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils._pytree import tree_flatten, tree_map_only

from handgrad.onnx.calls import tensors_of
from handgrad.registration import OPERATORS, Operator
from handgrad.sdk import lazy

HALF = (torch.float16, torch.bfloat16)


class ExportError(ValueError):
    """An op cannot be written as asked: in that version of ONNX's operators, or with that size left open."""


def default_opset() -> int:
    """The version of ONNX's standard operators that torch.onnx.export writes unless told otherwise."""
    from torch.onnx import _constants

    return _constants.ONNX_DEFAULT_OPSET


def decompositions(opset_version: int | None = None) -> dict[Any, Callable[..., Any]]:
    """Every registered op with the function that replaces it in an exported program.

    For those who call torch's own steps: the program of :func:`torch.export.export` can be given to
    :func:`torch.onnx.export` once these have been applied.

    Args:
        opset_version: the one that :func:`torch.onnx.export` will be given; None for its default.

    Example::

        >>> program = torch.export.export(model, (torch.rand(2, 3, 32, 32),))
        >>> program = program.run_decompositions(handgrad.onnx.decompositions())
        >>> torch.onnx.export(program, verbose=False).save("model.onnx")
    """
    opset = default_opset() if opset_version is None else opset_version
    lazy.load_all()
    return {op.overload: _decomposition(op, opset) for op in OPERATORS.values()}


def _decomposition(op: Operator, opset: int) -> Callable[..., Any]:
    def decomposed(*args: Any, **kwargs: Any) -> Any:
        parameters = op.overload._schema.arguments
        rest = [kwargs.get(p.name, p.default_value) for p in parameters[len(args) :]]
        args = (*args, *rest)
        with disable_proxy_modes_tracing(), _sizes_forgotten(args):
            outputs = tree_flatten(op.overload(*args))[0]
        open_sizes: list[Any] = [
            size for tensor in tensors_of(args) for size in tensor.shape if isinstance(size, torch.SymInt)
        ]
        result = in_torch(op, args, [output.dtype for output in outputs], opset)
        if any(size.node.expr.is_number for size in open_sizes):
            refuse_open_sizes(op, "pass dynamic_batch=False")
        return result

    return decomposed


def refuse_open_sizes(op: Operator, remedy: str) -> None:
    """The reference has a loop over a size that is to stay open, and would be written for one size alone."""
    raise ExportError(
        f"{op.overload.name()}: for these arguments ONNX has no operator, and how many others it becomes depends on a "
        f"size, which must be fixed as in the example ({remedy}); got one that is left open"
    )


def _sizes_forgotten(args: Any) -> Any:
    """Where a size of the outputs depends on values, torch makes a name for it, and would miss it later."""
    modes = [tensor.fake_mode for tensor in tensors_of(args) if isinstance(tensor, FakeTensor)]
    environment = modes[0].shape_env if modes else None
    return nullcontext() if environment is None else environment.ignore_fresh_unbacked_symbols()


def operator(
    op_type: str,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype,
    shape: Sequence[int | torch.SymInt],
    since: int = 1,
) -> Tensor:
    """Stands for one ONNX operator in the ``onnx`` function of an op, under either exporter.

    Args:
        op_type: its name; ``"domain::Name"`` if it is not one of ONNX's standard operators.
        inputs: its inputs, None for one that is left out.
        attributes: its attributes: integers, floats, strings, and sequences of them. The type counts: ``1.0``, not
            ``1``, where ONNX has a float.
        dtype, shape: the type and the sizes of its output.
        since: the first version of ONNX's standard operators in which it means what is wanted. In a file of an earlier
            one the op becomes its reference. (A version that lacks the operator, or an attribute that is given, needs
            no word, if the package ``onnx`` is there to tell.)

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
    tracing = torch.jit.is_tracing()
    attributes = {
        # In a trace a size is a tensor.
        name: tree_map_only(Tensor, Tensor.item, value) if tracing else value
        for name, value in (attributes or {}).items()
    }
    for name, value in attributes.items():
        attribute_kind(name, value)
    _check_version(op_type, frozenset(attributes), since)
    if tracing:
        sizes = [int(size) for size in shape]
        return TracedOperator.apply(op_type, attributes, dtype, sizes, *inputs)
    return torch.onnx.ops.symbolic(op_type, inputs, attributes, dtype=dtype, shape=shape)


class TracedOperator(torch.autograd.Function):
    """What :func:`operator` leaves in a trace: the classic exporter asks a Function for its ``symbolic``."""

    @staticmethod
    def forward(ctx: Any, op_type: str, attributes: Any, dtype: torch.dtype, sizes: list[int], *_: Any) -> Tensor:
        return torch.zeros(sizes, dtype=dtype)

    @staticmethod
    def symbolic(g: Any, op_type: str, attributes: Any, dtype: torch.dtype, sizes: list[int], *inputs: Any) -> Any:
        values = list(inputs)
        while values and values[-1] is None:
            values.pop()
        for index, value in enumerate(values):
            if value is None:
                values[index] = g.op("Constant")  # without a value: an input left out
                values[index].setType(torch._C.OptionalType.ofTensor())
        named = {f"{name}_{attribute_kind(name, value)}": value for name, value in attributes.items()}
        return g.op(op_type, *values, **named)


def unknown_size(tensor: Tensor) -> Any:
    """For the ``shape`` of :func:`operator`: a size that only a run of the file will tell.

    Args:
        tensor: any tensor at hand.
    """
    # A size of the same kind, of a tensor that the exporter will find unused.
    return torch.nonzero(tensor).shape[0]


class LaterOpset(Exception):  # noqa: N818 (no error: it chooses the road)
    """An operator is not there yet in the version that is being written."""

    def __init__(self, since: int) -> None:
        super().__init__(since)
        self.since = since


class Avoided(LaterOpset):
    """An operator is not to be used, in any version."""


# The versions that are being written, the innermost last.
_opsets: list[int] = []
# The operators that are not to be used, for each block of :func:`without`.
_avoided: list[frozenset[str]] = []


@contextmanager
def without(*op_types: str) -> Iterator[None]:
    """Exports inside the block, by any exporter, do without these ONNX operators: an op that would become one of them
    becomes its reference, plain operators. For a runtime that computes an operator wrongly.

    Args:
        op_types: names of ONNX operators.

    Example::

        >>> with handgrad.onnx.without("GridSample"):
        ...     exported = handgrad.onnx.export(model, torch.rand(1, 3, 32, 32), "model.onnx")
    """
    for op_type in op_types:
        if not isinstance(op_type, str):
            raise TypeError(f"without: op_types must be names of ONNX operators; got {op_type!r}")
    _avoided.append(frozenset(op_types))
    try:
        yield
    finally:
        _avoided.pop()


def _check_version(op_type: str, attributes: frozenset[str], since: int) -> None:
    if _opsets and any(op_type in avoided for avoided in _avoided):
        raise Avoided(0)
    if _opsets and "::" not in op_type:
        since = max(since, _first_version(op_type, attributes))
        if _opsets[-1] < since:
            raise LaterOpset(since)


@functools.lru_cache
def _first_version(op_type: str, attributes: frozenset[str]) -> int:
    """The first version that has the operator with these attributes; 1 if there is nobody to ask."""
    try:
        from onnx import defs
    except ImportError:
        return 1
    versions = [
        schema.since_version
        for schema in defs.get_all_schemas_with_history()
        if schema.name == op_type and not schema.domain and attributes <= schema.attributes.keys()
    ]
    return min(versions, default=1)


def in_torch(
    op: Operator, args: Sequence[Any], dtypes: Sequence[torch.dtype], opset: int, later: list[int] | None = None
) -> Any:
    """The op by its ``onnx`` function or its reference, for a file of version ``opset``; ``dtypes`` are the outputs'.

    Where an operator is not there yet in that version, the one in which it is is added to ``later``.
    """
    # Kernels compute half types in float32, where a reference might overflow; and onnxruntime has few operators for
    # them.
    args = tree_map_only(Tensor, lambda x: x.float() if x.dtype in HALF else x, list(args))
    result = NotImplemented
    if op.onnx is not None:
        _opsets.append(opset)
        try:
            result = op.onnx(*args)
        except LaterOpset as missing:
            if later is not None and missing.since:
                later.append(missing.since)
        finally:
            _opsets.pop()
    if result is NotImplemented:
        result = op.reference(*args)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    # A trace would keep a cast that changes nothing.
    cast = [x if x.dtype is dtype else x.to(dtype) for x, dtype in zip(outputs, dtypes, strict=True)]
    return cast[0] if isinstance(result, Tensor) else tuple(cast)


def attribute_kind(name: str, value: Any) -> str:
    first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and len(value) else value
    for kind, types in (("i", int), ("f", float), ("s", str)):
        if isinstance(first, types):
            return kind
    raise TypeError(
        f"operator: attributes must be integers, floats, strings or non-empty sequences of them; got {name}={value!r}"
    )
