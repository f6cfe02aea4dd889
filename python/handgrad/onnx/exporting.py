"""Models as ONNX files of standard operators."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from handgrad.arguments import described
from handgrad.onnx.calls import Call, bind, check_model, evaluating, require, tensors_of, with_batch
from handgrad.onnx.operators import ExportError, decompositions, default_opset
from handgrad.onnx.verification import Session, compare


@dataclass(frozen=True)
class Exported:
    """What :func:`export` wrote."""

    path: Path
    program: Any = field(repr=False)  #: the :class:`torch.onnx.ONNXProgram`: the graph, for further changes
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    max_difference: float | None  #: the largest difference that verification found; None where it was not asked for


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
        ExportError: an op that cannot be written so in this version; the message says what to do.
        VerificationError: the file differs from the model by more than the tolerances. It is left for inspection.

    Example::

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), handgrad.layers.LocalResponseNorm(5))
        >>> exported = handgrad.onnx.export(model, torch.rand(1, 3, 32, 32), "model.onnx", verify=True)
        >>> exported.max_difference < 1e-5
        True
    """
    require("export", "onnx", "onnxscript", *(["onnxruntime"] if verify else []))
    check_model("export", model)
    file = _check_path(path)
    call = bind("export", model, args, kwargs)
    _check_names("input_names", input_names, len(tensors_of(call)))
    _check_names("output_names", output_names)
    _check_opset(opset_version)
    free_batch = dynamic_batch and dynamic_shapes is None
    if free_batch:
        for tensor in tensors_of(call):
            if tensor.dim() and not tensor.shape[0]:
                raise ValueError(f"export: args must hold at least one sample each; got {tuple(tensor.shape)}")
        # torch.export takes a size of 1 for a constant.
        example = with_batch(call, lambda size: max(size, 2))
        dynamic_shapes = tree_map(_open_batch, example.named)
    else:
        example = call
    with evaluating(model), _quiet():
        program = _captured(model, example, dynamic_shapes, free_batch)
        written = _translated(program, input_names, output_names, opset_version)
    graph = written.model.graph
    if output_names is not None and len(output_names) != len(graph.outputs):
        raise ValueError(
            f"export: output_names must have one name for each output, {len(graph.outputs)}; got {len(output_names)}"
        )
    _name_operators(graph)
    if free_batch:
        _name_batch(graph)
    # One file; beyond ONNX's limit of 2 GB torch writes the weights beside it all the same.
    written.save(file, external_data=False)
    return Exported(
        file,
        written,
        tuple(value.name or "" for value in graph.inputs),
        tuple(value.name or "" for value in graph.outputs),
        _verified(model, file, call, free_batch, rtol, atol) if verify else None,
    )


def _captured(model: nn.Module, example: Call, dynamic_shapes: Any, free_batch: bool) -> Any:
    """The model as torch.export's program."""
    try:
        return torch.export.export(model, example.args, example.kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except torch._dynamo.exc.UserError as error:
        if not free_batch:
            raise
        raise ValueError(
            "export: dynamic_batch: the model does not work for every batch size, or some tensor input has no "
            "batch in dimension 0. Pass dynamic_batch=False, or say in dynamic_shapes what may vary. torch found: "
            f"{' '.join(str(error).strip().split()[:60])} ..."
        ) from error


def _translated(
    program: Any, input_names: Sequence[str] | None, output_names: Sequence[str] | None, opset_version: int | None
) -> Any:
    """The program in ONNX, in ``opset_version`` or else in torch's choice."""
    wanted = opset_version or default_opset()
    # Only registered ops: torch.onnx has operators of its own for much that torch's full table would take apart.
    table = decompositions(wanted)
    has_ops = any(node.target in table for node in _nodes(program.graph_module))
    try:
        program = program.run_decompositions(table) if has_ops else program
    except ExportError as error:
        # torch adds the node and where it comes from.
        raise ExportError(str(error).partition("\n")[0]) from None
    written = torch.onnx.export(
        program,
        input_names=input_names,
        output_names=output_names,
        opset_version=wanted,
        verbose=False,
        dynamo=True,
    )
    assert written is not None  # None comes from the classic exporter only
    offered = written.model.opset_imports.get("", wanted)
    if offered == wanted:
        return written
    if opset_version is None:
        # What our ops became was meant for the other version.
        return _translated(program, input_names, output_names, offered)
    raise ValueError(
        f"export: opset_version: this model could not be written in version {opset_version}; torch offers {offered}"
    )


def _verified(
    model: nn.Module, file: Path, call: Call, free_batch: bool, rtol: float | None, atol: float | None
) -> float:
    """The largest difference, for the example and for another batch size if that is open."""
    session = Session(file)
    difference = compare(model, session, call, rtol, atol)
    if not free_batch:
        return difference
    sizes = {tensor.shape[0] for tensor in tensors_of(call) if tensor.dim()}
    # One more, and where there are several sizes, whose relation is the model's affair, twice of each.
    other = with_batch(call, lambda size: size + 1 if len(sizes) == 1 else 2 * size)
    return max(difference, compare(model, session, other, rtol, atol))


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
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on what is as it should be, or is found here and raises an error: constants left
    out, a version of the operators that cannot be had."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"export: path must be the name of a file; got {described(path)}")
    file = Path(path)
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"export: path must be a file in a folder that exists; got {str(path)!r}")
    return file


def _check_names(name: str, names: Any, count: int | None = None) -> None:
    if names is None:
        return
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"export: {name} must be a sequence of strings; got {names!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"export: {name} must differ from each other; got {list(names)!r}")
    if count is not None and len(names) != count:
        raise ValueError(f"export: {name} must have one name for each tensor, {count}; got {len(names)}")


def _check_opset(opset_version: Any) -> None:
    if opset_version is None:
        return
    if isinstance(opset_version, bool) or not isinstance(opset_version, int):
        raise TypeError(f"export: opset_version must be an integer or None; got {opset_version!r}")
    if opset_version < 18:
        raise ValueError(f"export: opset_version must be at least 18; got {opset_version}")
