"""Types and sizes that every op meets: mixed types under autocast, quantized tensors, numbers that are tensors or
numpy's, results of no size. All specs are asked, those of ops to come too."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import handgrad
from found_specs import found_specs, module_of, outputs_of, public_function

SPECS = [pytest.param(spec, id=name) for name, spec in found_specs()]
DECISIONS = [pytest.param(spec, id=name) for name, spec in found_specs() if not spec.derivatives]

every_op = pytest.mark.parametrize("spec", SPECS)


# ---- sizes that depend on values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", DECISIONS)
@pytest.mark.parametrize("dynamic", [True, None])
def test_compiled_code_goes_on_where_nothing_is_returned(spec, dynamic):
    """At first, and in a recompile: an image without a candidate."""

    def step(*tensors: Tensor) -> Any:
        outputs = outputs_of(function(*tensors))
        # Indices of rows as a rule; other whole numbers are made to be some.
        last = tensors[0].shape[0] - 1
        chosen = [tensors[0][out.clamp(max=last)] for out in outputs if out.dtype is torch.int64 and out.dim() == 1]
        return chosen, [2 * out for out in outputs]

    function = functools.partial(spec.call, **spec.samples[0].kwargs)
    some, none = spec.samples[0].tensors, tuple(tensor[:0] for tensor in spec.samples[0].tensors)
    one = tuple(tensor[:1] for tensor in some)
    for order in ((some, none, one, some), (none, some)):
        torch._dynamo.reset()
        compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
        for tensors in order:
            torch.testing.assert_close(compiled(*tensors), step(*tensors))


# ---- mixed types under autocast --------------------------------------------------------------------------------------


@every_op
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_beside_float32_under_autocast(spec, low):
    sample = spec.samples[0].to(torch.float32)
    names = spec.tensor_names(len(sample.tensors))
    # A result has the type of the op's input, which is its first tensor where none is called so.
    of_input = names.index("input") if "input" in names else 0
    for index, tensor in enumerate(sample.tensors):
        if not tensor.is_floating_point():
            continue
        rounded = tensor.to(low)
        mixed = (*sample.tensors[:index], rounded, *sample.tensors[index + 1 :])
        equal = (*sample.tensors[:index], rounded.float(), *sample.tensors[index + 1 :])
        with torch.autocast(tensor.device.type, dtype=low):
            outputs = outputs_of(spec.call(*mixed, **sample.kwargs))
        expected = outputs_of(spec.call(*equal, **sample.kwargs))
        if not spec.derivatives:
            torch.testing.assert_close(outputs, expected, rtol=0, atol=0)
        for out, wanted in zip(outputs, expected, strict=True):
            assert out.shape == wanted.shape
            assert out.dtype in (wanted.dtype, spec.autocast or mixed[of_input].dtype)
            torch.testing.assert_close(out.float(), wanted.float(), rtol=0.1, atol=0.1)


# ---- quantized tensors -----------------------------------------------------------------------------------------------


@every_op
def test_quantized_tensors_are_taken_for_their_numbers_or_refused_by_name(spec):
    sample = spec.samples[0].to(torch.float32)
    for index, (name, tensor) in enumerate(zip(spec.tensor_names(len(sample.tensors)), sample.tensors, strict=True)):
        if not tensor.is_floating_point():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of quantized tensors in general
            quantized = torch.quantize_per_tensor(tensor, 0.05, 100, torch.quint8)
            given = (*sample.tensors[:index], quantized, *sample.tensors[index + 1 :])
            # Also beside an image of levels, which has none, the op's other tensors have derivatives.
            if spec.derivatives or hasattr(getattr(torch.ops, spec.namespace), f"_{spec.name}_backward"):
                who = f"({spec.name}|{spec.function.__name__})"
                with pytest.raises(TypeError, match=rf"^{who}: {name} must .*; got .*(quantized|quint8)"):
                    spec.call(*given, **sample.kwargs)
                continue
            numbers = (*sample.tensors[:index], quantized.dequantize(), *sample.tensors[index + 1 :])
            torch.testing.assert_close(spec.call(*given, **sample.kwargs), spec.call(*numbers, **sample.kwargs))


# ---- numbers ---------------------------------------------------------------------------------------------------------


def numbers_in(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if type(value) in (int, float)}


@every_op
def test_a_number_that_wants_a_gradient_is_refused(spec):
    """It would silently get none. As a tensor that wants none it is a number. (One that may be a tensor has one.)"""
    parameters = inspect.signature(public_function(spec)).parameters
    for sample in spec.samples:
        expected = spec.call(*sample.tensors, **sample.kwargs)
        for name, value in numbers_in(sample.kwargs).items():
            if "Tensor" not in str(parameters[name].annotation):
                wanting = {**sample.kwargs, name: torch.tensor(float(value), requires_grad=True)}
                refusal = rf"{name} must be .*, without a gradient"
                with pytest.raises(TypeError, match=f"{refusal}: the op has no derivative"):
                    spec.call(*sample.tensors, **wanting)
                if spec.module is not None:
                    with pytest.raises(TypeError, match=refusal):
                        module_of(spec, {**wanting, name: nn.Parameter(wanting[name].detach())})(*sample.tensors)
            found = spec.call(
                *sample.tensors,
                **{
                    **sample.kwargs,
                    name: torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None),
                },
            )
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@every_op
def test_numpys_numbers_are_numbers_and_floats_no_whole_ones(spec):
    annotations = {name: str(p.annotation) for name, p in inspect.signature(public_function(spec)).parameters.items()}
    for sample in spec.samples:
        expected = spec.call(*sample.tensors, **sample.kwargs)
        for name, value in numbers_in(sample.kwargs).items():
            whole = annotations[name].startswith("int")
            exact = [
                kind
                for kind in ((np.int64, np.int32) if whole else (np.float64, np.float32))
                if float(kind(value)) == value
            ]
            for kind in exact:
                found = spec.call(*sample.tensors, **{**sample.kwargs, name: kind(value)})
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
            if whole:
                with pytest.raises(TypeError, match=rf"^{spec.name}: {name} must be a whole number.*; got {value}\.0"):
                    spec.call(*sample.tensors, **{**sample.kwargs, name: float(value)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: handgrad.layers.LocalResponseNorm(5.0), "local_response_norm: size must be a whole number.*; got 5.0"),
        (
            lambda: handgrad.layers.DeformConv2d(4.0, 8, 3),
            "DeformConv2d: in_channels must be a whole number.*; got 4.0",
        ),
        (lambda: handgrad.layers.DeformConv2d(4, 8, 3, groups=2.0), "DeformConv2d: groups must be a whole .*; got 2.0"),
        (lambda: handgrad.layers.DeformConv2d(4, 8, (3, 3.0)), r"kernel_size must be a whole .*; got \(3, 3.0\)"),
        (lambda: handgrad.layers.RoIAlign(2.0), "roi_align: output_size must be a whole number.*; got 2.0"),
    ],
)
def test_a_float_where_a_whole_number_is_meant(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_layers_from_numpys_integers():
    three, two = np.int64(3), np.int32(2)
    conv = handgrad.layers.DeformConv2d(np.int64(4), np.int64(8), three, padding=(np.int64(1), 1), groups=two)
    assert conv.kernel_size == (3, 3)
    assert all(type(number) is int for number in (conv.in_channels, conv.groups, *conv.padding))
    assert handgrad.layers.DeformConv2dPack(4, 8, three, deform_groups=two).deform_groups == 2
    assert handgrad.layers.LocalResponseNorm(three)(torch.rand(1, 4, 2)).shape == (1, 4, 2)
    assert handgrad.layers.roi_align(torch.rand(1, 2, 8, 8), torch.zeros(1, 5), (three, three)).shape == (1, 2, 3, 3)
