"""QuickGELU: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import QuickGELU, quick_gelu
from handgrad.layers.quick_gelu import quick_gelu_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(input, alpha=1.702):
    return quick_gelu_reference(input, alpha)


def tensors(*shape, dtype=torch.float64):
    return (3 * torch.randn(*shape, dtype=dtype, generator=reseeded(len(shape))),)


def with_alpha_one_it_is_silu():
    (input,) = tensors(7, 5)
    torch.testing.assert_close(quick_gelu(input, 1.0), F.silu(input))


def with_alpha_zero_it_is_half():
    (input,) = tensors(7, 5)
    torch.testing.assert_close(quick_gelu(input, 0.0), input / 2, rtol=0, atol=0)


def with_a_huge_alpha_it_is_relu():
    (input,) = tensors(7, 5)
    torch.testing.assert_close(quick_gelu(input, 1e30), input.relu(), rtol=0, atol=0)


def the_sides_differ_by_the_input():
    (input,) = tensors(7, 5)
    torch.testing.assert_close(quick_gelu(input) - quick_gelu(-input), input)


def numel_beyond_int32():
    # One number for all: nothing but the output is in memory, 4 GiB of it.
    input = torch.tensor([2.0], dtype=torch.bfloat16).expand(2**31 + 64)
    output = quick_gelu(input)
    assert output[0] == output[-1] == 1.9375
    assert output[:: 2**20].eq(output[0]).all()


SPEC = OpSpec(
    name="quick_gelu",
    operator="handgrad::quick_gelu",
    function=quick_gelu,
    reference=reference,
    module=QuickGELU,
    samples=[
        Sample("clip", tensors(4, 3), {}),
        Sample("silu", tensors(5), {"alpha": 1.0}),
        Sample("images", tensors(2, 3, 2, 2), {"alpha": 0.25}),
    ],
    large=Sample("large", tensors(1031, 83, dtype=torch.float32), {}),
    empty=[Sample("no_batch", tensors(0, 3), {}), Sample("no_columns", tensors(3, 0), {})],
    any_rank=True,
    bad=[
        Bad(
            "alpha",
            lambda: QuickGELU(-1.0),
            ValueError,
            r"alpha must be a number from 0 to the largest float32; got -1",
        ),
        Bad("alpha_large", lambda: QuickGELU(1e39), ValueError, r"alpha must be a number from 0 to .*; got 1e\+39"),
        Bad("alpha_text", lambda: QuickGELU("2"), TypeError, "alpha must be a number from 0 to .*; got '2'"),
    ],
    identities={
        "silu": with_alpha_one_it_is_silu,
        "half": with_alpha_zero_it_is_half,
        "relu": with_a_huge_alpha_it_is_relu,
        "sides": the_sides_differ_by_the_input,
    },
    numel_beyond_int32=numel_beyond_int32,
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_infinity_values_and_derivatives_are_the_limits(dtype):
    infinity = float("inf")
    input = torch.tensor([-infinity, infinity, float("nan"), -1e30, 1e30], dtype=dtype, requires_grad=True)
    output = quick_gelu(input)
    (slope,) = torch.autograd.grad(output.sum(), input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), input)
    nan = float("nan")
    for found, expected in (
        (output, [0, infinity, nan, 0, 1e30]),
        (slope, [0, 1, nan, 0, 1]),
        (curvature, [0, 0, nan, 0, 0]),
    ):
        expected = torch.tensor(expected, dtype=dtype)
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=0, equal_nan=True)


def test_minus_infinity_is_no_nan_to_the_reference_either():
    """It runs in the kernel's place on other devices."""
    output = quick_gelu_reference(torch.tensor([-float("inf"), float("inf"), float("nan")]), 1.702)
    torch.testing.assert_close(output, torch.tensor([0.0, float("inf"), float("nan")]), rtol=0, atol=0, equal_nan=True)


def test_a_confident_negative_keeps_its_accuracy():
    """1 - sigmoid would have lost all of it."""
    input = torch.linspace(-50, -10, 41, dtype=torch.float64)
    expected = input * torch.exp(1.702 * input) / (1 + torch.exp(1.702 * input))
    torch.testing.assert_close(quick_gelu(input.float()).double(), expected, rtol=1e-5, atol=0)
