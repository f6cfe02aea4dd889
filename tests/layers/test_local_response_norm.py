"""Local response normalisation: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import LocalResponseNorm, local_response_norm
from handgrad.layers.local_response_norm import local_response_norm_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded


def reference(input, size, alpha=1e-4, beta=0.75, k=1.0):
    return local_response_norm_reference(input, size, alpha, beta, k)


def tensors(*shape, dtype=torch.float64):
    return (torch.randn(*shape, dtype=dtype, generator=reseeded(len(shape))),)


def alpha_zero_only_scales():
    (input,) = tensors(2, 5, 3, 3)
    torch.testing.assert_close(local_response_norm(input, 5, alpha=0.0, beta=0.5, k=4.0), input / 2)


def size_one_is_pointwise():
    (input,) = tensors(2, 5, 3, 3)
    expected = input / (2 + 0.3 * input**2) ** 0.75
    torch.testing.assert_close(local_response_norm(input, 1, alpha=0.3, k=2.0), expected)


def homogeneous():
    """Scaling the input by s and k by s^2 scales the output by s^(1 - 2 beta)."""
    (input,) = tensors(2, 5, 3, 3)
    torch.testing.assert_close(
        local_response_norm(3 * input, 4, 0.2, 0.6, 9.0), 3 ** (1 - 1.2) * local_response_norm(input, 4, 0.2, 0.6, 1.0)
    )


def numel_beyond_int32():
    # One number for all: nothing but the output is in memory, 4 GiB of it.
    positions = 2**30 + 8
    input = torch.full((1, 1, 1), 2.0, dtype=torch.bfloat16).expand(1, 2, positions)
    output = local_response_norm(input, 3, alpha=3.0, beta=1.0, k=1.0)
    expected = torch.tensor(2 / 9, dtype=torch.bfloat16)
    assert output[0, 0, 0] == expected
    assert output[0, 1, -1] == expected
    assert output.view(-1)[:: 2**20].eq(expected).all()


(INPUT,) = tensors(2, 5, 3, 2)

SPEC = OpSpec(
    name="local_response_norm",
    operator="handgrad::local_response_norm",
    function=local_response_norm,
    reference=reference,
    module=LocalResponseNorm,
    samples=[
        Sample("images", tensors(2, 5, 3, 2), {"size": 3, "alpha": 0.5}),
        Sample("even_window", tensors(2, 6, 5), {"size": 4, "alpha": 0.4, "beta": 0.6, "k": 1.5}),
        Sample("volumes", tensors(1, 3, 2, 2, 2), {"size": 5, "alpha": 0.3, "beta": 1.0, "k": 2.0}),
        Sample("window_beyond_channels", tensors(2, 3, 4), {"size": 99, "alpha": 5.0}),
    ],
    large=Sample("large", tensors(3, 37, 41, 23, dtype=torch.float32), {"size": 5, "alpha": 0.2}),
    empty=[
        Sample("no_batch", tensors(0, 3, 4), {"size": 3}),
        Sample("no_channels", tensors(2, 0, 4), {"size": 3}),
        Sample("no_positions", tensors(2, 3, 0, 5), {"size": 3}),
    ],
    autocast=torch.float32,
    bad=[
        Bad(
            "size", lambda: local_response_norm(INPUT, 0), ValueError, "size must be a whole number, at least 1; got 0"
        ),
        Bad("size_float", lambda: local_response_norm(INPUT, 2.5), (TypeError, RuntimeError), "size"),
        Bad(
            "beta", lambda: LocalResponseNorm(5, beta=float("inf")), ValueError, "beta must be a finite number; got inf"
        ),
        Bad("k", lambda: LocalResponseNorm(5, k="1"), TypeError, "k must be a finite number; got '1'"),
        Bad(
            "rank",
            lambda: local_response_norm(INPUT[0, 0], 5),
            RuntimeError,
            r"input must have 3 to 5 dimensions .* got \(3, 2\)",
        ),
    ],
    identities={"alpha_zero": alpha_zero_only_scales, "size_one": size_one_is_pointwise, "homogeneous": homogeneous},
    numel_beyond_int32=numel_beyond_int32,
    # grad_output and grad_grad_input are read again where they are needed again, from the cache as a rule, which costs
    # less than two more arrays in shared memory.
    floor_factors={"double_backward": 1.6},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 7, 5, 3), (2, 7, 3, 2, 2), (1, 1, 4)])
@pytest.mark.parametrize(("size", "alpha", "beta", "k"), [(5, 1e-4, 0.75, 1.0), (4, 0.3, 0.5, 2.0), (9, 1.0, 1.2, 0.5)])
def test_equals_torch(shape, size, alpha, beta, k, dtype):
    (input,) = tensors(*shape, dtype=dtype)
    input.requires_grad_()
    ours = local_response_norm(input, size, alpha, beta, k)
    theirs = F.local_response_norm(input, size, alpha, beta, k)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(shape, dtype=dtype, generator=reseeded())
    torch.testing.assert_close(torch.autograd.grad(ours, input, weights), torch.autograd.grad(theirs, input, weights))


def test_a_large_number_does_not_drown_its_neighbours_neighbours():
    """Windows are summed each for itself: what a large channel leaves behind in a running sum would show here."""
    input = torch.full((1, 9, 1), 1e-3)
    input[0, 0] = 1e10
    output = local_response_norm(input, 3, alpha=3.0, beta=1.0, k=1e-6)
    expected = local_response_norm(input[:, 4:], 3, alpha=3.0, beta=1.0, k=1e-6)
    torch.testing.assert_close(output[:, 5:], expected[:, 1:], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 700, 40), (1, 3000, 9), (2, 40000, 2)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_many_channels(shape, channels_last):
    """Beyond what fits a slab of the usual width: narrower slabs, and on a device more shared memory, then global."""
    (input,) = tensors(*shape, dtype=torch.float32)
    if channels_last:
        input = input.movedim(1, -1).contiguous().movedim(-1, 1)
    input.requires_grad_()
    ours, expected = local_response_norm(input, 5, 0.3), reference(input.double(), 5, 0.3)
    torch.testing.assert_close(ours.double(), expected, rtol=1.3e-6, atol=1e-5)
    (grad,) = torch.autograd.grad(ours.sum(), input)
    (wanted,) = torch.autograd.grad(expected.sum(), input)
    torch.testing.assert_close(grad, wanted)


def test_zero_denominator_is_nan_as_in_torch():
    input = torch.zeros(1, 3, 2)
    input[0, 2] = 1.0
    ours = local_response_norm(input, 1, k=0.0)
    torch.testing.assert_close(ours, F.local_response_norm(input, 1, k=0.0), equal_nan=True)
    assert ours.isnan().flatten().tolist() == [True] * 4 + [False] * 2


def test_nan_stays_in_its_window():
    input = torch.ones(1, 9, 1)
    input[0, 4] = float("nan")
    assert local_response_norm(input, 3).isnan().flatten().tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_layouts_of_every_rank_are_kept():
    for shape in [(2, 5, 6), (2, 5, 4, 3), (2, 5, 2, 3, 2)]:
        (input,) = tensors(*shape)
        last = input.movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
        output = local_response_norm(last, 3)
        assert output.movedim(1, -1).is_contiguous()
        (grad,) = torch.autograd.grad(output.sum(), last)
        assert grad.movedim(1, -1).is_contiguous()
        assert local_response_norm(input, 3).is_contiguous()
