"""The classic exporter, ``torch.onnx.export(..., dynamo=False)``: handgrad's ops as its symbolic functions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from handgrad.onnx.operators import ExportError, in_torch, refuse_open_sizes
from handgrad.registration import OBSERVERS, OPERATORS, Operator

# What torch translates so that of several values for one element a single one is added: before this version, or always.
_LOSES_SUMS = {"aten::scatter_add": 16, "aten::index_add": None, "aten::index_put": None}
# What torch refuses below a version, in words that do not say which.
_SINCE = {"Slice with dynamic inputs": 10, "Sort, input size not accessible": 10}


def register_all() -> None:
    """Teaches the exporter the ops there are, and those still to come."""
    for name in OPERATORS:
        _register(name)
    OBSERVERS.append(_register)


def _register(name: str) -> None:
    torch.onnx.register_custom_op_symbolic(name, _symbolic(OPERATORS[name]), opset_version=9)


def _symbolic(op: Operator) -> Callable[..., Any]:
    """The op's symbolic function: traces what stands for it, as torch traced the model, and puts that in its place."""

    def symbolic(g: Any, *values: Any) -> Any:
        from torch.onnx import symbolic_helper
        from torch.onnx._internal.torchscript_exporter._globals import GLOBALS
        from torch.onnx.errors import OnnxExporterError

        opset = GLOBALS.export_onnx_opset_version
        node = g.original_node
        old_outputs = list(node.outputs())
        inner = _TracedArguments(op, symbolic_helper, old_outputs)
        args = [
            inner.read(parameter.name, parameter.type, value, old)
            for parameter, value, old in zip(op.overload._schema.arguments, values, node.inputs(), strict=True)
        ]
        # A graph has a dtype as its number.
        for index, parameter in enumerate(op.overload._schema.arguments):
            if str(parameter.real_type) == "ScalarType":
                args[index] = _DTYPES[args[index]]
        dtypes = [output.type().dtype() for output in old_outputs]
        later: list[int] = []

        def run(*given: Tensor) -> Any:
            filled = tree_map_only(_Hole, lambda hole: given[hole.index], args)
            return in_torch(op, filled, dtypes, opset, later)

        graph = _traced(run, inner.examples())
        if inner.open_sizes() and not _same_for_other_sizes(graph, run, inner):
            refuse_open_sizes(op, "leave it out of dynamic_axes")
        _simplify(graph)
        _refuse_lost_sums(op, graph, opset)
        known = dict(zip(graph.inputs(), inner.values, strict=True))
        block = graph.return_node().owningBlock()
        try:
            known = torch._C._jit_pass_onnx_block(
                block, g.block, GLOBALS.operator_export_type, known, g.values_in_env, True
            )
        except (OnnxExporterError, RuntimeError) as error:
            raise _refusal(op, opset, later, error) from error
        outputs = [known[output] for output in graph.outputs()]
        for output, old in zip(outputs, old_outputs, strict=True):
            if output.type().dtype() is None:
                output.setType(old.type())
        return outputs[0] if len(outputs) == 1 else outputs

    return symbolic


#: By their numbers in torch.
_DTYPES = {
    0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 5: torch.float16, 6: torch.float32,
    7: torch.float64, 11: torch.bool, 15: torch.bfloat16,
}  # fmt: skip


def _traced(run: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Any:
    with warnings.catch_warnings():
        # A reference may compare sizes; what it finds then is as fixed as the rest of a trace.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit._get_trace_graph(run, tensors)[0]


def _same_for_other_sizes(graph: Any, run: Callable[..., Any], inner: _TracedArguments) -> bool:
    """Whether a trace with larger sizes, where they are open, has the same steps: a loop over a size has more."""
    other = None
    for growing in (inner.open_sizes(), inner.sizes_like_open_ones()):
        # Which sizes go together nobody says; torch forgets on the way which of them are open.
        with suppress(RuntimeError, IndexError):
            other = _traced(run, inner.examples(growing))
            break
    if other is None:
        return True  # nothing is known

    def step(node: Any) -> str:
        if node.kind() == "prim::PythonOp":
            op_type, attributes, *_ = node.scalar_args()  # of a TracedOperator; what follows has the sizes
            return f"{op_type}({attributes})"
        # What is in front of the equals sign has the sizes.
        return str(node).partition(" = ")[2]

    def steps(traced: Any) -> list[str]:
        return [step(node) for node in traced.nodes()]

    return steps(graph) == steps(other)


def _simplify(graph: Any) -> None:
    for simplify in (
        torch._C._jit_pass_inline,
        torch._C._jit_pass_lower_all_tuples,
        torch._C._jit_pass_constant_propagation,
        torch._C._jit_pass_dce,
        torch._C._jit_pass_cse,
        # As torch does it: sizes stay as open as they may be.
        lambda graph: torch._C._jit_pass_peephole(graph, disable_shape_peepholes=True),
        torch._C._jit_pass_onnx_preprocess,
        torch._C._jit_pass_prepare_division_for_onnx,
        torch._C._jit_pass_erase_number_types,
    ):
        simplify(graph)


def _refuse_lost_sums(op: Operator, graph: Any, opset: int) -> None:
    for node in graph.nodes():
        kind = node.kind().rstrip("_")
        since = _LOSES_SUMS.get(kind, 0)
        if kind == "aten::index_put" and not list(node.inputs())[3].toIValue():
            continue  # nothing is added
        if since is None or opset < since:
            remedy = "handgrad.onnx.export" if since is None else f"opset_version={since} or higher"
            raise ExportError(
                f"{op.overload.name()}: torch.onnx.export(..., dynamo=False) writes {kind} in version {opset} of "
                f"ONNX's operators so that sums into the same element are lost; export with {remedy}"
            )


def _refusal(op: Operator, opset: int, later: Sequence[int], error: Exception) -> ExportError:
    found = " ".join(str(error).partition("[Caused")[0].split()[:40])
    # torch's own operators say in which version they came.
    added = re.search(r"(?:added in|try opset) version (\d+)", str(error))
    unsaid = [since for words, since in _SINCE.items() if words in str(error)]
    needed = max([*later, *unsaid, int(added[1]) if added else 0])
    remedy = f"opset_version={needed} or higher" if needed else "a higher opset_version or handgrad.onnx.export"
    return ExportError(
        f"{op.overload.name()}: torch.onnx.export(..., dynamo=False) cannot write it in version {opset} of ONNX's "
        f"operators; export with {remedy}. torch says: {found}"
    )


@dataclass(frozen=True)
class _Hole:
    """Stands for a tensor among an op's arguments: which of them it is."""

    index: int


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

    def open_sizes(self) -> set[tuple[int, int]]:
        """(tensor, dimension) of the sizes that were declared dynamic."""
        declared = [old.type().varyingSizes() or () for old in self.olds]
        return {(index, dim) for index, sizes in enumerate(declared) for dim, size in enumerate(sizes) if size is None}

    def sizes_like_open_ones(self) -> set[tuple[int, int]]:
        """All that are equal to an open one in the same dimension."""
        shapes = [tensor.shape for tensor in self.examples()]
        like = {(dim, shapes[index][dim]) for index, dim in self.open_sizes()}
        return {
            (index, dim) for index, sizes in enumerate(shapes) for dim, size in enumerate(sizes) if (dim, size) in like
        }

    def examples(self, growing: Collection[tuple[int, int]] = ()) -> tuple[Tensor, ...]:
        """Zeros of the sizes in the trace; those in ``growing`` by one larger."""
        found = [self._sizes(old.type()) for old in self.olds]
        neighbours = [*found, *(self._sizes(output.type()) for output in self.outputs)]
        tensors = []
        for index, (sizes, old) in enumerate(zip(found, self.olds, strict=True)):
            dtype = old.type().dtype()
            if sizes is None or dtype is None:
                raise RuntimeError(
                    f"{self.op.overload.name()}: torch.onnx.export(..., dynamo=False) lost the shape or type of an "
                    "input on the way; export with handgrad.onnx.export"
                )
            chosen = []
            for dim, size in enumerate(sizes):
                if size is None:
                    # Its own size is forgotten, but those that computed with it still have theirs.
                    known = [other[dim] for other in neighbours if other is not None and len(other) > dim]
                    size = next((other for other in known if other is not None), 2)
                chosen.append(size + ((index, dim) in growing))
            tensors.append(torch.zeros(chosen, dtype=dtype))
        return tuple(tensors)

    @staticmethod
    def _sizes(kind: Any) -> list[int | None] | None:
        """The sizes in a type. A dynamic one is None, if the strides of a dense tensor do not tell it."""
        if not isinstance(kind, torch._C.TensorType) or kind.dim() is None:
            return None
        sizes: list[int | None] = list(kind.varyingSizes() or ())
        strides = kind.strides()
        if strides is not None:
            order = sorted(range(len(sizes)), key=lambda dim: (strides[dim], -dim))
            for inner, outer in pairwise(order):
                if sizes[inner] is None and strides[inner]:
                    sizes[inner] = strides[outer] // strides[inner]
        return sizes
