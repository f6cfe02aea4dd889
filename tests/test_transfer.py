"""handgrad.transfer: what it changes, what it leaves alone, and what its reports and errors say."""

from __future__ import annotations

import copy
import doctest
import functools
import importlib
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import handgrad
from handgrad import transfer
from handgrad.transfer import copy_matching_weights, freeze, new_head, replace_functions, replace_layers, unfreeze

models = pytest.importorskip("torchvision.models", reason="the heads to be found are torchvision's")


ROOMS = sorted(path.stem for path in Path(transfer.__file__).parent.glob("*.py") if path.stem != "__init__")


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    )


def test_importing_it_does_not_import_torchvision():
    code = "import sys, handgrad.transfer; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_examples_in_the_docstrings_are_true():
    modules = [transfer, *(importlib.import_module(f"{transfer.__name__}.{name}") for name in ROOMS)]
    names = {"nn": nn, "torch": torch, **{name: getattr(transfer, name) for name in transfer.__all__}}
    results = [doctest.testmod(module, extraglobs=names) for module in modules]
    assert sum(result.attempted for result in results) >= 8
    assert sum(result.failed for result in results) == 0


# ----------------------------------------------------------------------------------------------------- replace_layers


def test_replaced_layers_keep_the_very_tensors():
    model = small_network()
    weight, mean = model[0].weight, model[1].running_mean
    report = replace_layers(model, nn.BatchNorm2d, lambda old: nn.BatchNorm2d(old.num_features, eps=1e-2))
    assert len(report) == 2
    assert [layer.names for layer in report] == [("1",), ("4",)]
    assert set(report.replaced[0].kept) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert not report.replaced[0].not_kept
    assert model[1].eps == 1e-2
    assert model[1].running_mean is mean
    assert model[0].weight is weight


def test_replacing_a_layer_by_its_equal_changes_no_output():
    model = small_network().eval()
    model[1].running_mean.uniform_()
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    replace_layers(model, nn.Conv2d, lambda old: nn.Conv2d(*old.weight.shape[1::-1], 3, padding=old.padding))
    assert torch.equal(model(x), before)


def test_tensors_that_do_not_fit_are_reported_with_the_reason():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    report = replace_layers(model, nn.Conv2d, lambda old: nn.Conv2d(3, 8, 3, bias=False))
    (layer,) = report
    assert layer.kept == ()
    assert layer.not_kept == {
        "weight": "shape (4, 3, 3, 3) does not fit (8, 3, 3, 3)",
        "bias": "the new layer has no tensor of this name",
    }
    assert "0: Conv2d -> Conv2d" in str(report)
    assert "not kept weight: shape (4, 3, 3, 3) does not fit (8, 3, 3, 3)" in repr(report)


def test_mode_type_and_device_are_taken_over():
    model = small_network().to(torch.float64)
    model[0].eval()
    replace_layers(
        model, (nn.Conv2d, nn.ReLU), lambda old: nn.PReLU() if isinstance(old, nn.ReLU) else nn.Conv2d(3, 3, 1)
    )
    assert model[0].weight.dtype == torch.float64
    assert not model[0].training
    assert model[3].training
    assert model[2].weight.dtype == torch.float64  # a ReLU has no tensors: those of the network around it decide
    meta = nn.Sequential(nn.Linear(2, 2, device="meta"))
    replace_layers(meta, nn.Linear, lambda old: nn.Linear(2, 3))
    assert meta[0].weight.is_meta


def test_a_frozen_parameter_stays_frozen_and_an_optimizer_keeps_its_hold():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=1.0)
    replace_layers(model, nn.Linear, lambda old: nn.Linear(3, 3))
    assert not model[0].weight.requires_grad
    before = model[1].weight.clone()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[1].weight, before)


def test_a_shared_layer_is_replaced_once_and_stays_shared():
    shared = nn.ReLU()
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), shared), "b": nn.Sequential(shared), "c": nn.ReLU()})
    calls = []
    report = replace_layers(model, nn.ReLU, lambda old: calls.append(old) or nn.GELU())
    assert len(calls) == 2
    assert report.replaced[0].names == ("a.1", "b.0")
    assert model["a"][1] is model["b"][0]
    assert model["c"] is not model["b"][0]


def test_tied_weights_stay_tied():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "out": nn.Linear(3, 7, bias=False)})
    model["out"].weight = model["embed"].weight
    replace_layers(model, nn.Linear, lambda old: nn.Linear(3, 7))
    assert model["out"].weight is model["embed"].weight
    assert model["out"].bias is not None


def test_a_factory_may_wrap_the_old_layer_or_leave_it():
    model = small_network()
    convolutions = [model[0], model[3]]
    report = replace_layers(model, nn.Conv2d, lambda old: nn.Sequential(old, nn.Dropout2d()))
    assert len(report) == 2
    assert [model[0][0], model[3][0]] == convolutions
    assert "wraps the old one" in str(report)
    assert len(replace_layers(model, nn.Conv2d, lambda old: old)) == 0


def test_weights_of_the_factory_can_be_kept_instead():
    model = nn.Sequential(nn.Linear(2, 2))
    new = nn.Linear(2, 2)
    values = new.weight.clone()
    report = replace_layers(model, nn.Linear, lambda old: new, keep_weights=False)
    assert torch.equal(model[0].weight, values)
    assert report.replaced[0].not_kept["weight"] == "keep_weights=False"


def test_lost_hooks_and_new_tensors_are_mentioned():
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].register_forward_hook(lambda *_: None)
    text = str(replace_layers(model, nn.Linear, lambda old: nn.Linear(2, 2)))
    assert "hooks registered on the old layer were not carried over" in text
    assert "new in this layer: bias" in text


def test_finding_nothing_is_no_error():
    report = replace_layers(small_network(), nn.LSTM, lambda old: old)
    assert len(report) == 0
    assert str(report) == "replaced no layer: the model holds no LSTM"


def test_a_factory_that_fails_leaves_the_model_whole():
    model = small_network()
    before = list(model)

    def factory(old: nn.Module) -> nn.Module:
        if old is model[3]:
            raise RuntimeError("no")
        return nn.Identity()

    with pytest.raises(RuntimeError, match="no"):
        replace_layers(model, nn.Conv2d, factory)
    assert list(model) == before


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (("net", nn.ReLU, nn.GELU), TypeError, "model must be a module; got 'net' of type str"),
        ((small_network(), "ReLU", nn.GELU), TypeError, "old_type must be a module class or a tuple"),
        ((small_network(), (), nn.GELU), TypeError, "old_type must be a module class or a tuple"),
        ((small_network(), nn.ReLU, None), TypeError, "factory must be callable"),
        ((small_network(), nn.ReLU, lambda old: None), TypeError, "factory must return a module; got None .* layer 2"),
        ((nn.ReLU(), nn.ReLU, nn.GELU), ValueError, "is itself a ReLU"),
        ((nn.DataParallel(nn.ReLU()), nn.ReLU, nn.GELU), ValueError, "model must be the bare network"),
    ],
)
def test_replace_layers_refuses_bad_arguments(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        replace_layers(*arguments)


def test_one_new_layer_with_weights_for_two_old_ones_is_refused():
    new = nn.Conv2d(4, 4, 3)
    with pytest.raises(ValueError, match="one Conv2d with weights for both 0 and 3"):
        replace_layers(small_network(), nn.Conv2d, lambda old: new)
    activation = nn.GELU()  # nothing to keep in it, so one for all is harmless
    assert len(replace_layers(small_network(), nn.ReLU, lambda old: activation)) == 2


# -------------------------------------------------------------------------------------------------- replace_functions


@functools.cache
def trained_detector() -> nn.Module:
    torch.manual_seed(0)
    model = models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    # With random weights all scores are alike, and rounding decides what is detected. So: statistics that keep
    # activations at their size, and a last layer that is sure of something.
    with torch.no_grad():
        model.train()
        for _ in range(30):
            model.backbone(torch.randn(2, 3, 96, 96))
        model.roi_heads.box_predictor.cls_score.weight *= 100
    return model.eval()


def detector() -> nn.Module:
    return copy.deepcopy(trained_detector())


def counted(function, calls):
    def replacement(*args, **kwargs):
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return replacement


def detections(model):
    images = [torch.rand(3, 120, 160, generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        return model(images)[0]


def test_functions_of_a_detector_are_replaced_in_it_alone():
    ops = pytest.importorskip("torchvision.ops")
    model, other, calls = detector(), detector(), []
    expected = detections(model)
    report = replace_functions(
        model, {ops.batched_nms: counted(ops.batched_nms, calls), ops.roi_align: counted(ops.roi_align, calls)}
    )
    assert set(report.layers) == {"rpn", "roi_heads", "roi_heads.box_roi_pool"}
    assert "roi_heads.box_roi_pool: forward calls roi_align -> replacement" in str(report)
    torch.testing.assert_close(detections(model), expected, rtol=0, atol=0)
    # Once for the proposals and once for the detections; the pooler has three levels, of which the image fills some.
    assert calls.count("batched_nms") == 2
    assert calls.count("roi_align") >= 1
    del calls[:]
    detections(other)
    assert not calls
    assert isinstance(model.rpn, models.detection.rpn.RegionProposalNetwork)
    assert type(model.rpn).__name__ == "RegionProposalNetwork"
    assert model.state_dict().keys() == other.state_dict().keys()
    detections(copy.deepcopy(model))
    assert calls.count("batched_nms") == 2


def test_a_detector_with_our_ops_detects_the_same():
    ops = pytest.importorskip("torchvision.ops")
    model = detector()
    expected = detections(model)
    assert len(expected["boxes"]) > 10
    replace_functions(model, {ops.roi_align: handgrad.layers.roi_align, ops.batched_nms: handgrad.boxes.batched_nms})
    found = detections(model)
    torch.testing.assert_close(found["labels"], expected["labels"], rtol=0, atol=0)
    torch.testing.assert_close(found["boxes"], expected["boxes"])
    torch.testing.assert_close(found["scores"], expected["scores"])


def test_a_function_behind_a_decorator_is_found():
    ops = pytest.importorskip("torchvision.ops")
    model, calls = detector(), []
    # batched_nms calls it over a helper that torch.jit has wrapped.
    replace_functions(model, {ops.nms: counted(ops.nms, calls)})
    detections(model)
    assert calls


def doubled(x):
    return 2 * x


def tripled(x):
    return 3 * x


def even(x, steps):
    return doubled(x) if steps == 0 else odd(x, steps - 1)


def odd(x, steps):
    return even(x, steps - 1)


class Base(nn.Module):
    def forward(self, x):
        return doubled(x)


class Derived(Base):
    def forward(self, x):
        return super().forward(x) + self.extra(x)

    @staticmethod
    def extra(x):
        return (lambda y: doubled(y))(x)


class Cyclic(nn.Module):
    def forward(self, x):
        return even(x, 4)


class Holding(nn.Module):
    def __init__(self):
        super().__init__()
        self.function = doubled

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("kind", "before", "after"), [(Base, 2, 3), (Derived, 4, 6), (Cyclic, 2, 3), (Holding, 2, 3)], ids=lambda v: str(v)
)
def test_calls_are_found_wherever_they_are(kind, before, after):
    model = nn.Sequential(kind(), nn.Identity())
    assert model(torch.ones(())) == before
    report = replace_functions(model, {doubled: tripled})
    assert list(report.layers) == ["0"]
    assert model(torch.ones(())) == after
    assert kind()(torch.ones(())) == before


def test_the_model_itself_may_call_the_function():
    model = Base()
    assert "the model: forward calls doubled -> tripled" in str(replace_functions(model, {doubled: tripled}))
    assert model(torch.ones(())) == 3


def test_replacing_functions_twice():
    model = Base()
    replace_functions(model, {doubled: tripled})
    assert len(replace_functions(model, {tripled: doubled})) == 1
    assert model(torch.ones(())) == 2


def test_a_model_with_replaced_functions_compiles():
    model = Derived()
    replace_functions(model, {doubled: tripled})
    assert torch.compile(model, fullgraph=True, backend="eager")(torch.ones(())) == 6


def test_a_function_that_nobody_calls_is_reported():
    report = replace_functions(small_network(), {doubled: tripled})
    assert not report
    assert report.unused == ("doubled",)
    assert "no layer calls doubled" in str(report)


@pytest.mark.parametrize(
    ("replacements", "sentence"),
    [
        ({}, "replacements must map functions to functions; got {}"),
        ([doubled], "replacements must map functions to functions; got"),
        ({doubled: 3}, "replacements must map functions to functions; got 3 of type int"),
        ({"doubled": tripled}, "replacements must map functions to functions; got 'doubled'"),
        ({nn.ReLU: nn.GELU}, "got the class ReLU: for layers there is replace_layers"),
    ],
)
def test_replace_functions_refuses_bad_arguments(replacements, sentence):
    with pytest.raises(TypeError, match=sentence):
        replace_functions(small_network(), replacements)


def test_replace_functions_refuses_a_wrapped_model():
    with pytest.raises(ValueError, match="model must be the bare network"):
        replace_functions(torch.compile(small_network()), {doubled: tripled})


# ---------------------------------------------------------------------------------------------- copy_matching_weights


def test_matching_weights_are_copied_and_the_rest_is_reported():
    src, dst = models.resnet18(num_classes=7), models.resnet18(num_classes=3)
    report = copy_matching_weights(src, dst)
    assert set(report.mismatched) == {"fc.weight", "fc.bias"}
    assert report.mismatched["fc.weight"] == "shape (7, 512) does not fit (3, 512)"
    assert not report.missing
    assert not report.unexpected
    assert not report.complete
    assert all(torch.equal(dst.state_dict()[name], src.state_dict()[name]) for name in report.copied)
    assert str(report).startswith(f"copied {len(report.copied)} of {len(dst.state_dict())} tensors")


def test_copy_is_in_place_and_leaves_gradients_and_types_alone():
    dst = nn.Linear(3, 2).to(torch.bfloat16)
    dst.weight.requires_grad_(False)
    weight = dst.weight
    src = nn.Linear(3, 2)
    report = copy_matching_weights(src.state_dict(), dst)
    assert report.complete
    assert dst.weight is weight
    assert weight.dtype == torch.bfloat16
    assert not weight.requires_grad
    assert dst.bias.requires_grad
    assert torch.equal(weight, src.weight.to(torch.bfloat16))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_ignored_on_both_sides(prefix):
    src, dst = small_network(), small_network()
    wrapped = {prefix + name: tensor for name, tensor in src.state_dict().items()}
    assert copy_matching_weights(wrapped, dst).complete
    outer = nn.DataParallel(small_network())
    assert copy_matching_weights(src, outer).complete
    assert torch.equal(outer.module[0].weight, src[0].weight)
    assert torch.equal(dst[0].weight, src[0].weight)


def test_a_submodule_called_module_is_not_taken_for_a_wrapper():
    def make() -> nn.ModuleDict:
        return nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})

    report = copy_matching_weights(make(), make())
    assert report.complete
    assert "module.weight" in report.copied


def test_missing_unexpected_and_unfit_entries():
    dst = nn.ModuleDict({"a": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
    src = {
        "a.weight": torch.ones(2, 2, dtype=torch.complex64),
        "a.bias": torch.ones(2, device="meta"),
        "norm.num_batches_tracked": torch.tensor(3.5),
        "norm.weight": "text",
        "b.weight": torch.ones(1),
    }
    report = copy_matching_weights(src, dst)
    assert report.copied == ()
    assert report.mismatched["a.weight"] == "type torch.complex64 does not fit torch.float32"
    assert "meta device" in report.mismatched["a.bias"]
    assert report.mismatched["norm.num_batches_tracked"] == "type torch.float32 does not fit torch.int64"
    assert report.mismatched["norm.weight"] == "not a tensor but 'text' of type str"
    assert report.missing == ("norm.bias", "norm.running_mean", "norm.running_var")
    assert report.unexpected == ("b.weight",)
    assert "only in the source: b.weight" in str(report)


def test_lazy_layers_are_named_as_the_reason():
    dst = nn.LazyLinear(2)
    report = copy_matching_weights(nn.Linear(3, 2), dst)
    assert "lazy layer" in report.mismatched["weight"]


@pytest.mark.parametrize(
    ("src", "dst", "error", "sentence"),
    [
        ([1, 2], nn.Linear(1, 1), TypeError, r"src must be a module or a state dict; got \[1, 2\] of type list"),
        (nn.Linear(1, 1), {}, TypeError, "dst must be a module"),
        ({1: torch.ones(1)}, nn.Linear(1, 1), TypeError, "got the key 1 of type int"),
        (
            {"state_dict": {"weight": torch.ones(1, 1)}},
            nn.Linear(1, 1),
            ValueError,
            r"did you mean src\['state_dict'\]",
        ),
    ],
)
def test_copy_refuses_bad_arguments(src, dst, error, sentence):
    with pytest.raises(error, match=sentence):
        copy_matching_weights(src, dst)


# ------------------------------------------------------------------------------------------------------------- freeze


def test_freeze_up_to_a_child():
    model = models.resnet18(num_classes=2)
    report = freeze(model, until="layer4")
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert tuple(trainable) == report.trainable
    assert all(name.startswith(("layer4.", "fc.")) for name in trainable)
    assert len(report.frozen) + len(report.trainable) == len(list(model.parameters()))
    assert report.frozen_elements + report.trainable_elements == sum(p.numel() for p in model.parameters())
    assert "from layer4.0.conv1.weight on" in str(report)


def test_freeze_up_to_a_nested_child():
    model = models.mobilenet_v2(num_classes=2)
    report = freeze(model, until="features.14")
    assert report.trainable[0].startswith("features.14.")
    assert report.frozen[-1].startswith("features.13.")
    everything = freeze(model)
    assert everything.trainable == ()
    assert len(everything.frozen) == len(list(model.parameters()))


def test_parameters_of_the_containers_on_the_way_are_frozen():
    model = models.vit_b_32(image_size=32, num_classes=2)
    freeze(model, until="encoder.layers.encoder_layer_11")
    assert not model.class_token.requires_grad
    assert not model.encoder.pos_embedding.requires_grad
    assert model.encoder.ln.weight.requires_grad


def test_frozen_statistics_do_not_move_when_training():
    model = small_network()
    report = freeze(model, until="3")
    assert report.eval_layers == ("1",)
    frozen, free = model[1].running_mean.clone(), model[4].running_mean.clone()
    model.train()
    assert not model[1].training
    assert model[4].training
    model(torch.randn(4, 3, 8, 8) + 5)
    assert torch.equal(model[1].running_mean, frozen)
    assert not torch.equal(model[4].running_mean, free)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "save"])
def test_frozen_layers_stay_so_in_copies(duplicate):
    model = small_network()
    freeze(model)
    if duplicate == "save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = duplicate(model)
    twin.train()
    assert not twin[1].training
    model[1].training = True  # the copy must hold itself, not the layer that it was copied from
    assert not twin.train()[1].training
    assert model[1].training


def test_a_frozen_model_compiles_and_exports():
    model = small_network()
    freeze(model, until="3")
    model.train()
    x = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(copy.deepcopy(model).eval(), (x,)).module()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    assert torch.allclose(exported(x), copy.deepcopy(model).eval()(x), atol=1e-6)
    assert torch.allclose(compiled(x), model(x), atol=1e-6)


def test_unfreeze_gives_everything_back():
    model = small_network()
    freeze(model)
    unfreeze(model)
    model.train()
    assert all(p.requires_grad for p in model.parameters())
    assert model[1].training
    assert "train" not in vars(model[1])


def test_left_over_gradients_do_not_move_frozen_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(1, 2)).sum().backward()
    freeze(model, until="1")
    before = model[0].weight.clone()
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.grad is None
    assert model[1].weight.grad is not None


def test_tied_parameters_freeze_together_and_are_mentioned():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "out": nn.Linear(3, 7)})
    model["out"].weight = model["embed"].weight
    report = freeze(model, until="out")
    assert report.trainable == ("out.bias",)
    assert "tied to a frozen parameter: out.weight" in str(report)


@pytest.mark.parametrize(
    ("model", "until", "error", "sentence"),
    [
        (small_network(), "conv1", ValueError, "until must name a submodule of the model; got 'conv1'; it has 0, 1, 2"),
        (models.squeezenet1_1(), "features.33", ValueError, "close to it: features.3"),
        (small_network(), 3, TypeError, "until must be the name of a submodule or None; got 3 of type int"),
        (None, None, TypeError, "model must be a module"),
        (nn.DataParallel(small_network()), None, ValueError, "bare network"),
    ],
)
def test_freeze_refuses_bad_arguments(model, until, error, sentence):
    with pytest.raises(error, match=sentence):
        freeze(model, until)


# ----------------------------------------------------------------------------------------------------------- new_head

FAMILIES = {
    "alexnet": (64, ("classifier.6",)),
    "vgg11": (32, ("classifier.6",)),
    "vgg13_bn": (32, ("classifier.6",)),
    "resnet18": (32, ("fc",)),
    "resnet50": (32, ("fc",)),
    "resnext50_32x4d": (32, ("fc",)),
    "wide_resnet50_2": (32, ("fc",)),
    "squeezenet1_0": (32, ("classifier.1",)),
    "squeezenet1_1": (32, ("classifier.1",)),
    "densenet121": (32, ("classifier",)),
    "mobilenet_v2": (32, ("classifier.1",)),
    "mobilenet_v3_small": (32, ("classifier.3",)),
    "mobilenet_v3_large": (32, ("classifier.3",)),
    "efficientnet_b0": (32, ("classifier.1",)),
    "efficientnet_v2_s": (32, ("classifier.1",)),
    "inception_v3": (299, ("fc", "AuxLogits.fc")),
    # not in the table: found as the last layer
    "convnext_tiny": (32, ("classifier.2",)),
    "vit_b_32": (224, ("heads.head",)),
    "swin_t": (32, ("head",)),
    "shufflenet_v2_x0_5": (32, ("fc",)),
    "googlenet": (64, ("fc", "aux1.fc2", "aux2.fc2")),
    "mnasnet0_5": (32, ("classifier.1",)),
}


def build(name: str, **settings: object) -> nn.Module:
    if name in ("inception_v3", "googlenet"):
        settings["init_weights"] = False
    # Drawing random weights is most of the time of building these networks, and no test here looks at them.
    with torch.device("meta"):
        model = getattr(models, name)(**settings)
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.zero_()
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_new_head_of_every_family(name):
    size, heads = FAMILIES[name]
    model = build(name)
    body = {n: p for n, p in model.named_parameters() if not n.startswith(tuple(f"{head}." for head in heads))}
    model.requires_grad_(False)
    report = new_head(model, 3)
    assert report.names == heads
    assert {n: p for n, p in model.named_parameters() if n in body} == body
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"{head}.{leaf}" for head in heads for leaf in ("weight", "bias")
    }
    model.eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 3)
    assert "becomes" in str(report)


def test_inception_has_both_heads_in_training_and_only_one_without_the_auxiliary():
    model = build("inception_v3")
    new_head(model, 5)
    output = model.train()(torch.zeros(2, 3, 299, 299))
    assert output.logits.shape == output.aux_logits.shape == (2, 5)
    assert new_head(build("inception_v3", aux_logits=False), 5).names == ("fc",)


def test_squeezenet_counts_its_classes_and_warns_of_its_relu():
    model = build("squeezenet1_1")
    report = new_head(model, 4)
    assert model.num_classes == 4
    assert "never negative" in str(report)


def test_a_new_head_is_like_the_old_one_and_starts_small():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1000, 10, bias=False)).to(torch.float64).eval()
    new_head(model, 50)
    head = model[1]
    assert head.bias is None
    assert head.weight.dtype == torch.float64
    assert not head.training
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    convolution = nn.Sequential(nn.Conv2d(2, 6, 3, stride=2, padding=1, dilation=2, padding_mode="reflect"))
    shape = convolution(torch.zeros(1, 2, 9, 9)).shape
    new_head(convolution, 2)
    assert convolution(torch.zeros(1, 2, 9, 9)).shape == (1, 2, *shape[2:])
    assert convolution[0].padding_mode == "reflect"


def test_subclasses_of_a_known_family_are_known():
    class Mine(models.ResNet):
        pass

    model = Mine(models.resnet.BasicBlock, [1, 1, 1, 1])
    assert new_head(model, 2).names == ("fc",)


def test_a_head_may_be_named():
    model = build("resnet18")
    model.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 10), nn.BatchNorm1d(10))
    assert new_head(model, 2, head="fc.2").names == ("fc.2",)
    assert model.fc[2].out_features == 2


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 16)
        self.classes = nn.Linear(16, 5)
        self.boxes = nn.Linear(16, 20)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "sentence"),
    [
        ((nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), 2), {}, TypeError, r"last layer .* is 1 \(LayerNorm\)"),
        ((nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), 2), {}, TypeError, "ungrouped"),
        ((nn.Sequential(nn.ReLU()), 2), {}, TypeError, "it has none"),
        ((nn.Linear(2, 2), 2), {}, TypeError, "model must end in a linear"),
        ((TwoHeads(), 2), {}, TypeError, "it may be classes, boxes: name the layer"),
        ((models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None), 2), {}, TypeError, "one head"),
        ((build("alexnet"), 0), {}, ValueError, "num_classes must be at least 1; got 0"),
        ((build("alexnet"), 2.0), {}, TypeError, "num_classes must be an integer; got 2.0 of type float"),
        ((build("alexnet"), True), {}, TypeError, "num_classes must be an integer"),
        ((build("alexnet"), 2), {"head": "classifier.7"}, ValueError, "close to it: classifier"),
        ((build("alexnet"), 2), {"head": "classifier.5"}, TypeError, "classifier.5 is a ReLU"),
        ((nn.DataParallel(nn.Linear(1, 1)), 2), {}, ValueError, "bare network"),
        (("resnet18", 2), {}, TypeError, "model must be a module; got 'resnet18'"),
    ],
)
def test_new_head_refuses_bad_arguments(arguments, keywords, error, sentence):
    with pytest.raises(error, match=sentence):
        new_head(*arguments, **keywords)
