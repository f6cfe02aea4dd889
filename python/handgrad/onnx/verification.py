"""ONNX files, run by onnxruntime and compared with the models they were exported from."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handgrad.onnx.calls import Call, bind, check_model, evaluating, require, tensors_of
from handgrad.onnx.operators import HALF


class VerificationError(RuntimeError):
    """The ONNX file does not compute what the model computes."""


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
    require("verify", "onnxruntime")
    check_model("verify", model)
    return compare(model, Session(Path(path)), bind("verify", model, args, kwargs), rtol, atol)


class Session:
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


def compare(model: nn.Module, session: Session, call: Call, rtol: float | None, atol: float | None) -> float:
    with evaluating(model):
        expected = tensors_of(model(*call.args, **call.kwargs))
    found = session(tensors_of(call))
    if len(found) != len(expected):
        raise VerificationError(f"{session.path} has {len(found)} outputs, and the model has {len(expected)}")
    largest = 0.0
    for value, ours, theirs in zip(session.session.get_outputs(), expected, found, strict=True):
        output = f"{session.path}: output {value.name!r}, for inputs of shape {_shapes(tensors_of(call))},"
        ours = ours.detach().cpu()
        if ours.shape != theirs.shape:
            raise VerificationError(f"{output} has shape {tuple(theirs.shape)}, and {tuple(ours.shape)} in torch")
        if ours.dtype != theirs.dtype:
            raise VerificationError(f"{output} has type {theirs.dtype}, and {ours.dtype} in torch")
        largest = max(largest, _difference(output, ours, theirs, rtol, atol))
    return largest


def _difference(output: str, ours: Tensor, theirs: Tensor, rtol: float | None, atol: float | None) -> float:
    default = (1e-2, 1e-2) if ours.dtype in HALF else (1e-4, 1e-5)
    relative = default[0] if rtol is None else rtol
    absolute = default[1] if atol is None else atol
    x, y = ours.double().flatten(), theirs.double().flatten()
    same = (x == y) | (x.isnan() & y.isnan())
    difference = torch.where(same, 0.0, (x - y).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    wrong = ~same & ~(difference <= absolute + relative * x.abs().nan_to_num(nan=0.0, posinf=0.0))
    if wrong.any():
        worst = int(torch.where(wrong, difference, -1.0).argmax())
        raise VerificationError(
            f"{output} differs from the model in {int(wrong.sum()):,} of {wrong.numel():,} numbers, by up to "
            f"{float(difference[worst]):.3g} (torch {float(x[worst]):.6g}, onnxruntime {float(y[worst]):.6g}); "
            f"allowed are rtol={relative:g}, atol={absolute:g}"
        )
    return float(difference.max()) if len(difference) else 0.0


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
