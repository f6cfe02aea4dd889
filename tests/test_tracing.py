"""What tracers make of every op: torch.fx, TorchScript, and forward mode over a raw op, which nothing records. All
specs are asked, those of ops to come too."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import handgrad
from found_specs import found_specs, module_of, outputs_of, public_function
from handgrad.registration import OPERATORS
from handgrad.testing import OpSpec, Sample

SPECS = [pytest.param(spec, id=name) for name, spec in found_specs()]
DIFFERENTIABLE = [pytest.param(spec, id=name) for name, spec in found_specs() if spec.derivatives]

every_op = pytest.mark.parametrize("spec", SPECS)


def test_there_are_specs():
    assert {name.partition("-")[0] for name, _ in found_specs()} == {
        name.partition("::")[2]
        for name in OPERATORS
        if name.startswith("handgrad::") and not name.startswith("handgrad::_")
    }


def two_derivatives(function: Any, tensors: tuple[Tensor, ...], parameters: list[Tensor]) -> Any:
    """The outputs, and the first and second gradients of a scalar of them."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    waiting = iter(leaves)
    given = [next(waiting) if tensor.is_floating_point() else tensor for tensor in tensors]
    outputs = outputs_of(function(*given))
    wanted = [*leaves, *parameters]
    differentiable = [out for out in outputs if out.requires_grad]
    if not differentiable:
        return outputs, [], []
    scalar = sum((out * out).sum() for out in differentiable)
    first = torch.autograd.grad(scalar, wanted, create_graph=True, allow_unused=True)
    second = torch.autograd.grad(
        sum((grad * grad).sum() for grad in first if grad is not None), wanted, allow_unused=True
    )
    return outputs, list(first), list(second)


class InANetwork(nn.Module):
    """A parameter in front of the op, and arithmetic behind it."""

    def __init__(self, spec: OpSpec, sample: Sample) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=sample.tensors[0].dtype))
        self.op = module_of(spec, sample.kwargs)

    def forward(self, first: Tensor, *others: Tensor) -> Any:
        result = self.op(first * self.scale, *others)
        return 2 * result if isinstance(result, Tensor) else tuple(2 * part for part in result)


# ---- torch.fx --------------------------------------------------------------------------------------------------------


@every_op
def test_symbolic_trace_has_one_node_for_the_op(spec):
    for sample in spec.samples:
        count = len(sample.tensors)
        names = [f"tensor_{index}" for index in range(count)]
        # Symbolic tracing wants the parameters by name.
        scope: dict[str, Any] = {"function": functools.partial(spec.call, **sample.kwargs)}
        exec(f"def call({', '.join(names)}):\n    return function({', '.join(names)})", scope)
        traced = torch.fx.symbolic_trace(scope["call"])
        calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
        assert calls == [public_function(spec)]
        for again in (traced, pickle.loads(pickle.dumps(traced)), copy.deepcopy(traced)):
            torch.testing.assert_close(
                two_derivatives(again, sample.tensors, []),
                two_derivatives(scope["call"], sample.tensors, []),
                rtol=0,
                atol=0,
                equal_nan=True,
            )


def layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), handgrad.layers.LocalResponseNorm(5), handgrad.layers.DeformConv2dPack(8, 4, 3)
    )


def test_symbolic_trace_of_a_network_with_layers_and_a_loss():
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = layers()
            self.loss = handgrad.losses.SigmoidFocalLoss()

        def forward(self, image: Tensor, target: Tensor) -> Tensor:
            return self.loss(self.net(image).mean((2, 3)), target)

    model, inputs = Loss(), (torch.rand(2, 3, 9, 9), torch.rand(2, 4))
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(*inputs), model(*inputs), rtol=0, atol=0)
    traced(*inputs).backward()
    assert model.net[0].weight.grad.abs().sum() > 0


def test_symbolic_trace_of_a_list_of_boxes():
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = handgrad.layers.RoIAlign(2, sampling_ratio=2)

        def forward(self, image: Tensor, first: Tensor, second: Tensor) -> Tensor:
            return self.pool(image, [first, second])

    inputs = torch.rand(2, 3, 8, 8), torch.rand(2, 4) * 8, torch.rand(1, 4) * 8
    torch.testing.assert_close(torch.fx.symbolic_trace(Pool())(*inputs), Pool()(*inputs), rtol=0, atol=0)


def test_what_overrides_torchs_functions_is_asked():
    class Recorder:
        calls: list[Any] = []  # noqa: RUF012

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> str:
            cls.calls.append((function, types, args, kwargs))
            return "recorded"

    recorder = Recorder()
    assert handgrad.layers.local_response_norm(recorder, 5, beta=0.5) == "recorded"
    assert handgrad.layers.roi_align(torch.rand(1, 1, 4, 4), [recorder], 2, boxes_grad=True) == "recorded"
    (function, types, args, kwargs), (_, _, _, later) = Recorder.calls
    assert function is handgrad.layers.local_response_norm
    assert tuple(types) == (Recorder,)
    bound = inspect.signature(function).bind(*args, **(kwargs or {}))
    assert bound.arguments["input"] is recorder
    assert (bound.arguments["size"], bound.arguments["beta"]) == (5, 0.5)
    assert later == {"boxes_grad": True}
    # What overrides nothing gets the error message of always.
    with pytest.raises(TypeError, match=r"local_response_norm: input must be a torch\.Tensor; got list"):
        handgrad.layers.local_response_norm([1.0], 5)


def test_feature_extraction_of_a_network_with_our_layers():
    feature_extraction = pytest.importorskip("torchvision.models.feature_extraction", exc_type=ImportError)
    model = layers()
    extractor = feature_extraction.create_feature_extractor(model, return_nodes={"1": "norm", "2": "deformed"})
    image = torch.rand(2, 3, 9, 9)
    found = extractor(image)
    torch.testing.assert_close(found["norm"], model[:2](image))
    torch.testing.assert_close(found["deformed"], model(image))


def test_fx_quantization_leaves_our_layers_in_floats():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own package
        quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
        mapping = torch.ao.quantization.get_default_qconfig_mapping()
        image = torch.rand(2, 3, 9, 9)
        model = layers().eval()
        prepared = quantize_fx.prepare_fx(copy.deepcopy(model), mapping, (image,))
        prepared(image)
        converted = quantize_fx.convert_fx(prepared)
        assert converted.get_submodule("0")._get_name() == "QuantizedConv2d" or "quantized" in str(type(converted[0]))
    assert converted(image).shape == model(image).shape


# ---- TorchScript -----------------------------------------------------------------------------------------------------


@every_op
def test_jit_trace_with_default_arguments_saves_and_differentiates(spec):
    """Without and with parameters in front of the op; the file computes the same, for another batch too."""
    for sample in spec.samples[:2]:
        modules = [module_of(spec, sample.kwargs)]
        if sample.tensors[0].is_floating_point():
            modules.append(InANetwork(spec, sample))
        for module in modules:
            traced = torch.jit.trace(module, sample.tensors)
            buffer = io.BytesIO()
            torch.jit.save(traced, buffer)
            buffer.seek(0)
            kinds = [node.kind() for node in traced.inlined_graph.nodes()]
            assert kinds.count(spec.operator) == (1 if spec.calls is None else spec.calls(sample))
            assert "prim::PythonOp" not in kinds
            for again in (traced, torch.jit.load(buffer)):
                grown = spec.grown(sample, 3)
                # More than once: TorchScript looks at the first runs, and then optimises.
                for tensors in (sample.tensors, grown.tensors, grown.tensors, sample.tensors):
                    torch.testing.assert_close(
                        two_derivatives(again, tensors, list(again.parameters())),
                        two_derivatives(module, tensors, list(module.parameters())),
                        equal_nan=True,
                    )


def test_jit_trace_in_every_mode_of_gradients():
    model, image = layers(), torch.rand(2, 3, 9, 9)
    expected = model(image)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            traced = torch.jit.trace(model, image)
        torch.testing.assert_close(traced(image), expected)


def test_jit_script_is_refused_in_one_error_message():
    for family in handgrad.__all__:
        for name in getattr(getattr(handgrad, family), "__all__", ()):
            exported = getattr(getattr(handgrad, family), name)
            # Of ops: a family may have other functions.
            if not inspect.isfunction(exported) or not hasattr(exported, "__prepare_scriptable__"):
                continue
            with pytest.raises(
                RuntimeError, match=rf"^{name}: torch\.jit\.script cannot compile it. Use torch.jit.trace"
            ):
                torch.jit.script(exported)
    with pytest.raises(RuntimeError, match=r"local_response_norm: torch\.jit\.script cannot compile it"):
        torch.jit.script(layers())


# ---- forward mode over raw ops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", DIFFERENTIABLE)
def test_a_raw_op_refuses_forward_mode_and_names_the_public_function(spec):
    """torch would leave the tangent out, without a word."""
    from torch.utils._python_dispatch import TorchDispatchMode

    calls: dict[str, tuple[Any, ...]] = {}
    own = {spec.operator, *map(spec.private, spec.private_ops)}

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func._schema.name in own:
                calls.setdefault(func._schema.name, args)
            return func(*args, **(kwargs or {}))

    sample = spec.samples[0]
    with Recorder():
        two_derivatives(functools.partial(spec.call, **sample.kwargs), sample.tensors, [])
    assert own == set(calls)
    public = public_function(spec)
    message = rf"the raw op has no forward-mode derivative.* Call {public.__module__} instead"
    for name, args in calls.items():
        first = next(index for index, arg in enumerate(args) if isinstance(arg, Tensor))
        tensor = args[first].detach()

        def raw(changed: Tensor, name: str = name, args: Any = args, first: int = first) -> Any:
            return OPERATORS[name].overload(*args[:first], changed, *args[first + 1 :])

        with torch.no_grad():
            with forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
                raw(forward_ad.make_dual(tensor, torch.ones_like(tensor)))
            with pytest.raises(RuntimeError, match=message):
                torch.func.jvp(raw, (tensor,), (torch.ones_like(tensor),))
            with forward_ad.dual_level():
                raw(tensor)  # there is a level, and no tangent
