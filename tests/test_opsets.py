"""Every op in versions of ONNX's operators that the exporters offer: the file is right, or refused with an error
message that says which version is needed. Every version is asked of several ops."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import handgrad
from found_specs import found_specs, module_of
from handgrad.registration import OPERATORS, Operator
from handgrad.testing import OpSpec, Sample

pytest.importorskip("onnxscript", reason="handgrad.onnx needs the extra handgrad[onnx]")
onnx = pytest.importorskip("onnx", reason="handgrad.onnx needs the extra handgrad[onnx]")
pytest.importorskip("onnxruntime", reason="the files are run by it")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402
from torch.onnx import _constants  # noqa: E402

from handgrad import onnx as hg_onnx  # noqa: E402 (it needs nothing, but every test of it does)
from handgrad.onnx.operators import in_torch  # noqa: E402
from handgrad.testing.exporters import reuse_registries  # noqa: E402
from handgrad.testing.tiers import chosen  # noqa: E402

reuse_registries()

CLASSIC = range(_constants.ONNX_BASE_OPSET, _constants.ONNX_TORCHSCRIPT_EXPORTER_MAX_OPSET + 1)
NEWER = range(18, _constants.ONNX_MAX_OPSET + 1)
# The versions from which on an op must not be refused.
ALWAYS = 18


def asked(versions: range, always: Sequence[int] = ()) -> list[Any]:
    """(spec, version) of those that are always asked, and of one of the others, by the op's name; of the first
    spec of an op that becomes an operator every version, as its translation is handgrad's own and has a history of its
    own. In the usual tier of one version, by the op's name."""
    always = () if chosen() == "usual" else always
    others = [version for version in versions if version not in always]
    cases = []
    own = {name: None for name in OPERATORS if OPERATORS[name].onnx is not None and chosen() != "usual"}
    for name, spec in found_specs():
        letters = sum(name.encode())
        some = {*always, others[letters % len(others)]}
        for version in versions if spec.operator in own else sorted(some):
            cases.append(pytest.param(spec, version, id=f"{name}-{version}"))
        own.pop(spec.operator, None)
    return cases


def example_of(spec: OpSpec) -> Sample:
    sample = spec.samples[0].to(torch.float32)
    # What has no derivatives may become a loop over its rows, written out.
    return sample if spec.derivatives else sample.map(lambda tensor: tensor[:5])


class Parameter(nn.Module):
    """An op behind a parameter that wants a gradient, as in a network that was trained."""

    def __init__(self, spec: OpSpec, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.op = module_of(spec, kwargs)

    def forward(self, first: Tensor, *others: Tensor) -> Any:
        return self.op(first * self.scale, *others)


def export_classic(
    model: nn.Module, tensors: tuple[Tensor, ...], path: Path, opset: int, dims: Sequence[dict[int, str]] = ()
) -> None:
    """``dims`` names the open dimensions of each tensor."""
    names = [f"tensor_{index}" for index in range(len(tensors))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of this exporter as a whole and of its translations
        torch.onnx.export(
            model.eval(),
            tensors,
            path,
            dynamo=False,
            opset_version=opset,
            input_names=names,
            dynamic_axes=dict(zip(names, dims, strict=True)) if dims else None,
        )


class MaxRoiPool(OpRun):
    """What neither onnx nor, from version 22 on, onnxruntime can run."""

    def _run(self, images: Any, boxes: Any, pooled_shape: Any = None, spatial_scale: float = 1.0) -> tuple[Any]:
        rows, columns = pooled_shape
        found = np.zeros((len(boxes), images.shape[1], rows, columns), images.dtype)
        for at, (number, *corners) in enumerate(boxes):
            x1, y1, x2, y2 = (int(np.floor(corner * spatial_scale + 0.5)) for corner in corners)
            ys, xs = bins(y1, y2, rows, images.shape[2]), bins(x1, x2, columns, images.shape[3])
            for i, j in np.ndindex(rows, columns):
                inside = images[int(number), :, ys[i], xs[j]]
                found[at, :, i, j] = inside.max((1, 2)) if inside.size else 0
        return (found,)


def bins(first: int, last: int, count: int, size: int) -> list[slice]:
    """Where each of the bins of a box lies in an image, which ends after ``size`` pixels."""
    step = max(last - first + 1, 1) / count
    ends = [(int(np.floor(k * step)) + first, int(np.ceil((k + 1) * step)) + first) for k in range(count)]
    return [slice(*np.clip(both, 0, size)) for both in ends]


def check_file(path: Path, model: nn.Module, args: Any, opset: int) -> None:
    """The file is valid, of that version, and computes what the model does."""
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    assert {entry.domain: entry.version for entry in written.opset_import}[""] == opset
    try:
        hg_onnx.verify(model, path, args)
    except hg_onnx.VerificationError as error:
        if "Could not find an implementation" not in str(error):
            raise
        # onnxruntime lacks the newest operators; onnx itself, with what it lacks, can run them, slowly.
        given = zip(written.graph.input, tree_leaves(args), strict=True)
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(written, new_ops=[MaxRoiPool])
            found = evaluator.run(None, {value.name: tensor.numpy() for value, tensor in given})
        for ours, expected in zip(found, tree_leaves(model(*args)), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), expected.detach())


def check_refusal(spec: OpSpec, message: str, opset: int, open_rows: bool) -> None:
    assert message.startswith(f"{spec.operator}: ")
    if "left open" in message:
        # A reference with a loop over the rows.
        assert open_rows
        assert OPERATORS[spec.operator].onnx is None or opset < ALWAYS
        return
    assert opset < ALWAYS, message
    needed = [number for number in CLASSIC if f"opset_version={number} or higher" in message]
    assert needed, message
    assert opset < needed[0]


@pytest.mark.parametrize(("spec", "opset"), asked(CLASSIC, (CLASSIC[0], ALWAYS)))
def test_classic_exporter(tmp_path, spec, opset):
    sample = example_of(spec)
    model, path = Parameter(spec, sample.kwargs), tmp_path / "op.onnx"
    counted = [spec.counted(index) for index in range(len(sample.tensors))]
    # Rows of one word have one size, which the file says.
    dims = [{0: word} if word else {} for word in counted]
    for open_rows in (False, True):
        try:
            export_classic(model, sample.tensors, path, opset, dims if open_rows else ())
        except hg_onnx.ExportError as refusal:
            check_refusal(spec, str(refusal), opset, open_rows)
        else:
            check_file(path, model, sample.tensors, opset)
            if open_rows:
                hg_onnx.verify(model, path, spec.grown(sample, 3).tensors)


@pytest.mark.parametrize(("spec", "opset"), asked(NEWER))
def test_handgrads_exporter(tmp_path, spec, opset):
    sample = example_of(spec)
    model, path = Parameter(spec, sample.kwargs).eval(), tmp_path / "op.onnx"
    hg_onnx.export(model, sample.tensors, path, opset_version=opset, dynamic_batch=False)
    check_file(path, model, sample.tensors, opset)


@pytest.mark.parametrize("exporter", ["classic", "handgrad"])
def test_an_operator_that_is_not_there_yet_becomes_the_reference(tmp_path, exporter):
    """The parameters of the network want gradients, its sizes are open, and its layers have attributes that are sizes
    in a trace."""
    model = handgrad.layers.DeformConv2dPack(4, 6, 3, padding=1, groups=2, deform_groups=2)
    nn.init.normal_(model.conv_offset.weight, std=0.3)
    image, path = torch.rand(2, 4, 7, 8), tmp_path / "deform.onnx"
    for opset in (18, 19):
        if exporter == "handgrad":
            free = torch.export.Dim.DYNAMIC
            hg_onnx.export(model, image, path, opset_version=opset, dynamic_shapes=({0: free, 2: free, 3: free},))
        else:
            export_classic(model, (image,), path, opset, [{0: "batch", 2: "height", 3: "width"}])
        check_file(path, model, (image,), opset)
        hg_onnx.verify(model, path, torch.rand(3, 4, 9, 6))
        assert ("DeformConv" in {node.op_type for node in onnx.load(path).graph.node}) == (opset == 19)


def test_sizes_that_cannot_stay_open(tmp_path):
    """A loop over boxes has as many steps as the example has boxes: a file of it would be wrong for any other."""

    class Soft(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> Any:
            return handgrad.boxes.soft_nms(boxes, scores)

    tensors, path = (torch.rand(5, 4), torch.rand(5)), tmp_path / "soft.onnx"
    message = (
        "^handgrad::soft_nms: for these arguments ONNX has no operator, .* must be fixed .*{}.*got one .* left open"
    )
    with pytest.raises(hg_onnx.ExportError, match=message.format("pass dynamic_batch=False")):
        hg_onnx.export(Soft(), tensors, path)
    with pytest.raises(hg_onnx.ExportError, match=message.format("leave it out of dynamic_axes")):
        export_classic(Soft(), tensors, path, 18, [{0: "boxes"}] * len(tensors))
    hg_onnx.export(Soft(), tensors, path, dynamic_batch=False, verify=True)


def test_what_a_version_lacks_is_found_by_name_and_by_attribute():
    """Even if an op's onnx function does not say since when its operator is there."""
    image = torch.rand(1, 2, 4, 4)

    def pooled(input: Tensor) -> Tensor:
        attributes = {"coordinate_transformation_mode": "half_pixel", "output_height": 4, "output_width": 4}
        inputs = [input, torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64)]
        return hg_onnx.operator("RoiAlign", inputs, attributes, dtype=input.dtype, shape=input.shape)

    def transposed(input: Tensor) -> Tensor:
        order = {"perm": [0, 1, 3, 2]}
        return hg_onnx.operator("Transpose", [input], order, dtype=input.dtype, shape=input.shape, since=13)

    for function, first in ((pooled, 16), (transposed, 13)):
        op = Operator(overload=None, reference=torch.neg, function=None, onnx=function)
        for opset in range(9, 23):
            later: list[int] = []
            result = in_torch(op, [image], [image.dtype], opset, later)
            assert torch.equal(result, -image) == (opset < first)
            assert later == ([first] if opset < first else [])
