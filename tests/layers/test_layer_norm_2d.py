"""Layer normalisation over channels: its spec, its module, and what users reported of others."""

import pytest
import torch
import torch.nn.functional as F

import channel_norms as norms
from handgrad.layers import LayerNorm2d, layer_norm_2d
from handgrad.testing import Bad, OpSpec, matrix, reseeded


def reference(input, weight=None, bias=None, eps=1e-6):
    channels = (-1, *[1] * (input.dim() - 2))
    rest = input - input.mean(1, keepdim=True)
    output = rest / (rest.square().mean(1, keepdim=True) + eps).sqrt()
    output = output if weight is None else output * weight.view(channels)
    return output if bias is None else output + bias.view(channels)


def torchs(input, weight=None, bias=None, eps=1e-6):
    last = F.layer_norm(input.movedim(1, -1), input.shape[1:2], weight, bias, eps)
    return last.movedim(-1, 1)


def blind_to_scale_and_shift():
    input, weight, bias = norms.tensors(2, 7, 5, 3)
    expected = layer_norm_2d(input, weight, bias, eps=0.0)
    torch.testing.assert_close(layer_norm_2d(3 * input - 4, weight, bias, eps=0.0), expected)


def mean_and_variance():
    output = layer_norm_2d(*norms.tensors(2, 7, 5, of_channels=0), eps=0.0)
    torch.testing.assert_close(output.mean(1), torch.zeros(2, 5, dtype=torch.float64))
    torch.testing.assert_close(output.var(1, correction=0), torch.ones(2, 5, dtype=torch.float64))


def one_channel_is_the_bias():
    input, weight, bias = norms.tensors(2, 1, 5)
    torch.testing.assert_close(layer_norm_2d(input, weight, bias), bias.view(1, 1, 1).expand(2, 1, 5), rtol=0, atol=0)


def numel_beyond_int32():
    # Two numbers for all: nothing but the output is in memory, 4 GiB of it.
    positions = 2**30 + 8
    input = torch.tensor([1.0, 3.0], dtype=torch.bfloat16).view(1, 2, 1).expand(1, 2, positions)
    output = layer_norm_2d(input, bias=torch.tensor([0.0, 1.0]))
    assert output[0, 0, 0] == -1.0
    assert output[0, 1, -1] == 2.0
    assert output[0, 0, :: 2**20].eq(-1.0).all()
    assert output[0, 1, :: 2**20].eq(2.0).all()


def sums_of_many():
    norms.gradients_of_many_rows(layer_norm_2d, 2)


INPUT, WEIGHT, BIAS = norms.tensors(2, 4, 3)

SPEC = OpSpec(
    name="layer_norm_2d",
    operator="handgrad::layer_norm_2d",
    function=layer_norm_2d,
    tensors=["input", "weight", "bias"],
    reference=reference,
    module=LayerNorm2d,
    own=["weight", "bias"],
    module_kwargs=lambda sample: {"num_channels": sample.tensors[0].shape[1], **sample.kwargs},
    samples=norms.samples(2),
    large=norms.large(2),
    empty=norms.empty(2),
    bad=[
        *norms.bad(layer_norm_2d, LayerNorm2d),
        Bad("bias_shape", lambda: layer_norm_2d(INPUT, WEIGHT, BIAS[:1]), RuntimeError, "bias must have shape"),
    ],
    identities={
        "scale_and_shift": blind_to_scale_and_shift,
        "mean_and_variance": mean_and_variance,
        "one_channel": one_channel_is_the_bias,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    autocast=torch.float32,
    optional=["weight", "bias"],
    rows=["batch", "", ""],
    shards=[((0, None, None), 0)],
    lenient={"input": norms.is_an_input},
    tolerances={
        # The gradient of a weight is a sum over thousands of rows, of terms rounded to 1e-7 each: 5e-6 of it.
        torch.float32: (1e-5, 5e-5),
    },
    # The sums of 512 blocks for 37 channels, and what adds them.
    device_scratch=1 << 19,
    device_calls={"backward": (2, 4, 0), "double_backward": (2, 3, 0)},
    # Of a sample as small as this the sums of its 89 blocks, written and read again, are 8 % of what is moved.
    floor_factors={"backward": 1.1},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 96, 7, 9), (3, 5, 70), (4, 768, 2, 2), (5, 33), (1, 2_100, 3), (2, 1, 4), (1, 8, 40, 41)]
)
def test_equals_torch(shape, last, dtype):
    input, weight, bias = norms.tensors(*shape, dtype=dtype)
    input = norms.channels_innermost(input) if last else input
    direction = torch.randn(shape, dtype=dtype, generator=reseeded())
    results = []
    # torch's in float64: the gradient through one channel is 0, and in float32 its rounding errors, scaled up.
    for function, wide in ((layer_norm_2d, dtype), (torchs, torch.float64)):
        leaves = [tensor.to(wide).requires_grad_() for tensor in (input, weight, bias)]
        output = function(*leaves)
        results.append([output, *torch.autograd.grad(output, leaves, direction.to(wide))])
    expected = [tensor.to(dtype) for tensor in results[1]]
    torch.testing.assert_close(results[0], expected, rtol=1e-5 if dtype is torch.float32 else 1e-9, atol=1e-5)
    assert results[0][0].stride() == input.stride()
    assert results[0][1].stride() == input.stride()


@pytest.mark.parametrize("last", [False, True])
def test_many_channels(last):
    """More than shared memory holds: a device keeps them in global memory."""
    input, weight, bias = norms.tensors(1, 12_000, 2)
    leaves = [t.requires_grad_() for t in (norms.channels_innermost(input) if last else input, weight, bias)]
    direction = torch.randn(1, 12_000, 2, dtype=torch.float64, generator=reseeded())
    results = []
    for function in (layer_norm_2d, torchs):
        output = function(*leaves)
        first = torch.autograd.grad(output, leaves, direction, create_graph=True)
        second = torch.autograd.grad(sum(grad.sin().sum() for grad in first), leaves[:2])
        results.append([output, *first, *second])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.tiers("whole")
def test_loads_the_state_dicts_of_others():
    """timm's module, torchvision's, and ConvNeXt's own are one: weight and bias of (channels,)."""
    input, weight, bias = norms.tensors(2, 6, 5, 4, dtype=torch.float32)
    ours = LayerNorm2d(6)
    for package, path in (("timm", "timm.layers"), ("torchvision", "torchvision.models.convnext")):
        theirs = pytest.importorskip(path, reason=f"{package} does not load").LayerNorm2d(6, eps=1e-6)
        assert {name: value.shape for name, value in theirs.state_dict().items()} == {
            name: value.shape for name, value in ours.state_dict().items()
        }
        theirs.load_state_dict({"weight": weight, "bias": bias})
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(input), theirs(input))
    assert repr(ours) == "LayerNorm2d(6, eps=1e-06, affine=True)"
    assert not LayerNorm2d(6, affine=False).state_dict()


def test_gradients_of_each_sample():
    norms.per_sample(layer_norm_2d, 2)


@pytest.mark.parametrize("last", [False, True])
def test_a_row_far_from_zero_keeps_its_digits(last):
    """timm#1340: the mean of squares less the square of the mean has none left."""
    rest, weight, bias = norms.tensors(2, 96, 7, 5, dtype=torch.float32)
    # As float32 stores it: the row itself loses its last digits, the normalisation none of what is left.
    input = rest + 1e6
    input = norms.channels_innermost(input) if last else input
    expected = reference(input.double(), weight.double(), bias.double())
    torch.testing.assert_close(layer_norm_2d(input, weight, bias).double(), expected, rtol=1e-5, atol=1e-5)
    input.requires_grad_()
    (grad,) = torch.autograd.grad(layer_norm_2d(input, weight, bias).square().sum(), input)
    wide = input.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(reference(wide, weight.double(), bias.double()).square().sum(), wide)
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-4, atol=1e-4)


def test_half_types_are_computed_in_float32():
    """pytorch#66707, microsoft/onnxruntime#17692: a variance beyond 65,504."""
    input = 3000 * norms.tensors(2, 128, 5, of_channels=0)[0]
    for dtype, unit in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        stored = input.to(dtype)
        torch.testing.assert_close(layer_norm_2d(stored), reference(stored.double()).to(dtype), rtol=unit, atol=1e-6)


def test_float32_weights_beside_half_inputs():
    """What a model in half precision with norms in float32 is, and what torch's autocast leaves in a block."""
    input, weight, bias = norms.tensors(2, 6, 5)
    input, weight, bias = input.half(), weight.float().requires_grad_(), bias.half().requires_grad_()
    output = layer_norm_2d(input, weight, bias)
    assert output.dtype is torch.float16
    grads = torch.autograd.grad(output.float().square().sum(), (weight, bias))
    assert [grad.dtype for grad in grads] == [torch.float32, torch.float16]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_zeros_with_a_small_eps_are_zeros(dtype):
    """pytorch#41527, deepspeed#581: an eps of 1e-12 is 0 in float16, and the padding of a batch NaN."""
    input = torch.zeros(2, 10, 3, dtype=dtype, requires_grad=True)
    output = layer_norm_2d(input, eps=1e-12)
    assert output.eq(0).all()
    (grad,) = torch.autograd.grad(output.sum(), input)
    assert grad.eq(0).all()


@pytest.mark.parametrize("last", [False, True])
def test_squares_that_overflow_leave_the_bias(last):
    """pytorch#162489: of numbers near 1e30 torch made NaN on one device, and on the other what this is."""
    input, weight, bias = norms.tensors(2, 9, 35, dtype=torch.float32)
    input = 1e30 * (norms.channels_innermost(input) if last else input)
    output = layer_norm_2d(input.requires_grad_(), weight, bias)
    torch.testing.assert_close(output, bias[:, None].expand(2, 9, 35), rtol=0, atol=0)
    (grad,) = torch.autograd.grad(output.sum(), input)
    assert grad.eq(0).all()


def test_without_eps_a_constant_row_is_nan_as_in_torch():
    input = torch.tensor([[[2.0, 1.0], [2.0, 3.0]]])
    output = layer_norm_2d(input, eps=0.0)
    torch.testing.assert_close(output, torchs(input, eps=0.0), equal_nan=True)
    assert output.isnan().tolist() == [[[True, False], [True, False]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("last", [False, True])
def test_what_is_not_finite_stays_in_its_row(value, last):
    input, weight, bias = norms.tensors(2, 9, 3, 35, dtype=torch.float32)
    input[1, 4, 2, 7] = value
    input = norms.channels_innermost(input) if last else input
    leaves = [tensor.requires_grad_() for tensor in (input, weight, bias)]
    output = layer_norm_2d(*leaves)
    lost = torch.zeros(2, 3, 35, dtype=torch.bool)
    lost[1, 2, 7] = True
    assert output.isnan().all(1).equal(lost)
    assert output.isnan().any(1).equal(lost)
    grad, grad_weight, grad_bias = torch.autograd.grad(output.sum(), leaves)
    assert grad.isnan().any(1).equal(lost)
    assert grad_weight.isnan().all()
    assert grad_bias.isfinite().all()


def test_any_layout_of_the_gradient():
    """pytorch#71465: a gradient of another memory order than the input's, a slice of channels, a crop."""
    input, weight, bias = norms.tensors(2, 12, 6, 7)
    direction = torch.randn(2, 12, 6, 7, dtype=torch.float64, generator=reseeded())
    for x in (input, norms.channels_innermost(input), input[:, ::2], input[..., 1:5], input[:, :, ::2]):
        channels = x.shape[1]
        leaves = [t.detach().requires_grad_() for t in (x, weight[:channels], bias[:channels])]
        for g in (direction, norms.channels_innermost(direction)):
            g = g[:, :channels, : x.shape[2], : x.shape[3]]
            ours = torch.autograd.grad(layer_norm_2d(*leaves), leaves, g)
            torch.testing.assert_close(ours, torch.autograd.grad(torchs(*leaves), leaves, g))
