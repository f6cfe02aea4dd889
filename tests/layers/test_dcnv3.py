"""DCNv3: its spec, its module, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import handgrad.onnx
from deformed_groups import by_grid_sample, out_sizes, points_of, taps, tensors, window
from handgrad.layers import DCNv3, dcnv3
from handgrad.layers.dcnv3 import dcnv3_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")


def reference(input, offset, mask, **numbers):
    wide = torch.float64 if input.dtype is torch.float64 else torch.float32
    return dcnv3_reference(input, offset.to(wide), mask.to(wide), *numbers.values())


def sample(name, batch, height, width, dtype=torch.float64, seed=0, **kwargs):
    numbers = window(**kwargs)
    return Sample(name, tensors(batch, height, width, numbers, dtype, seed), numbers)


def is_a_convolution_without_offsets():
    """Masks that are the same everywhere are a depthwise convolution's weight, counted column by column."""
    numbers = window((2, 3), (2, 1), (1, 0), (1, 2), group=2, group_channels=3)
    image, offset, _ = tensors(2, 7, 8, numbers)
    weight = torch.randn(2, 6, dtype=torch.float64, generator=reseeded())
    mask = weight.flatten().expand(*offset.shape[:3], 12)
    taken = weight.view(2, 3, 2).transpose(1, 2).repeat_interleave(3, 0)[:, None]
    expected = F.conv2d(image.permute(0, 3, 1, 2), taken, None, (2, 1), (1, 0), (1, 2), groups=6)
    output = dcnv3(image, torch.zeros_like(offset), mask, **numbers)
    torch.testing.assert_close(output, expected.permute(0, 2, 3, 1))


def whole_offsets_are_shifts():
    numbers = window(1, pad=0, group=2, group_channels=3, offset_scale=2.0)
    image, offset, mask = tensors(2, 6, 7, numbers)
    shift = torch.tensor([0.5, -1.0], dtype=torch.float64).repeat(2).expand(offset.shape)
    output = dcnv3(image, shift, torch.ones_like(mask), **numbers)
    torch.testing.assert_close(output, F.pad(image, (0, 0, -1, 1, 2, -2)))


def linear_in_input_and_mask():
    numbers = window(group=3, group_channels=5, remove_center=True)
    image, offset, mask = tensors(2, 5, 6, numbers)
    plain = dcnv3(image, offset, mask, **numbers)
    torch.testing.assert_close(dcnv3(-2 * image, offset, mask, **numbers), -2 * plain)
    torch.testing.assert_close(dcnv3(image, offset, 3 * mask, **numbers), 3 * plain)


def numel_beyond_int32():
    # One row of numbers for all pixels: little but the output is in memory, 4.4 GB of it.
    side, width = 2**13, 33
    numbers = torch.arange(side).remainder(251).bfloat16()
    image = numbers.repeat(side).expand(1, 1, width, side * side)
    offset, mask = torch.zeros(1, 1, 1, 1).expand(1, 1, width, 2 * side), torch.ones(1, 1, 1, 1)
    call = window(1, pad=0, group=side, group_channels=side)
    output = dcnv3(image, offset, mask.expand(1, 1, width, side), **call)
    assert output.numel() > 2**31
    of_groups = output.view(width, side, side)
    for channel in (0, 77, side - 1):
        assert torch.equal(of_groups[:, :, channel], numbers[channel].expand(width, side))


SMALL = window(group=2, group_channels=2)
INPUT, OFFSET, MASK = tensors(2, 2, 3, SMALL, dtype=torch.float32)


def call(input=INPUT, offset=OFFSET, mask=MASK, **changes):
    return dcnv3(input, offset, mask, **{**SMALL, **changes})


SPEC = OpSpec(
    name="dcnv3",
    operator="handgrad::dcnv3",
    function=dcnv3,
    reference=reference,
    module=None,
    samples=[
        # (No size is 4: one graph for all batches begins with that many images, and takes equal sizes for one.)
        sample("groups", 2, 2, 3, kernel=(2, 1), pad=(1, 0), group=3, group_channels=2),
        sample("window", 1, 4, 5, kernel=3, stride=(2, 1), pad=(2, 0), dilation=(2, 1), offset_scale=1.5, seed=1),
        sample("without_center", 2, 2, 2, kernel=(3, 1), pad=(1, 0), group_channels=3, remove_center=True, seed=2),
        # More channels than a warp has lanes, and as many as have loops of their own on the CPU.
        sample("wide", 1, 2, 2, kernel=1, pad=0, group_channels=35, seed=3),
        sample("usual", 1, 2, 2, kernel=1, pad=0, group=2, group_channels=16, seed=4),
    ],
    large=sample("large", 3, 23, 29, torch.float32, 5, kernel=(3, 5), pad=(1, 2), group=3, group_channels=19),
    empty=[
        sample("no_batch", 0, 2, 3, group=2, group_channels=2),
        sample("no_points", 2, 2, 3, kernel=1, pad=0, group=2, group_channels=2, remove_center=True),
    ],
    bad=[
        Bad("rank", lambda: call(INPUT[0]), RuntimeError, "input must have 4 dimensions"),
        # DCNv4#99: the message has %d in the numbers' place there.
        Bad("channels", lambda: call(INPUT[..., :3]), RuntimeError, r"group \* group_channels channels.* got"),
        Bad("offset", lambda: call(offset=OFFSET[..., :-2]), RuntimeError, "offset must have shape"),
        Bad("offset_rows", lambda: call(offset=OFFSET[:, :1]), RuntimeError, "offset must have shape"),
        Bad("mask", lambda: call(mask=MASK[..., :-1]), RuntimeError, "mask must have shape"),
        Bad("dtype", lambda: call(offset=OFFSET.double()), TypeError, "offset must be of float32"),
        Bad("integers", lambda: call(mask=MASK.long()), TypeError, "mask must be of float32"),
        Bad("kernel", lambda: call(kernel_h=0), ValueError, "kernel_h must be a whole number, at least 1; got 0"),
        Bad("stride", lambda: call(stride_w=0), ValueError, "stride_w must be a whole number, at least 1; got 0"),
        Bad("pad", lambda: call(pad_h=-1), ValueError, "pad_h must be a whole number, at least 0; got -1"),
        Bad("dilation", lambda: call(dilation_w=1.5), TypeError, "dilation_w must be a whole number"),
        Bad("group", lambda: call(group=0), ValueError, "group must be a whole number, at least 1; got 0"),
        Bad("scale", lambda: call(offset_scale=NAN), ValueError, "offset_scale must be a finite number; got nan"),
        Bad("center", lambda: call(remove_center=2), TypeError, "remove_center must be True or False; got 2"),
        Bad("even", lambda: call(kernel_h=2, remove_center=True), ValueError, "remove_center must be False .* 2 x 3"),
        Bad("small", lambda: call(dilation_h=4), RuntimeError, "as large as the kernel, 9 x 3 .*; got 4 x 5"),
        Bad("module", lambda: DCNv3(10, group=4), ValueError, "channels must be a multiple of group, 4; got 10"),
        Bad("module_act", lambda: DCNv3(8, act_layer="Mish"), ValueError, "act_layer must be 'ReLU', 'SiLU' or 'GELU'"),
        Bad("module_norm", lambda: DCNv3(8, norm_layer="GN"), ValueError, "norm_layer must be 'LN' or 'BN'"),
        Bad("module_even", lambda: DCNv3(8, 2, remove_center=True), ValueError, "remove_center must be False"),
        Bad(
            "module_center",
            lambda: DCNv3(8, stride=2, center_feature_scale=True),
            ValueError,
            "center_feature_scale must be False where stride is not 1",
        ),
    ],
    identities={
        "convolution": is_a_convolution_without_offsets,
        "shifts": whole_offsets_are_shifts,
        "linear": linear_in_input_and_mask,
    },
    numel_beyond_int32=numel_beyond_int32,
    channels_last=False,
    lenient={"remove_center": lambda value: type(value) is int and value in (0, 1)},
    tolerances={
        # The gradient of an offset is a sum over 19 channels of differences of pixels, and a point is up to 30 pixels
        # from the image's corner, so that float32 tells points apart by 2e-6 pixels.
        torch.float32: (1e-4, 1e-4),
    },
    # Each output is made of the four corners of 15 points, 60 pixels from the cache where an input is read once: 14.5,
    # 16.5 and 26.3 times, with what tiles look at beside it.
    floor_factors={"forward": 15, "backward": 17, "double_backward": 27},
    device_calls={"backward": (2, 3, 0), "double_backward": (2, 3, 0)},
)

test_matrix = matrix(SPEC)

WINDOWS = [
    # InternImage's.
    (2, 14, 14, window(group=4, group_channels=16)),
    (1, 9, 13, window(5, pad=2, group=2, group_channels=16, offset_scale=0.5, remove_center=True)),
    # Groups of any number of channels, and any batch (InternImage#62, DCNv4#20): no power of two, no im2col_step.
    (5, 6, 7, window((3, 1), (2, 3), (1, 0), (2, 1), group=3, group_channels=5, offset_scale=2.0)),
    (1, 12, 10, window((2, 4), 1, (0, 3), (3, 2), group=1, group_channels=71)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("batch", "height", "width", "numbers"), WINDOWS)
def test_equals_grid_sample(batch, height, width, numbers, dtype):
    """Windows of any shape: OpenGVLab's PyTorch code pads height by pad_w and width by pad_h (InternImage#266)."""
    leaves = [tensor.requires_grad_() for tensor in tensors(batch, height, width, numbers, dtype)]
    results = []
    for function in (dcnv3, by_grid_sample):
        output = function(*leaves, **numbers)
        direction = torch.randn(output.shape, dtype=dtype, generator=reseeded())
        results.append((output, *torch.autograd.grad(output, leaves, direction)))
    # Points are rounded in another order there.
    tolerances = {"rtol": 1e-3, "atol": 1e-3} if dtype is torch.float32 else {}
    torch.testing.assert_close(results[0], results[1], **tolerances)


def test_equals_torchvisions_deformable_convolution():
    """With a weight of ones for each channel by itself; there taps go row by row, and offsets are y, x."""
    ops = pytest.importorskip("torchvision.ops", reason="nothing else here needs torchvision")
    numbers = window((3, 2), (1, 2), (2, 1), (1, 2), group=3, group_channels=4)
    image, offset, mask = tensors(2, 7, 9, numbers)
    theirs_offset = offset.unflatten(-1, (3, 2, 3, 2)).transpose(4, 5).flip(-1).flatten(3).permute(0, 3, 1, 2)
    theirs_mask = mask.unflatten(-1, (3, 2, 3)).transpose(4, 5).flatten(3).permute(0, 3, 1, 2)
    weight = torch.ones(12, 1, 3, 2, dtype=torch.float64)
    expected = ops.deform_conv2d(
        image.permute(0, 3, 1, 2), theirs_offset, weight, None, (1, 2), (2, 1), (1, 2), theirs_mask
    )
    torch.testing.assert_close(dcnv3(image, offset, mask, **numbers), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_half_input_beside_float32_points(low):
    """InternImage#245, tvdcn#4: types that do not go together, and reference points that a half type cannot hold."""
    numbers = window(group=4, group_channels=16)
    image, offset, mask = tensors(2, 9, 10, numbers, torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (image.to(low), offset, mask)]
    output = dcnv3(*leaves, **numbers)
    grads = torch.autograd.grad(output.sum(), leaves)
    assert output.dtype is low
    assert [grad.dtype for grad in grads] == [low, torch.float32, torch.float32]
    wide = [leaves[0].detach().float().requires_grad_(), *leaves[1:]]
    expected = dcnv3(*wide, **numbers)
    # Rounded once, at the end.
    torch.testing.assert_close(output, expected.to(low), rtol=0, atol=0)
    torch.testing.assert_close(grads[0], torch.autograd.grad(expected.sum(), wide[0], retain_graph=True)[0].to(low))
    torch.testing.assert_close(grads[1:], torch.autograd.grad(expected.sum(), wide[1:]))


def test_half_points_beside_half_input():
    """All of them in one type, as OpenGVLab's kernels have it."""
    numbers = window(group=2, group_channels=3)
    half = [tensor.half() for tensor in tensors(1, 5, 6, numbers)]
    expected = dcnv3(half[0].float(), half[1].float(), half[2].float(), **numbers)
    torch.testing.assert_close(dcnv3(*half, **numbers), expected.half(), rtol=0, atol=0)


@pytest.mark.parametrize("far", [INF, -INF, 1e30, -1e30, 3e9, 50.0])
def test_far_offsets_look_at_zeros(far):
    image, offset, mask = (tensor.clone() for tensor in (INPUT, OFFSET, MASK))
    offset[0, 0, 0, 3] = far
    without = mask.clone()
    without[0, 0, 0, 1] = 0
    leaves = [tensor.requires_grad_() for tensor in (image, offset, mask)]
    output = call(*leaves)
    torch.testing.assert_close(output, call(image, OFFSET, without))
    grads = torch.autograd.grad(output.sum(), leaves)
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[1][0, 0, 0, 2:4].eq(0).all()
    assert grads[2][0, 0, 0, 1] == 0


def test_nan_offset_is_nan_where_it_is_and_reaches_no_input():
    image, offset, mask = (tensor.clone() for tensor in (INPUT, OFFSET, MASK))
    offset[1, 1, 2, 18] = NAN  # the first point of the second group
    leaves = [tensor.requires_grad_() for tensor in (image, offset, mask)]
    output = call(*leaves)
    assert output.isnan().nonzero().tolist() == [[1, 1, 2, 2], [1, 1, 2, 3]]
    grad_input, grad_offset, grad_mask = torch.autograd.grad(output.sum(), leaves)
    assert grad_input.isfinite().all()
    assert grad_offset.isnan().nonzero().tolist() == [[1, 1, 2, 18], [1, 1, 2, 19]]
    assert grad_mask.isnan().nonzero().tolist() == [[1, 1, 2, 9]]


def test_beyond_the_edge_is_zero_whatever_the_other_groups_hold():
    """What lies beside a group's channels in memory is another's, here NaN: nothing of it is read, times 0 or not."""
    numbers = window(group=3, group_channels=2)
    image, offset, mask = tensors(1, 4, 4, numbers)
    image[..., :2] = image[..., 4:] = NAN
    output = dcnv3(image.requires_grad_(), offset, mask, **numbers)
    assert output[..., 2:4].isfinite().all()
    (grad,) = torch.autograd.grad(output.sum(), image)
    assert grad.isfinite().all()


def test_kinks_take_the_derivative_towards_larger_coordinates():
    """Without offsets, where training begins, every point is at the centre of a pixel, where the derivative jumps."""
    image = torch.tensor([1.0, 10.0, 100.0, 0.0], dtype=torch.float64).view(1, 1, 4, 1)
    offset = torch.zeros(1, 1, 4, 2, dtype=torch.float64, requires_grad=True)
    numbers = window(1, pad=0, offset_scale=3.0)
    output = dcnv3(image, offset, torch.ones(1, 1, 4, 1, dtype=torch.float64), **numbers)
    (grad,) = torch.autograd.grad(output.sum(), offset)
    assert grad[0, 0, :, 0].tolist() == [27.0, 270.0, -300.0, 0.0]


def test_rows_that_are_not_evenly_apart():
    """Slices of larger images, of offsets and masks, and of the gradient that comes back."""
    numbers = window(group=2, group_channels=3)
    plain = tensors(2, 5, 6, numbers)
    larger = [F.pad(tensor, (0, 3, 0, 2, 0, 1), value=NAN) for tensor in plain]
    sliced = [t[:, :5, :6, : p.shape[3]].requires_grad_() for t, p in zip(larger, plain, strict=True)]
    leaves = [tensor.clone().requires_grad_() for tensor in plain]
    direction = F.pad(torch.randn(2, 5, 6, 6, dtype=torch.float64, generator=reseeded()), (0, 0, 0, 3))[:, :, :6]
    outputs = dcnv3(*sliced, **numbers), dcnv3(*leaves, **numbers)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    grads = torch.autograd.grad(outputs[0], sliced, direction), torch.autograd.grad(outputs[1], leaves, direction)
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


# ---- the module ------------------------------------------------------------------------------------------------------


def module(**kwargs):
    """With parameters that are not those it begins with, for which nothing moves."""
    made = DCNv3(**{"channels": 12, "group": 3, **kwargs})
    generator = reseeded()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def written_out(made, image):
    """InternImage's layer, with the names of OpenGVLab's parameters."""
    state = made.state_dict()

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    projected = linear("input_proj", image)
    weight, pad = state["dw_conv.0.weight"], (state["dw_conv.0.weight"].shape[-1] - 1) // 2
    features = F.conv2d(
        image.permute(0, 3, 1, 2), weight, state["dw_conv.0.bias"], made.stride, pad, groups=made.channels
    )
    if "dw_conv.1.1.weight" in state:
        features = features.permute(0, 2, 3, 1)
        features = F.layer_norm(
            features, (made.channels,), state["dw_conv.1.1.weight"], state["dw_conv.1.1.bias"], 1e-6
        )
    else:
        names = ("running_mean", "running_var", "weight", "bias")
        features = F.batch_norm(features, *(state[f"dw_conv.1.0.{name}"] for name in names)).permute(0, 2, 3, 1)
    features = {"ReLU": F.relu, "SiLU": F.silu, "GELU": F.gelu}[type(made.dw_conv[2]).__name__](features)
    mask = linear("mask", features).unflatten(-1, (made.group, -1)).softmax(-1).flatten(-2)
    numbers = window(
        made.kernel_size,
        made.stride,
        made.pad,
        made.dilation,
        made.group,
        made.group_channels,
        made.offset_scale,
        made.remove_center,
    )
    output = by_grid_sample(projected, linear("offset", features), mask, **numbers)
    if "center_feature_scale_proj_weight" in state:
        weight, bias = (state[f"center_feature_scale_proj_{name}"] for name in ("weight", "bias"))
        scale = F.linear(features, weight, bias).sigmoid().repeat_interleave(made.group_channels, -1)
        output = output * (1 - scale) + projected * scale
    return linear("output_proj", output)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"kernel_size": 5, "pad": 2, "dw_kernel_size": 3, "remove_center": True, "offset_scale": 2.0},
        {"norm_layer": "BN", "act_layer": "ReLU", "center_feature_scale": True},
        # Offsets as many as outputs; OpenGVLab's are as many as inputs, and are read as if they were not (DCNv4#25).
        {"stride": 2, "act_layer": "SiLU"},
        {"kernel_size": 1, "pad": 0, "dilation": 2},
    ],
)
def test_module_is_internimages(kwargs):
    made = module(**kwargs).eval()
    image = torch.randn(2, 6, 7, 12, generator=reseeded(1))
    torch.testing.assert_close(made(image), written_out(made, image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm_layer", ["LN", "BN"])
def test_module_takes_the_state_dicts_of_opengvlabs(norm_layer):
    group, channels, points = 4, 64, 9
    norm = {"LN": {"1": nn.LayerNorm(channels)}, "BN": {"0": nn.BatchNorm2d(channels)}}[norm_layer]
    convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    theirs = nn.ModuleDict(
        {
            "dw_conv": nn.ModuleDict({"0": convolution, "1": nn.ModuleDict(norm)}),
            "offset": nn.Linear(channels, group * points * 2),
            "mask": nn.Linear(channels, group * points),
            "input_proj": nn.Linear(channels, channels),
            "output_proj": nn.Linear(channels, channels),
        }
    )
    theirs.register_parameter("center_feature_scale_proj_weight", nn.Parameter(torch.randn(group, channels)))
    theirs.register_parameter("center_feature_scale_proj_bias", nn.Parameter(torch.randn(group)))
    ours = DCNv3(norm_layer=norm_layer, center_feature_scale=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)


def test_initial_values_look_at_the_window_with_equal_masks():
    made = DCNv3(8, group=2)
    for parameter in (*made.offset.parameters(), *made.mask.parameters(), made.input_proj.bias, made.output_proj.bias):
        assert parameter.eq(0).all()
    image = torch.randn(1, 5, 6, 8, generator=reseeded())
    pooled = F.avg_pool2d(made.input_proj(image).permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(made(image), made.output_proj(pooled), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_module_under_autocast_and_in_half(low):
    """tvdcn#4, InternImage#245: offsets of another type than the input's, and the call fails."""
    made = module()
    image = torch.randn(2, 6, 7, 12, generator=reseeded(1))
    expected = made(image)
    with torch.autocast("cpu", dtype=low):
        output = made(image)
    assert output.dtype is low
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
    output.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())
    half = module().to(low)(image.to(low))
    assert half.dtype is low
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)


def test_module_trains_on_a_cpu():
    """InternImage#100, #222, #247: "Not implemented on the CPU"; second derivatives too."""
    made = module().double()
    image = torch.randn(1, 4, 5, 12, dtype=torch.float64, generator=reseeded(1), requires_grad=True)
    (grad,) = torch.autograd.grad(made(image).square().sum(), image, create_graph=True)
    grad.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in made.parameters())


@pytest.mark.tiers("whole")
def test_module_is_exported_in_standard_operators(tmp_path):
    """InternImage#32, #114, #239, #286: a file with an operator that nothing but a plugin of TensorRT reads."""
    pytest.importorskip("onnxruntime", reason="nothing else here needs it")
    onnx = pytest.importorskip("onnx", reason="nothing else here needs it")
    path = tmp_path / "dcnv3.onnx"
    handgrad.onnx.export(module().eval(), (torch.randn(2, 5, 6, 12),), path, verify=True)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "GridSample" in operators
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}


def test_points_go_column_by_column():
    """The order that checkpoints are trained in: x outer, y inner."""
    numbers = window(3, group=1, group_channels=1)
    assert taps(numbers)[:4].tolist() == [[-1, -1], [-1, 0], [-1, 1], [0, -1]]
    image = torch.zeros(1, 5, 5, 1)
    image[0, 3, 1] = 1  # below and to the left of the middle: the third point
    offset, mask = torch.zeros(1, 5, 5, 18), torch.zeros(1, 5, 5, 9)
    mask[..., 2] = 1
    assert dcnv3(image, offset, mask, **numbers).nonzero().tolist() == [[0, 2, 2, 0]]
    assert points_of(**numbers) == 9
    assert out_sizes(5, 5, **numbers) == (5, 5)
