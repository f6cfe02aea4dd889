"""Root mean square normalisation over channels: its spec, its module, and what users reported of others."""

import pytest
import torch
import torch.nn.functional as F

import channel_norms as norms
from handgrad.layers import RmsNorm2d, rms_norm_2d
from handgrad.testing import OpSpec, matrix, reseeded


def reference(input, weight=None, eps=1e-6):
    output = input * (input.square().mean(1, keepdim=True) + eps).rsqrt()
    return output if weight is None else output * weight.view(-1, *[1] * (input.dim() - 2))


def torchs(input, weight=None, eps=1e-6):
    return F.rms_norm(input.movedim(1, -1), input.shape[1:2], weight, eps).movedim(-1, 1)


def blind_to_scale():
    input, weight = norms.tensors(2, 7, 5, 3, of_channels=1)
    torch.testing.assert_close(rms_norm_2d(3 * input, weight, eps=0.0), rms_norm_2d(input, weight, eps=0.0))


def mean_square_is_one():
    output = rms_norm_2d(*norms.tensors(2, 7, 5, of_channels=0), eps=0.0)
    torch.testing.assert_close(output.square().mean(1), torch.ones(2, 5, dtype=torch.float64))


def numel_beyond_int32():
    # Two numbers for all: nothing but the output is in memory, 4 GiB of it.
    positions = 2**30 + 8
    input = torch.tensor([1.0, 7.0], dtype=torch.bfloat16).view(1, 2, 1).expand(1, 2, positions)
    output = rms_norm_2d(input, torch.tensor([5.0, 5.0]))
    assert output[0, 0, 0] == 1.0
    assert output[0, 1, -1] == 7.0
    assert output[0, 0, :: 2**20].eq(1.0).all()
    assert output[0, 1, :: 2**20].eq(7.0).all()


def sums_of_many():
    norms.gradients_of_many_rows(rms_norm_2d, 1)


SPEC = OpSpec(
    name="rms_norm_2d",
    operator="handgrad::rms_norm_2d",
    function=rms_norm_2d,
    reference=reference,
    module=RmsNorm2d,
    own=["weight"],
    module_kwargs=lambda sample: {"num_channels": sample.tensors[0].shape[1], **sample.kwargs},
    samples=norms.samples(1),
    large=norms.large(1),
    empty=norms.empty(1),
    bad=norms.bad(rms_norm_2d, RmsNorm2d),
    identities={"scale": blind_to_scale, "mean_square": mean_square_is_one},
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    autocast=torch.float32,
    tensors=["input", "weight"],
    optional=["weight"],
    rows=["batch", ""],
    shards=[((0, None), 0)],
    lenient={"input": norms.is_an_input},
    tolerances={
        # The gradient of a weight is a sum over thousands of rows, of terms rounded to 1e-7 each: 5e-6 of it.
        torch.float32: (1e-5, 5e-5),
    },
    # The sums of 512 blocks for 37 channels, and what adds them.
    device_scratch=1 << 19,
    device_calls={"backward": (2, 3, 0), "double_backward": (2, 3, 0)},
    # Of a sample as small as this the sums of its 89 blocks, written and read again, are 8 % of what is moved.
    floor_factors={"backward": 1.1},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(2, 96, 7, 9), (3, 5, 70), (4, 768, 2, 2), (1, 2_100, 3), (2, 1, 4), (1, 8, 40, 41)])
def test_equals_torch(shape, last, dtype):
    input, weight = norms.tensors(*shape, of_channels=1, dtype=dtype)
    input = norms.channels_innermost(input) if last else input
    direction = torch.randn(shape, dtype=dtype, generator=reseeded())
    results = []
    for function, wide in ((rms_norm_2d, dtype), (torchs, torch.float64)):
        leaves = [tensor.to(wide).requires_grad_() for tensor in (input, weight)]
        output = function(*leaves)
        results.append([output, *torch.autograd.grad(output, leaves, direction.to(wide))])
    expected = [tensor.to(dtype) for tensor in results[1]]
    torch.testing.assert_close(results[0], expected, rtol=1e-5 if dtype is torch.float32 else 1e-9, atol=1e-5)
    assert results[0][0].stride() == input.stride()
    assert results[0][1].stride() == input.stride()


@pytest.mark.tiers("whole")
def test_loads_timms_state_dict():
    theirs = pytest.importorskip("timm.layers", reason="timm does not load").RmsNorm2d(6)
    input, weight = norms.tensors(2, 6, 5, 4, of_channels=1, dtype=torch.float32)
    theirs.load_state_dict({"weight": weight})
    ours = RmsNorm2d(6)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(input), theirs(input))
    assert repr(ours) == "RmsNorm2d(6, eps=1e-06, affine=True)"
    assert not RmsNorm2d(6, affine=False).state_dict()


def test_gradients_of_each_sample():
    norms.per_sample(rms_norm_2d, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [0.058, 3000.0])
def test_squares_of_half_types_neither_overflow_nor_vanish(scale, dtype):
    """pytorch#133085 and microsoft/onnxruntime#29034: squares beyond 65,504 made rows of zeros; pytorch#189581: those
    of small bfloat16 numbers were normalised by something else."""
    stored = (scale * norms.tensors(2, 32, 5, of_channels=0)[0]).to(dtype)
    unit = 1e-3 if dtype is torch.float16 else 8e-3
    torch.testing.assert_close(rms_norm_2d(stored), reference(stored.double()).to(dtype), rtol=unit, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_zeros_are_zeros_and_one_large_channel_is_not_all(dtype):
    """apple/coremltools#2822: rows scaled by their largest number were NaN for zeros, and eps grew with it."""
    input = torch.zeros(1, 256, 2, dtype=dtype)
    input[0, 0, 1] = 100.0
    output = rms_norm_2d(input.requires_grad_(), eps=1e-3)
    assert output[..., 0].eq(0).all()
    expected = reference(input.detach().double(), eps=1e-3).to(dtype)
    torch.testing.assert_close(output, expected, rtol=1e-5 if dtype is torch.float32 else 1e-3, atol=0)
    (grad,) = torch.autograd.grad(output.sum(), input)
    assert grad.isfinite().all()


def test_without_eps_a_row_of_zeros_is_nan():
    output = rms_norm_2d(torch.tensor([[[0.0, 1.0], [0.0, 3.0]]]), eps=0.0)
    assert output.isnan().tolist() == [[[True, False], [True, False]]]


@pytest.mark.parametrize("last", [False, True])
def test_nan_stays_in_its_row(last):
    input, weight = norms.tensors(2, 9, 3, 35, of_channels=1, dtype=torch.float32)
    input[1, 4, 2, 7] = float("nan")
    input = (norms.channels_innermost(input) if last else input).requires_grad_()
    output = rms_norm_2d(input, weight)
    lost = torch.zeros(2, 3, 35, dtype=torch.bool)
    lost[1, 2, 7] = True
    assert output.isnan().all(1).equal(lost)
    assert output.isnan().any(1).equal(lost)
    (grad,) = torch.autograd.grad(output.sum(), input)
    assert grad.isnan().any(1).equal(lost)


def test_infinity_stays_in_its_row():
    input = norms.tensors(1, 9, 3, of_channels=0, dtype=torch.float32)[0]
    input[0, 4, 1] = float("inf")
    output = rms_norm_2d(input)
    assert output[0, :, 1].isnan().nonzero().tolist() == [[4]]
    assert output[0, :4, 1].eq(0).all()
    assert output[..., [0, 2]].isfinite().all()
