"""Deformable convolution: its spec, its modules, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import DeformConv2d, DeformConv2dPack, deform_conv2d
from handgrad.layers.deform_conv2d import deform_conv2d_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.testing.calls import deterministic_algorithms


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision", reason="torchvision does not load beside this torch")


def reference(input, offset, weight, bias=None, mask=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    pairs = (pair if isinstance(pair, tuple) else (pair, pair) for pair in (stride, padding, dilation))
    return deform_conv2d_reference(input, offset, weight, bias, mask, *(number for pair in pairs for number in pair))


def module_kwargs(sample):
    """What the module is made with, which has the weight and the bias itself."""
    input, _, weight = sample.tensors[:3]
    sizes = {"in_channels": input.shape[1], "out_channels": weight.shape[0], "kernel_size": tuple(weight.shape[2:])}
    return {**sizes, "groups": input.shape[1] // weight.shape[1], **sample.kwargs}


def tensors(input, weight, out, offset_groups=1, mask=True, dtype=torch.float64, spread=0.8, seed=0):
    """Input, offset, weight, bias and mask. No place that is looked at is nearer to a kink than 0.05 pixels."""
    generator = reseeded(seed)
    taps = weight[2] * weight[3]
    random = torch.randn(input[0], 2 * offset_groups * taps, *out, dtype=torch.float64, generator=generator) * spread
    offset = random.floor() + 0.05 + 0.9 * (random - random.floor())
    made = [
        torch.randn(input, dtype=torch.float64, generator=generator),
        offset,
        torch.randn(weight, dtype=torch.float64, generator=generator),
        torch.randn(weight[0], dtype=torch.float64, generator=generator),
    ]
    if mask:
        made.append(torch.rand(input[0], offset_groups * taps, *out, dtype=torch.float64, generator=generator) + 0.2)
    return tuple(tensor.to(dtype) for tensor in made)


def equals_convolution_without_offsets():
    input, offset, weight, bias, _ = tensors((2, 4, 6, 7), (6, 2, 3, 3), (4, 5))
    plain = deform_conv2d(input, torch.zeros_like(offset), weight, bias)
    torch.testing.assert_close(plain, F.conv2d(input, weight, bias, groups=2))


def whole_offsets_shift():
    input, offset, weight, bias, _ = tensors((2, 2, 6, 7), (3, 2, 1, 1), (6, 7))
    offset[:, 0], offset[:, 1] = 2.0, -1.0
    shifted = F.pad(input, (1, 0, 0, 2))[:, :, 2:, :7]
    torch.testing.assert_close(deform_conv2d(input, offset, weight, bias), F.conv2d(shifted, weight, bias))


def linear_in_mask_and_input():
    input, offset, weight, _, mask = tensors((2, 4, 5, 5), (2, 4, 2, 2), (4, 4), offset_groups=2)
    plain = deform_conv2d(input, offset, weight, mask=mask)
    torch.testing.assert_close(deform_conv2d(input, offset, weight, mask=3 * mask), 3 * plain)
    torch.testing.assert_close(deform_conv2d(-2 * input, offset, weight, mask=mask), -2 * plain)


def numel_beyond_int32():
    # One number for all: nothing but the output is in memory, 4.4 GB of it.
    side, channels = 2**13, 33
    input = torch.full((1, 1, 1, 1), 2.0, dtype=torch.bfloat16).expand(1, 1, side, side)
    offset = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16).expand(1, 2, side, side)
    weight = torch.arange(1.0, channels + 1).bfloat16().view(channels, 1, 1, 1)
    output = deform_conv2d(input, offset, weight)
    assert output.numel() > 2**31
    for channel in range(channels):
        assert output[0, channel].view(-1)[:: 2**14 + 1].eq(2.0 * (channel + 1)).all()
        assert output[0, channel, -1, -1] == 2.0 * (channel + 1)


SAMPLE = tensors((3, 2, 4, 3), (3, 2, 2, 1), (3, 3))
INPUT, OFFSET, WEIGHT, BIAS, MASK = (tensor.float() for tensor in SAMPLE)

SPEC = OpSpec(
    name="deform_conv2d",
    operator="handgrad::deform_conv2d",
    function=deform_conv2d,
    tensors=["input", "offset", "weight", "bias", "mask"],
    reference=reference,
    module=DeformConv2d,
    own=["weight", "bias"],
    module_kwargs=module_kwargs,
    samples=[
        Sample("modulated", SAMPLE, {"padding": (0, 0)}),
        Sample(
            "groups",
            tensors((2, 4, 3, 4), (2, 2, 1, 2), (3, 2), offset_groups=2, seed=1),
            {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 3)},
        ),
        Sample("version_1", tensors((2, 2, 3, 3), (2, 2, 2, 2), (2, 2), mask=False, seed=2), {"stride": 1}),
    ],
    large=Sample(
        "large",
        tensors((3, 6, 37, 41), (10, 3, 3, 3), (37, 41), offset_groups=2, dtype=torch.float32, spread=3.0),
        {"padding": 1},
    ),
    empty=[Sample("no_batch", tensors((0, 4, 5, 5), (2, 2, 3, 3), (3, 3)), {})],
    bad=[
        Bad(
            "stride",
            lambda: deform_conv2d(INPUT, OFFSET, WEIGHT, stride=0),
            ValueError,
            "stride must be a whole number, at least 1, or two of them; got 0",
        ),
        Bad("stride_float", lambda: deform_conv2d(INPUT, OFFSET, WEIGHT, stride=1.5), TypeError, "stride must be"),
        Bad("padding", lambda: deform_conv2d(INPUT, OFFSET, WEIGHT, padding=(0, -1)), ValueError, "padding must be"),
        Bad(
            "rank",
            lambda: deform_conv2d(INPUT[0], OFFSET, WEIGHT),
            RuntimeError,
            r"input must have 4 dim.* \(2, 4, 3\)",
        ),
        Bad(
            "offset_channels",
            lambda: deform_conv2d(INPUT, OFFSET[:, :3], WEIGHT),
            RuntimeError,
            "offset must have .* a multiple of 4; got 3",
        ),
        Bad(
            "offset_size",
            lambda: deform_conv2d(INPUT, OFFSET[..., :2], WEIGHT),
            RuntimeError,
            r"offset must have shape .* \(3, 4, 3, 3\); got \(3, 4, 3, 2\)",
        ),
        Bad(
            "offset_groups",
            lambda: deform_conv2d(INPUT, OFFSET.repeat(1, 3, 1, 1), WEIGHT),
            RuntimeError,
            "offset groups, 3, that divides the channels of input, 2",
        ),
        Bad(
            "mask_channels",
            lambda: deform_conv2d(INPUT, OFFSET, WEIGHT, mask=OFFSET),
            RuntimeError,
            r"mask must have shape .* \(3, 2, 3, 3\); got \(3, 4, 3, 3\)",
        ),
        Bad(
            "weight_channels",
            lambda: deform_conv2d(INPUT, OFFSET, WEIGHT.repeat(1, 2, 1, 1)),
            RuntimeError,
            "weight must have a number of channels, 4, that divides those of input, 2",
        ),
        Bad(
            "groups",
            lambda: deform_conv2d(INPUT, OFFSET, torch.ones(3, 1, 2, 1)),
            RuntimeError,
            "weight must have a multiple of 2 output channels.* got 3",
        ),
        Bad("bias", lambda: deform_conv2d(INPUT, OFFSET, WEIGHT, BIAS[:1]), RuntimeError, "bias must have shape"),
        Bad(
            "kernel_too_large",
            lambda: deform_conv2d(INPUT, OFFSET, torch.ones(2, 2, 5, 1)),
            RuntimeError,
            "input must, with its padding, be as large as the kernel, 5 x 1 .* got 4 x 3",
        ),
        Bad("dtype", lambda: deform_conv2d(INPUT, OFFSET.double(), WEIGHT), RuntimeError, "offset must have the dtype"),
        Bad("module_groups", lambda: DeformConv2d(3, 4, 3, groups=2), ValueError, "in_channels must be a multiple"),
        Bad("module_kernel", lambda: DeformConv2d(3, 4, 0), ValueError, "kernel_size must be a whole number"),
        Bad("pack_groups", lambda: DeformConv2dPack(3, 4, 3, deform_groups=2), ValueError, "deform_groups must divide"),
    ],
    identities={
        "convolution": equals_convolution_without_offsets,
        "shift": whole_offsets_shift,
        "linear": linear_in_mask_and_input,
    },
    numel_beyond_int32=numel_beyond_int32,
    # In one chunk; the products beside them are torch's.
    device_calls={"forward": (2, 3, 0), "backward": (5, 9, 0), "double_backward": (3, 8, 0)},
    optional=["bias", "mask"],
    # The matrices of a chunk, and the weight once more.
    device_scratch=(64 << 20) + (1 << 20),
    tolerances={
        # Weight gradients are sums over thousands of products of numbers near 1: what cancels leaves the rounding of
        # its largest terms behind.
        torch.float32: (1e-4, 1e-4),
    },
    # Columns are written for torch's matmul, and the four corners of a sample are read for each of its taps, from the
    # cache as a rule; so is a pixel for a corner that is none: 5.05, 4.38 and 5.38 times.
    floor_factors={"forward": 5.1, "backward": 4.5, "double_backward": 5.5},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(
    ("input", "weight", "offset_groups", "stride", "padding", "dilation"),
    [
        ((2, 4, 9, 7), (6, 4, 3, 3), 1, (1, 1), (1, 1), (1, 1)),
        ((1, 6, 20, 33), (4, 3, 2, 3), 3, (2, 1), (0, 2), (1, 2)),
        # The groups of the convolution and those of the offsets cut across each other.
        ((3, 6, 8, 8), (6, 2, 3, 1), 2, (1, 2), (2, 0), (2, 1)),
        # More images than torchvision's CUDA kernels take at once (pytorch/vision#2817, mmcv#1169).
        ((35, 2, 5, 5), (3, 2, 3, 3), 1, (1, 1), (1, 1), (1, 1)),
        ((2, 3, 40, 50), (4, 3, 1, 1), 1, (1, 1), (0, 0), (1, 1)),
    ],
)
def test_equals_torchvision(torchvision, input, weight, offset_groups, stride, padding, dilation, mask, dtype):
    out = [(input[d] + 2 * padding[d - 2] - dilation[d - 2] * (weight[d] - 1) - 1) // stride[d - 2] + 1 for d in (2, 3)]
    made = tensors(input, weight, out, offset_groups, mask, dtype, spread=4.0)
    leaves = [tensor.requires_grad_() for tensor in made]
    x, offset, w, bias, *masks = leaves
    results = []
    for function in (deform_conv2d, torchvision.ops.deform_conv2d):
        output = function(x, offset, w, bias, stride, padding, dilation, *masks)
        direction = torch.randn(output.shape, dtype=dtype, generator=reseeded())
        results.append((output, *torch.autograd.grad(output, leaves, direction)))
    tolerances = {"rtol": 1e-4, "atol": 1e-3} if dtype is torch.float32 else {}
    torch.testing.assert_close(results[0], results[1], **tolerances)


def test_kinks_take_the_derivative_towards_larger_coordinates():
    """At whole coordinates the derivative by the place jumps; ours, like torchvision's, is that of the next cell."""
    input = torch.tensor([[[[1.0, 10.0, 100.0]]]], dtype=torch.float64)
    for column, slope in ((-1.0, 1.0), (0.0, 9.0), (1.0, 90.0), (2.0, -100.0), (3.0, 0.0)):
        offset = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
        offset[0, 1, 0, 0] = column
        offset.requires_grad_()
        output = deform_conv2d(input, offset, torch.ones(1, 1, 1, 1, dtype=torch.float64))
        (grad,) = torch.autograd.grad(output[0, 0, 0, 0], offset)
        assert grad[0, 1, 0, 0] == slope, f"at {column}"


@pytest.mark.parametrize("far", [float("inf"), float("-inf"), 1e30, -1e30, 3e9])
def test_far_offsets_look_at_zeros(far):
    input, offset, weight, bias, mask = (t.float() for t in tensors((1, 2, 5, 5), (2, 2, 3, 3), (3, 3)))
    offset[0, 4] = far
    without = mask.clone()
    without[0, 2] = 0
    usual = offset.clone()
    usual[0, 4] = 0
    leaves = [t.clone().requires_grad_() for t in (input, offset, weight, bias, mask)]
    output = deform_conv2d(leaves[0], leaves[1], *leaves[2:4], mask=leaves[4])
    torch.testing.assert_close(output, deform_conv2d(input, usual, weight, bias, mask=without))
    grads = torch.autograd.grad(output.sum(), leaves)
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[1][0, 4:6].eq(0).all()


def test_nan_offset_is_nan_where_it_is_and_reaches_no_pixel():
    input, offset, weight, bias, mask = (t.float() for t in tensors((1, 2, 5, 5), (2, 2, 3, 3), (3, 3)))
    offset[0, 3, 1, 2] = float("nan")
    leaves = [t.clone().requires_grad_() for t in (input, offset)]
    output = deform_conv2d(leaves[0], leaves[1], weight, bias, mask=mask)
    assert output.isnan().nonzero().tolist() == [[0, 0, 1, 2], [0, 1, 1, 2]]
    grad_input, grad_offset = torch.autograd.grad(output.sum(), leaves)
    assert grad_input.isfinite().all()
    assert grad_offset[0, 2:4, 1, 2].isnan().all()
    assert grad_offset.isnan().sum() == 2


def test_module_is_torchvisions(torchvision):
    """The same initial values from the same seed, the same state dict (pytorch/vision#2128 asks for any batch)."""
    for bias in (True, False):
        torch.manual_seed(0)
        theirs = torchvision.ops.DeformConv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2, bias=bias)
        torch.manual_seed(0)
        ours = DeformConv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2, bias=bias)
        torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
        input, offset = torch.rand(2, 4, 9, 9), torch.randn(2, 12, 5, 5)
        mask = torch.rand(2, 6, 5, 5)
        torch.testing.assert_close(ours(input, offset, mask), theirs(input, offset, mask))
        assert "kernel_size=(3, 2)" in repr(ours)


def test_pack_takes_mmcvs_state_dict_and_channels(torchvision):
    """mmcv cuts conv_offset's output in three: y and x of the offsets together are its first two parts."""
    pack = DeformConv2dPack(4, 6, 3, padding=1, deform_groups=2)
    assert sorted(pack.state_dict()) == ["bias", "conv_offset.bias", "conv_offset.weight", "weight"]
    input = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(pack(input), F.conv2d(input, 0.5 * pack.weight, pack.bias, padding=1))
    with torch.no_grad():
        pack.conv_offset.weight.normal_(generator=reseeded())
    first, second, mask = pack.conv_offset(input).chunk(3, dim=1)
    expected = torchvision.ops.deform_conv2d(
        input, torch.cat([first, second], 1), pack.weight, pack.bias, padding=1, mask=mask.sigmoid()
    )
    torch.testing.assert_close(pack(input), expected)
    pack(input).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in pack.parameters())


def test_pack_under_autocast():
    """Reported of every other implementation: Half meets Float, and the call fails."""
    pack = DeformConv2dPack(4, 6, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = pack(torch.rand(2, 4, 5, 5).bfloat16())
    assert output.dtype is torch.bfloat16
    output.sum().backward()
    assert pack.weight.grad.dtype is torch.float32


def test_gradients_of_a_view_that_is_not_contiguous():
    """pytorch/vision#2560: backward asked for a view that the gradient's strides did not allow."""
    input, offset, weight, bias, mask = tensors((2, 4, 5, 5), (2, 4, 3, 3), (3, 3))
    input.requires_grad_()
    output = deform_conv2d(input, offset, weight, bias, mask=mask)
    direction = torch.randn(3, 3, 2, 2, dtype=torch.float64, generator=reseeded()).permute(3, 2, 0, 1)
    torch.testing.assert_close(
        torch.autograd.grad(output, input, direction, retain_graph=True),
        torch.autograd.grad(output, input, direction.contiguous()),
    )


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("mask", [False, True])
def test_onnx_of_groups(mask, tmp_path):
    import handgrad.onnx

    conv = DeformConv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2), groups=2)
    made = tensors((2, 4, 6, 7), (6, 2, 3, 2), (6, 3), offset_groups=2, dtype=torch.float32)
    args = (made[0], made[1], made[4]) if mask else (made[0], made[1])
    exported = handgrad.onnx.export(conv, args, tmp_path / "conv.onnx", verify=True)
    assert [node.op_type for node in exported.program.model.graph] == ["DeformConv"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_more_channels_than_a_slice_has(deterministic):
    """A device cuts channels into slices of eight where there are few positions; the last one is shorter."""
    tensors_of_many = tensors((2, 21, 3, 4), (4, 21, 2, 2), (4, 3))
    leaves = [[tensor.clone().requires_grad_() for tensor in tensors_of_many] for _ in range(2)]
    results = []
    for function, of in zip((deform_conv2d, reference), leaves, strict=True):
        with deterministic_algorithms(deterministic):
            output = function(*of[:4], mask=of[4], padding=(1, 0))
            results.append((output, *torch.autograd.grad(output.square().sum(), of)))
    torch.testing.assert_close(*results)


def test_bias_gradient_of_millions_of_positions():
    """Equal terms, of which a sum in float32 loses the more bits the larger it has become."""
    side = 2**11
    input, offset = torch.zeros(1, 1, 1, 1).expand(1, 1, side, side), torch.zeros(1, 1, 1, 1).expand(1, 2, side, side)
    bias = torch.zeros(1, requires_grad=True)
    output = deform_conv2d(input, offset, torch.ones(1, 1, 1, 1), bias)
    (grad,) = torch.autograd.grad(output, bias, torch.tensor(0.1).expand_as(output))
    torch.testing.assert_close(grad.double(), torch.tensor([0.1]).double() * side**2, rtol=1e-7, atol=0)


def test_deterministic_algorithms_give_the_same():
    """On a device another scatter is at work then, in the double backward too; on the CPU there is one for both."""
    made = [t.requires_grad_() for t in tensors((3, 4, 6, 7), (6, 2, 3, 3), (4, 5), offset_groups=2)]
    results = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            first = torch.autograd.grad(SPEC.call(*made).square().sum(), made, create_graph=True)
            results.append((*first, *torch.autograd.grad(sum(g.square().sum() for g in first), made)))
        finally:
            torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(results[0], results[1])
