"""handgrad.onnx: the files it writes compute what the models compute, in onnxruntime; and it says so if they do not."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import handgrad
from handgrad.layers import LocalResponseNorm, RoIAlign
from handgrad.losses import SigmoidFocalLoss
from handgrad.registration import OPERATORS, register

pytest.importorskip("onnxscript", reason="handgrad.onnx needs the extra handgrad[onnx]")
onnx = pytest.importorskip("onnx", reason="handgrad.onnx needs the extra handgrad[onnx]")
pytest.importorskip("onnxruntime", reason="the files are run by it")

from handgrad import onnx as hg_onnx  # noqa: E402 (it needs nothing, but every test of it does)
from handgrad.testing.exporters import reuse_registries  # noqa: E402

reuse_registries()


def operators(path: Path) -> list[str]:
    """The file's operators, which are all standard ones."""
    graph = onnx.load(path).graph
    assert {node.domain for node in graph.node} <= {""}
    return [node.op_type for node in graph.node]


def logits_and_targets(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Two samples: soft targets, and logits among which some are extreme."""
    logits = torch.tensor([[-2.0, -0.5, 0.3, 1.7, 8.0], [-1e4, 1e4, -200.0, 30.0, -30.0]], dtype=dtype)
    targets = torch.tensor([[0.1, 0.9, 0.5, 0.0, 0.2], [0.5, 0.25, 1.0, 0.0, 1.0]], dtype=dtype)
    return logits, targets


class Network(nn.Module):
    """A network that has the loss within it, takes a keyword, a number and a dictionary, and returns a tree."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), LocalResponseNorm(size, 0.1), nn.Dropout())
        self.head = nn.Linear(8, 4)
        self.loss = SigmoidFocalLoss()

    def forward(self, images: dict[str, Tensor], scale: float = 1.0, *, targets: Tensor) -> dict[str, Any]:
        logits = self.head(self.features(images["rgb"]).mean((2, 3))) * scale
        return {"logits": logits, "others": (self.loss(logits, targets), None)}


# ---- the two ops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "gamma", "reduction"), [(0.25, 2, "none"), (0.25, 2, "mean"), (0.6, 1.5, "sum"), (-1, 0, "none")]
)
def test_focal_loss_agrees_for_soft_targets_and_extreme_logits(tmp_path, alpha, gamma, reduction):
    path = tmp_path / "loss.onnx"
    exported = hg_onnx.export(SigmoidFocalLoss(alpha, gamma, reduction), logits_and_targets(), path, verify=True)
    assert exported.max_difference < 2e-3  # at values up to 1e4, to which float32 is as fine as 1e-3
    assert "Log" in operators(path)
    inputs = onnx.load(path).graph.input
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in inputs] == ["batch", "batch"]
    for batch in (1, 7):
        logits, targets = torch.randn(batch, 5), torch.rand(batch, 5)
        found = hg_onnx.verify(SigmoidFocalLoss(alpha, gamma, reduction), path, (logits, targets), rtol=1e-5, atol=1e-6)
        assert found < 1e-4


@pytest.mark.parametrize("size", [1, 5, 11])
def test_local_response_norm_of_odd_size_is_one_operator(tmp_path, size):
    path = tmp_path / "lrn.onnx"
    images = 3 * torch.randn(2, 8, 5, 4).contiguous(memory_format=torch.channels_last)
    exported = hg_onnx.export(LocalResponseNorm(size, 0.5, 0.6, 2), images, path, verify=True)
    assert operators(path) == ["LRN"]
    assert exported.output_names == ("lrn",)
    assert exported.max_difference < 1e-5
    (node,) = onnx.load(path).graph.node
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes == {"size": size, "alpha": 0.5, "beta": pytest.approx(0.6), "bias": 2.0}


def test_local_response_norm_is_decomposed_where_the_operator_is_another(tmp_path):
    cases = [
        (LocalResponseNorm(4, 0.5), 3 * torch.randn(2, 8, 5, 4)),
        (LocalResponseNorm(18, 0.5), 3 * torch.randn(2, 8, 5, 4)),
        (LocalResponseNorm(5, -0.001), 3 * torch.randn(2, 8, 5, 4)),
        (LocalResponseNorm(5, 0.5, 0.0), 3 * torch.randn(2, 8, 5, 4)),
        (LocalResponseNorm(5, 0.5), 3 * torch.randn(2, 8, 5, 4, dtype=torch.float64)),
        (LocalResponseNorm(5, 0.5), 3 * torch.randn(2, 8, 6)),
        (LocalResponseNorm(4, 0.5), 3 * torch.randn(2, 8, 3, 2, 3)),
    ]

    class All(nn.Module):
        def forward(self, inputs: list[Tensor]) -> list[Tensor]:
            return [norm(x) for (norm, _), x in zip(cases, inputs, strict=True)]

    exported = hg_onnx.export(All(), ([x for _, x in cases],), tmp_path / "lrn.onnx", verify=True)
    names = operators(exported.path)
    assert "LRN" not in names
    assert names.count("Pow") == len(cases)
    assert len(exported.output_names) == len(cases)
    assert exported.max_difference < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(tmp_path, dtype):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.even = LocalResponseNorm(4, 1.0)
            self.odd = LocalResponseNorm(5, 1.0)
            self.loss = SigmoidFocalLoss(reduction="none")

        def forward(self, x: Tensor, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            return self.even(x), self.odd(x), self.loss(logits, targets)

    # the squares of numbers beyond 256 are beyond float16
    inputs = (1000 * torch.randn(2, 6, 3, 4)).to(dtype), *logits_and_targets(dtype)
    exported = hg_onnx.export(Both(), inputs, tmp_path / "half.onnx", verify=True, rtol=1e-3, atol=1e-6)
    for value in onnx.load(exported.path).graph.output:
        expected = onnx.TensorProto.FLOAT16 if dtype is torch.float16 else onnx.TensorProto.BFLOAT16
        assert value.type.tensor_type.elem_type == expected


def test_float64_losses_agree(tmp_path):
    exported = hg_onnx.export(
        SigmoidFocalLoss(reduction="none"), logits_and_targets(torch.float64), tmp_path / "f64.onnx", verify=True
    )
    assert exported.max_difference < 1e-11


# ---- whole models ----------------------------------------------------------------------------------------------------


def test_a_model_with_its_loss_keywords_numbers_and_a_tree_of_outputs(tmp_path, capfd):
    model = Network().train()
    model.features[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    exported = hg_onnx.export(
        model,
        ({"rgb": torch.rand(1, 3, 9, 9)}, 2.0),  # one sample, which torch alone would fix for good
        tmp_path / "model.onnx",
        kwargs={"targets": torch.rand(1, 4)},
        input_names=["image", "target"],
        output_names=["logits", "loss"],
        verify=True,
    )
    assert {name: module.training for name, module in model.named_modules()} == before
    assert exported.path == tmp_path / "model.onnx"
    assert exported.input_names == ("image", "target")
    assert exported.output_names == ("logits", "loss")
    assert exported.max_difference < 1e-5
    graph = onnx.load(exported.path).graph
    assert [value.name for value in graph.input] == ["image", "target"]
    assert [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim] == ["batch", 4]
    assert "LRN" in operators(exported.path)
    assert list(tmp_path.iterdir()) == [exported.path]  # one file, with the weights in it
    kwargs = {"targets": torch.rand(6, 4)}
    assert hg_onnx.verify(model, exported.path, ({"rgb": torch.rand(6, 3, 9, 9)}, 2.0), kwargs=kwargs) < 1e-5
    assert capfd.readouterr() == ("", "")


def test_a_fixed_batch_and_other_open_sizes(tmp_path):
    path = tmp_path / "lrn.onnx"
    hg_onnx.export(LocalResponseNorm(5), torch.rand(2, 4, 5, 6), path, dynamic_batch=False, verify=True)
    sizes = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_value for size in sizes] == [2, 4, 5, 6]
    with pytest.raises(hg_onnx.VerificationError, match="cannot be run by onnxruntime"):
        hg_onnx.verify(LocalResponseNorm(5), path, torch.rand(3, 4, 5, 6))

    free = torch.export.Dim.DYNAMIC
    hg_onnx.export(LocalResponseNorm(4), torch.rand(2, 4, 5, 6), path, dynamic_shapes=({2: free, 3: free},))
    assert hg_onnx.verify(LocalResponseNorm(4), path, torch.rand(2, 4, 8, 3)) < 1e-6


def test_batches_that_are_multiples_of_each_other(tmp_path):
    class Pairs(nn.Module):
        def forward(self, x: Tensor, pairs: Tensor) -> Tensor:
            return handgrad.losses.sigmoid_focal_loss(torch.cat([x, -x]), pairs)

    path = tmp_path / "pairs.onnx"
    assert hg_onnx.export(Pairs(), (torch.randn(2, 3), torch.rand(4, 3)), path, verify=True).max_difference < 1e-5
    assert hg_onnx.verify(Pairs(), path, (torch.randn(5, 3), torch.rand(10, 3))) < 1e-5


def test_an_op_inside_an_autocast_region(tmp_path):
    class Region(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu"):
                return handgrad.layers.local_response_norm(x, 5)

    path = tmp_path / "region.onnx"
    assert hg_onnx.export(Region(), torch.rand(2, 6, 3, 3), path, verify=True).max_difference < 1e-6
    assert "LRN" in operators(path)


def test_the_version_of_the_operators(tmp_path):
    path = tmp_path / "lrn.onnx"
    hg_onnx.export(LocalResponseNorm(5), torch.rand(2, 4, 5, 6), path, opset_version=19, verify=True)
    assert [(entry.domain, entry.version) for entry in onnx.load(path).opset_import if not entry.domain] == [("", 19)]
    with pytest.raises(ValueError, match="opset_version: this model could not be written in version 99"):
        hg_onnx.export(LocalResponseNorm(5), torch.rand(2, 4, 5, 6), path, opset_version=99)


def test_decompositions_serve_torchs_own_steps(tmp_path):
    program = torch.export.export(LocalResponseNorm(4).eval(), (torch.rand(2, 6, 3, 3),))
    program = program.run_decompositions(hg_onnx.decompositions())
    assert not [node for node in program.graph.nodes if "handgrad" in str(node.target)]
    torch.onnx.export(program, verbose=False).save(tmp_path / "lrn.onnx")
    assert hg_onnx.verify(LocalResponseNorm(4), tmp_path / "lrn.onnx", torch.rand(2, 6, 3, 3)) < 1e-6


def test_examples_in_the_docstrings_are_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), LocalResponseNorm(5)).eval()
    names = {"nn": nn, "handgrad": handgrad, "model": model}
    tried = 0
    for name in ("calls", "classic", "exporting", "operators", "verification"):
        module = importlib.import_module(f"handgrad.onnx.{name}")
        for example in doctest.DocTestFinder().find(module, extraglobs=names):
            if example.name.endswith(".verify"):
                hg_onnx.export(model, torch.rand(1, 3, 32, 32), "model.onnx")  # which it says is there
            result = doctest.DocTestRunner().run(example)
            assert result.failed == 0
            tried += result.attempted
    assert tried >= 8


# ---- verification ----------------------------------------------------------------------------------------------------


def test_verification_finds_a_changed_weight(tmp_path):
    model, image = nn.Sequential(nn.Conv2d(3, 4, 1), LocalResponseNorm(3)), torch.rand(2, 3, 4, 4)
    path = hg_onnx.export(model, image, tmp_path / "model.onnx", verify=True).path
    with torch.no_grad():
        model[0].bias[2] += 0.5
    pattern = (
        r"output '.*', for inputs of shape \(2, 3, 4, 4\), differs from the model in \d+ of 128 numbers, by up to 0\."
    )
    with pytest.raises(hg_onnx.VerificationError, match=pattern):
        hg_onnx.verify(model, path, image)
    assert 0.1 < hg_onnx.verify(model, path, image, atol=1.0) < 0.6


def test_verification_compares_shapes_types_and_counts(tmp_path):
    x = torch.rand(2, 3, 4, 4)
    path = hg_onnx.export(LocalResponseNorm(3), x, tmp_path / "lrn.onnx").path
    for other, message in (
        (nn.Sequential(LocalResponseNorm(3), nn.Flatten()), r"has shape \(2, 3, 4, 4\), and \(2, 48\) in torch"),
        (nn.Sequential(LocalResponseNorm(3), Doubled()), "has type torch.float32, and torch.float64 in torch"),
        (nn.Sequential(LocalResponseNorm(3), Twice()), "has 1 outputs, and the model has 2"),
    ):
        with pytest.raises(hg_onnx.VerificationError, match=message):
            hg_onnx.verify(other, path, x)
    with pytest.raises(ValueError, match="has 1 inputs; args and kwargs have 2 tensors"):
        hg_onnx.verify(SigmoidFocalLoss(), path, (x, x))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_verification_takes_nan_for_nan_and_for_nothing_else(tmp_path):
    class Root(nn.Module):
        def __init__(self, at: float) -> None:
            super().__init__()
            self.at = at

        def forward(self, x: Tensor) -> Tensor:
            return (x - self.at).sqrt() / x

    path = hg_onnx.export(Root(1.0), torch.rand(2, 3) + 2, tmp_path / "root.onnx").path
    x = torch.tensor([[0.0, 0.5, 2.0]])  # NaN, NaN, a number
    assert hg_onnx.verify(Root(1.0), path, x) < 1e-6
    with pytest.raises(
        hg_onnx.VerificationError, match=r"in 3 of 3 numbers, by up to inf \(torch inf, onnxruntime nan\)"
    ):
        hg_onnx.verify(Root(-1.0), path, x)


# ---- bad arguments ---------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": torch.relu}, TypeError, "export: model must be a torch.nn.Module; got .* of type builtin"),
        ({"args": 3}, TypeError, "export: args must be a tensor or a tuple of arguments; got 3 of type int"),
        ({"args": (3,)}, ValueError, "export: args must hold at least one tensor"),
        ({"args": (IMAGE, 1)}, TypeError, "args and kwargs must fit LocalResponseNorm.forward: too many positional"),
        ({"args": IMAGE[:0]}, ValueError, r"args must hold at least one sample each; got \(0, 3, 4, 4\)"),
        ({"kwargs": [1]}, TypeError, "kwargs must be a dictionary of arguments; got \\[1\\]"),
        ({"kwargs": {"scale": 2}}, TypeError, "got an unexpected keyword argument 'scale'"),
        ({"path": 5}, TypeError, "path must be the name of a file; got 5 of type int"),
        ({"path": "absent/model.onnx"}, ValueError, "path must be a file in a folder that exists; got 'absent/model"),
        ({"path": "."}, ValueError, "path must be a file in a folder that exists; got '.'"),
        ({"input_names": "x"}, TypeError, "input_names must be a sequence of strings; got 'x'"),
        ({"input_names": ["x", "y"]}, ValueError, "input_names must have one name for each tensor, 1; got 2"),
        ({"output_names": ["y", "y"]}, ValueError, "output_names must differ from each other"),
        ({"output_names": ["y", "z"]}, ValueError, "output_names must have one name for each output, 1; got 2"),
        ({"opset_version": 20.0}, TypeError, "opset_version must be an integer or None; got 20.0"),
        ({"opset_version": 11}, ValueError, "opset_version must be at least 18; got 11"),
    ],
)
def test_a_bad_argument_is_named(tmp_path, monkeypatch, changes, error, message):
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {"model": LocalResponseNorm(5), "args": IMAGE, "path": "model.onnx", **changes}
    with pytest.raises(error, match=message):
        hg_onnx.export(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_fixes_the_batch_size(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, -1)

    with pytest.raises(ValueError, match="dynamic_batch: the model does not work for every batch size"):
        hg_onnx.export(Fixed(), torch.rand(2, 3), tmp_path / "model.onnx")


def test_verify_needs_a_file(tmp_path):
    with pytest.raises(ValueError, match="path must be an ONNX file; got"):
        hg_onnx.verify(LocalResponseNorm(5), tmp_path / "absent.onnx", IMAGE)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(hg_onnx.VerificationError, match=r"text\.onnx cannot be loaded by onnxruntime"):
        hg_onnx.verify(LocalResponseNorm(5), tmp_path / "text.onnx", IMAGE)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_remedy(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    sentence = rf"handgrad\.onnx\.export needs .*{package}.*pip install handgrad\[onnx\]"
    with pytest.raises(ImportError, match=sentence):
        hg_onnx.export(LocalResponseNorm(5), IMAGE, tmp_path / "model.onnx", verify=True)
    if package == "onnxruntime":
        with pytest.raises(ImportError, match=r"handgrad\.onnx\.verify needs onnxruntime"):
            hg_onnx.verify(LocalResponseNorm(5), tmp_path / "model.onnx", IMAGE)


def test_import_handgrad_leaves_all_of_this_alone():
    code = """
import sys, handgrad
print([name for name in ("onnx", "handgrad.onnx", "torch.onnx.ops") if name in sys.modules])
sys.modules.update(onnx=None, onnxscript=None, onnxruntime=None)  # makes their imports fail
import handgrad.onnx  # which needs none of them yet
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# ---- the classic exporter --------------------------------------------------------------------------------------------


def export_classic(model: nn.Module, args: tuple[Any, ...], path: Path, **options: Any) -> None:
    with warnings.catch_warnings():
        for message, category in (
            # of this exporter as a whole, by torch
            ("You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
            ("The feature will be removed. Please remove usage of this function", DeprecationWarning),
            # of what torch itself translates padding to
            ("Constant folding - Only steps=1 can be constant folded", UserWarning),
        ):
            warnings.filterwarnings("ignore", message, category)
        torch.onnx.export(model.eval(), args, path, dynamo=False, **options)


@pytest.mark.parametrize(
    ("alpha", "gamma", "reduction"), [(0.25, 2, "none"), (1, 3, "mean"), (0.6, 1.5, "sum"), (-1, 0, "none")]
)
def test_classic_focal_loss(tmp_path, alpha, gamma, reduction):
    path, loss = tmp_path / "loss.onnx", SigmoidFocalLoss(alpha, gamma, reduction)
    axes = {"x": {0: "batch"}, "t": {0: "batch"}}
    export_classic(loss, logits_and_targets(), path, input_names=["x", "t"], dynamic_axes=axes)
    assert "Log" in operators(path)
    assert hg_onnx.verify(loss, path, logits_and_targets()) < 2e-3
    assert hg_onnx.verify(loss, path, (torch.randn(5, 5), torch.rand(5, 5)), rtol=1e-5, atol=1e-6) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_classic_types(tmp_path, dtype):
    model = nn.Sequential(LocalResponseNorm(4, 1.0), LocalResponseNorm(5, 1.0))
    x = (1000 * torch.randn(2, 6, 3, 4)).to(dtype)
    export_classic(model, (x,), tmp_path / "lrn.onnx")
    assert hg_onnx.verify(model, tmp_path / "lrn.onnx", x) < 1e-2
    assert ("LRN" in operators(tmp_path / "lrn.onnx")) == (dtype is not torch.float64)


@pytest.mark.parametrize(
    ("size", "shape"), [(5, (2, 6, 4, 5)), (11, (2, 6, 4, 5)), (4, (2, 6, 4, 5)), (5, (2, 6, 5)), (4, (2, 6, 3, 2, 3))]
)
def test_classic_local_response_norm_with_open_sizes(tmp_path, size, shape):
    path, model = tmp_path / "lrn.onnx", LocalResponseNorm(size, 0.5, 0.6, 2.0)
    export_classic(model, (torch.randn(shape),), path, input_names=["x"], dynamic_axes={"x": {0: "batch", 2: "height"}})
    assert hg_onnx.verify(model, path, torch.randn(5, shape[1], 9, *shape[3:])) < 1e-5
    if size % 2 and len(shape) == 4:
        assert operators(path) == ["LRN"]
    else:
        assert "LRN" not in operators(path)


@pytest.mark.parametrize("size", [4, 5])
def test_classic_model_with_its_loss(tmp_path, size):
    class Flat(Network):
        def forward(self, image: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            outputs = super().forward({"rgb": image}, targets=targets)
            return outputs["logits"], outputs["others"][0]

    path, model = tmp_path / "model.onnx", Flat(size)
    axes = {"image": {0: "batch", 2: "height", 3: "width"}, "targets": {0: "batch"}}
    inputs = torch.rand(3, 3, 9, 9), torch.rand(3, 4)
    export_classic(model, inputs, path, input_names=list(axes), dynamic_axes=axes)
    assert hg_onnx.verify(model, path, inputs) < 1e-6
    assert hg_onnx.verify(model, path, (torch.rand(1, 3, 12, 7), torch.rand(1, 4))) < 1e-6


# ---- other people's ops ----------------------------------------------------------------------------------------------


class Blend:
    """An op with every kind of argument that handgrad's own two have not, registered after handgrad.onnx's import."""

    name = "onnx_test::blend"
    schema = "(Tensor[] parts, Tensor? weight, int[] dims, float scale, bool negate, str mode) -> (Tensor, Tensor)"

    @staticmethod
    def reference(parts: Any, weight: Any, dims: Any, scale: float, negate: bool, mode: str) -> tuple[Tensor, Tensor]:
        assert mode in {"sum", "norm"}
        assert isinstance(negate, bool)
        total = sum(parts) * scale if weight is None else sum(parts) * weight * scale
        total = -total if negate else total
        return (total / total.norm(dim=1, keepdim=True) if mode == "norm" else total), total.mean(list(dims))

    @staticmethod
    def onnx(parts: Any, weight: Any, dims: Any, scale: float, negate: bool, mode: str) -> Any:
        if mode != "norm" or weight is not None or negate:
            return NotImplemented
        total = sum(parts) * scale
        attributes = {"axis": 1, "p": 2}
        normal = hg_onnx.operator("LpNormalization", [total], attributes, dtype=total.dtype, shape=total.shape)
        return normal, total.mean(list(dims))


class Formulas(torch.autograd.Function):
    """Of ops that are only exported."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError


LIBRARY = torch.library.Library("onnx_test", "FRAGMENT")


@pytest.fixture(scope="module")
def blend():
    LIBRARY.define("blend" + Blend.schema)
    LIBRARY.impl("blend", lambda *args: tuple(x.clone() for x in Blend.reference(*args)), "CPU")

    def fake(parts: Any, weight: Any, dims: Any, *_: Any) -> tuple[Tensor, Tensor]:
        rest = [size for place, size in enumerate(parts[0].shape) if place not in dims]
        return torch.empty_like(parts[0]), parts[0].new_empty(rest)

    yield register(Blend.name, autograd=Formulas, fake=fake, reference=Blend.reference, onnx=Blend.onnx)
    del OPERATORS[Blend.name]


class Blended(nn.Module):
    def __init__(self, op: Any, weighted: bool, *rest: Any) -> None:
        super().__init__()
        self.op = op
        self.rest = rest
        self.register_buffer("weight", torch.rand(3, 1) if weighted else None)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.op([x.relu(), y], self.weight, *self.rest)


@pytest.mark.parametrize("how", ["export", "classic"])
@pytest.mark.parametrize(
    ("weighted", "rest", "direct"),
    [
        (False, ([0, 2], 0.5, False, "norm"), True),
        (True, ([0, 2], 0.5, False, "norm"), False),
        (True, ([1], 2.0, True, "sum"), False),
    ],
)
def test_another_op_through_both_exporters(tmp_path, blend, how, weighted, rest, direct):
    model, path = Blended(blend, weighted, *rest), tmp_path / "blend.onnx"
    inputs = torch.rand(2, 3, 4), torch.rand(2, 3, 4) + 0.1
    if how == "export":
        hg_onnx.export(model, inputs, path, verify=True)
    else:
        axes = {"x": {0: "batch"}, "y": {0: "batch"}}
        export_classic(model, inputs, path, input_names=["x", "y"], dynamic_axes=axes)
    assert hg_onnx.verify(model, path, (torch.rand(5, 3, 4), torch.rand(5, 3, 4) + 0.1)) < 1e-5
    assert ("LpNormalization" in operators(path)) == direct


def test_verification_finds_a_reference_that_is_not_the_op(tmp_path):
    LIBRARY.define("wrong(Tensor x) -> Tensor")
    LIBRARY.impl("wrong", lambda x: x * 2, "CPU")
    wrong = register(
        "onnx_test::wrong", autograd=Formulas, fake=torch.empty_like, reference=lambda x: x * 2 + (x > 1) * 0.01
    )

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return wrong(x)

    path = tmp_path / "wrong.onnx"
    try:
        with pytest.raises(
            hg_onnx.VerificationError, match=r"in 1 of 4 numbers, by up to 0\.01 \(torch 4, onnxruntime 4\.01\)"
        ):
            hg_onnx.export(Model(), torch.tensor([[0.0, 1.0], [-1.0, 2.0]]), path, verify=True)
        assert hg_onnx.verify(Model(), path, torch.tensor([[0.5, 0.1], [0.2, 0.3]])) < 1e-6  # left for inspection
    finally:
        del OPERATORS["onnx_test::wrong"]


def test_operator_names_a_bad_attribute():
    x = torch.rand(2)
    for value in (None, [], {"a": 1}, 1j):
        with pytest.raises(TypeError, match="operator: attributes must be integers, floats, strings or non-empty"):
            hg_onnx.operator("Relu", [x], {"alpha": value}, dtype=x.dtype, shape=x.shape)


def test_without_an_operator(tmp_path):
    """For a runtime that computes it wrongly; and only inside the block, nested ones together."""
    image, model = torch.rand(2, 3, 8, 8), RoIAlign(2, sampling_ratio=1)
    args, path = (image, torch.tensor([[0.0, 1.0, 1.0, 5.0, 6.0]])), tmp_path / "roi.onnx"

    def operators() -> set[str]:
        hg_onnx.export(model, args, path, dynamic_batch=False, verify=True)
        return {node.op_type for node in onnx.load(path).graph.node}

    with hg_onnx.without("RoiAlign", "GridSample"):
        assert "RoiAlign" not in operators()
        with hg_onnx.without("DeformConv"):
            assert "RoiAlign" not in operators()
    with pytest.raises(TypeError, match=r"op_types must be names .* got 16"), hg_onnx.without("DeformConv", 16):
        pass
    assert "RoiAlign" in operators()
