"""DCNv4: its spec, its module, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import handgrad.onnx
from deformed_groups import by_grid_sample, packed, tensors, window
from handgrad.layers import DCNv4, dcnv4
from handgrad.layers.dcnv4 import dcnv4_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN = float("nan")


def reference(input, offset_mask, **numbers):
    wide = torch.float64 if input.dtype is torch.float64 else torch.float32
    return dcnv4_reference(input, offset_mask.to(wide), *numbers.values())


def packed_tensors(batch, height, width, numbers, dtype=torch.float64, seed=0, fill=True):
    image, offset, mask = tensors(batch, height, width, numbers, dtype, seed)
    # Masks of any sign: there is no softmax.
    return image, packed(offset, 3 * mask - 1.5, numbers, fill)


def sample(name, batch, height, width, dtype=torch.float64, seed=0, fill=True, **kwargs):
    numbers = window(**kwargs)
    return Sample(name, packed_tensors(batch, height, width, numbers, dtype, seed, fill), numbers)


def is_a_convolution_without_offsets():
    """Masks that are the same everywhere are a depthwise convolution's weight, counted column by column."""
    numbers = window((2, 3), (2, 1), (1, 0), (1, 2), group=2, group_channels=3)
    image, offset, _ = tensors(2, 7, 8, numbers)
    weight = torch.randn(2, 6, dtype=torch.float64, generator=reseeded())
    mask = weight.flatten().expand(*offset.shape[:3], 12)
    taken = weight.view(2, 3, 2).transpose(1, 2).repeat_interleave(3, 0)[:, None]
    expected = F.conv2d(image.permute(0, 3, 1, 2), taken, None, (2, 1), (1, 0), (1, 2), groups=6)
    output = dcnv4(image, packed(torch.zeros_like(offset), mask, numbers), **numbers)
    torch.testing.assert_close(output, expected.permute(0, 2, 3, 1))


def linear_in_input():
    numbers = window(group=3, group_channels=5, remove_center=True)
    image, offset_mask = packed_tensors(2, 5, 6, numbers)
    plain = dcnv4(image, offset_mask, **numbers)
    torch.testing.assert_close(dcnv4(-2 * image, offset_mask, **numbers), -2 * plain)


def what_fills_up_is_not_read():
    numbers = window(group=3, group_channels=2)
    image, filled = packed_tensors(2, 5, 6, numbers)
    assert filled.shape[-1] == 88
    filled = filled.clone()
    filled[..., 81:] = NAN
    filled.requires_grad_()
    output = dcnv4(image, filled, **numbers)
    torch.testing.assert_close(output, dcnv4(image, filled[..., :81], **numbers), rtol=0, atol=0)
    (grad,) = torch.autograd.grad(output.sum(), filled)
    assert grad[..., 81:].eq(0).all()
    assert grad[..., :81].isfinite().all()


def numel_beyond_int32():
    # One row of numbers for all pixels: little but the output is in memory, 4.4 GB of it.
    side, width = 2**13, 33
    numbers = torch.arange(side).remainder(251).bfloat16()
    image = numbers.repeat(side).expand(1, 1, width, side * side)
    offset_mask = torch.tensor([0.0, 0.0, 1.0]).repeat(side).expand(1, 1, width, 3 * side)
    call = window(1, pad=0, group=side, group_channels=side)
    output = dcnv4(image, offset_mask, **call)
    assert output.numel() > 2**31
    of_groups = output.view(width, side, side)
    for channel in (0, 77, side - 1):
        assert torch.equal(of_groups[:, :, channel], numbers[channel].expand(width, side))


SMALL = window(group=2, group_channels=2)
INPUT, OFFSET_MASK = packed_tensors(2, 2, 3, SMALL, torch.float32)


def call(input=INPUT, offset_mask=OFFSET_MASK, **changes):
    return dcnv4(input, offset_mask, **{**SMALL, **changes})


SPEC = OpSpec(
    name="dcnv4",
    operator="handgrad::dcnv4",
    function=dcnv4,
    reference=reference,
    module=None,
    samples=[
        # (No size is 4: one graph for all batches begins with that many images, and takes equal sizes for one.)
        sample("groups", 2, 2, 3, kernel=(2, 1), pad=(1, 0), group=3, group_channels=2),
        sample("window", 1, 4, 5, kernel=3, stride=(2, 1), pad=(2, 0), dilation=(2, 1), offset_scale=1.5, seed=1),
        sample(
            "not_filled", 2, 2, 2, kernel=(3, 1), pad=(1, 0), group_channels=3, remove_center=True, seed=2, fill=False
        ),
        # More channels than a warp has lanes.
        sample("wide", 1, 2, 2, kernel=1, pad=0, group_channels=35, seed=3),
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
        Bad(
            "offset_mask", lambda: call(offset_mask=OFFSET_MASK[..., :50]), RuntimeError, "offset_mask must have shape"
        ),
        Bad("rows", lambda: call(offset_mask=OFFSET_MASK[:, :1]), RuntimeError, "offset_mask must have shape"),
        Bad("dtype", lambda: call(offset_mask=OFFSET_MASK.double()), TypeError, "offset_mask must be of float32"),
        Bad("kernel", lambda: call(kernel_h=0), ValueError, "kernel_h must be a whole number, at least 1; got 0"),
        Bad("group", lambda: call(group=0), ValueError, "group must be a whole number, at least 1; got 0"),
        Bad("scale", lambda: call(offset_scale=NAN), ValueError, "offset_scale must be a finite number; got nan"),
        Bad("center", lambda: call(remove_center=2), TypeError, "remove_center must be True or False; got 2"),
        Bad("even", lambda: call(kernel_h=2, remove_center=True), ValueError, "remove_center must be False .* 2 x 3"),
        Bad("small", lambda: call(dilation_h=4), RuntimeError, "as large as the kernel, 9 x 3 .*; got 4 x 5"),
        Bad("module", lambda: DCNv4(10, group=4), ValueError, "channels must be a multiple of group, 4; got 10"),
        Bad("module_stride", lambda: DCNv4(8, stride=2), ValueError, "stride must be 1 where dw_kernel_size is None"),
        Bad(
            "module_shape",
            lambda: DCNv4(8)(torch.ones(1, 12, 8)),
            ValueError,
            "shape must be height and width .* no square; got None and 12 pixels",
        ),
        Bad(
            "module_shape_twice",
            lambda: DCNv4(8)(torch.ones(1, 3, 4, 8), (3, 4)),
            ValueError,
            "shape must be None where input has one of its own",
        ),
    ],
    identities={
        "convolution": is_a_convolution_without_offsets,
        "linear": linear_in_input,
        "filled_up": what_fills_up_is_not_read,
    },
    numel_beyond_int32=numel_beyond_int32,
    channels_last=False,
    lenient={"remove_center": lambda value: type(value) is int and value in (0, 1)},
    tolerances={
        # The gradient of an offset is a sum over 19 channels of differences of pixels, and a point is up to 30 pixels
        # from the image's corner, so that float32 tells points apart by 2e-6 pixels.
        torch.float32: (1e-4, 1e-4),
    },
    # Each output is made of the four corners of 15 points, 60 pixels from the cache where an input is read once: 14.4,
    # 16.4 and 26.2 times, with what tiles look at beside it.
    floor_factors={"forward": 15, "backward": 17, "double_backward": 27},
    device_calls={"backward": (2, 2, 0), "double_backward": (2, 2, 0)},
)

test_matrix = matrix(SPEC)


def by_grid_sample_packed(input, offset_mask, **numbers):
    group, channels = numbers["group"], offset_mask.shape[-1]
    points = numbers["kernel_h"] * numbers["kernel_w"] - int(numbers["remove_center"])
    grouped = offset_mask[..., : channels - channels % (3 * points * group)].unflatten(-1, (group, 3 * points))
    offset, mask = grouped[..., : 2 * points].flatten(3), grouped[..., 2 * points :].flatten(3)
    return by_grid_sample(input, offset, mask, **numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("batch", "height", "width", "numbers"),
    [
        (2, 7, 7, window(group=4, group_channels=32)),
        # Kernels other than 3 x 3 (DCNv4#33, #90), with a number of outputs that no block size divides (DCNv4#5).
        (1, 5, 13, window(1, pad=0, group=2, group_channels=16)),
        (1, 9, 8, window(5, pad=2, group=2, group_channels=16, offset_scale=0.5, remove_center=True)),
        # Groups of a number of channels that 16 does not divide, and a batch that im2col_step does not (DCNv4#20).
        (5, 6, 7, window((3, 1), (2, 3), (1, 0), (2, 1), group=3, group_channels=5, offset_scale=2.0)),
        # InternImage#280, DCNv4#46: 80 groups are more threads than a block has there.
        (1, 4, 4, window(group=80, group_channels=32)),
    ],
)
def test_equals_grid_sample(batch, height, width, numbers, dtype):
    leaves = [tensor.requires_grad_() for tensor in packed_tensors(batch, height, width, numbers, dtype)]
    results = []
    for function in (dcnv4, by_grid_sample_packed):
        output = function(*leaves, **numbers)
        direction = torch.randn(output.shape, dtype=dtype, generator=reseeded())
        results.append((output, *torch.autograd.grad(output, leaves, direction)))
    # Points are rounded in another order there.
    tolerances = {"rtol": 1e-3, "atol": 1e-3} if dtype is torch.float32 else {}
    torch.testing.assert_close(results[0], results[1], **tolerances)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_half_input_is_computed_in_float32(low):
    numbers = window(group=2, group_channels=16)
    leaves = [tensor.to(low).requires_grad_() for tensor in packed_tensors(2, 9, 10, numbers)]
    output = dcnv4(*leaves, **numbers)
    wide = [leaf.detach().float().requires_grad_() for leaf in leaves]
    expected = dcnv4(*wide, **numbers)
    # Rounded once, at the end.
    torch.testing.assert_close(output, expected.to(low), rtol=0, atol=0)
    grads = torch.autograd.grad(output.sum(), leaves)
    wanted = torch.autograd.grad(expected.sum(), wide)
    torch.testing.assert_close(grads, tuple(grad.to(low) for grad in wanted))


def test_nan_stays_with_its_group():
    image, offset_mask = INPUT.clone(), OFFSET_MASK.clone()
    offset_mask[1, 1, 2, 27] = NAN  # an offset of the second group
    leaves = [image.requires_grad_(), offset_mask.requires_grad_()]
    output = call(*leaves)
    assert output.isnan().nonzero().tolist() == [[1, 1, 2, 2], [1, 1, 2, 3]]
    grad_input, grad_offset_mask = torch.autograd.grad(output.sum(), leaves)
    assert grad_input.isfinite().all()
    assert grad_offset_mask.isnan().nonzero().tolist() == [[1, 1, 2, 27], [1, 1, 2, 28], [1, 1, 2, 27 + 18]]


# ---- the module ------------------------------------------------------------------------------------------------------


def module(**kwargs):
    """With parameters that are not those it begins with, for which nothing moves and nothing is looked at."""
    made = DCNv4(**{"channels": 12, "group": 3, **kwargs})
    generator = reseeded()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def written_out(made, image):
    """DCNv4's layer on (batch, height, width, channels), with the names of OpenGVLab's parameters."""
    state = made.state_dict()

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    projected = linear("value_proj", image) if "value_proj.weight" in state else image
    features = image
    if "offset_mask_dw.weight" in state:
        weight, bias = state["offset_mask_dw.weight"], state["offset_mask_dw.bias"]
        pad = (weight.shape[-1] - 1) // 2
        features = F.conv2d(image.permute(0, 3, 1, 2), weight, bias, made.stride, pad, groups=made.channels)
        features = features.permute(0, 2, 3, 1)
    sides = (made.kernel_size, made.stride, made.pad, made.dilation)
    numbers = window(*sides, made.group, made.group_channels, made.offset_scale, made.remove_center)
    output = by_grid_sample_packed(projected, linear("offset_mask", features), **numbers)
    if "center_feature_scale_proj_weight" in state:
        weight, bias = (state[f"center_feature_scale_proj_{name}"] for name in ("weight", "bias"))
        scale = F.linear(output, weight, bias).sigmoid().repeat_interleave(made.group_channels, -1)
        output = output * (1 - scale) + projected * scale
    return linear("output_proj", output) if "output_proj.weight" in state else output


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        # DCNv4#12: shapes that did not go together.
        {"center_feature_scale": True, "dw_kernel_size": 3, "output_bias": False},
        {"kernel_size": 5, "pad": 2, "remove_center": True, "offset_scale": 2.0, "without_pointwise": True},
        # DCNv4#25: with a stride it works by chance, or not.
        {"stride": 2, "dw_kernel_size": 3},
    ],
)
def test_module_is_opengvlabs(kwargs):
    made = module(**kwargs)
    image = torch.randn(2, 6, 7, 12, generator=reseeded(1))
    expected = written_out(made, image)
    torch.testing.assert_close(made(image), expected, rtol=1e-4, atol=1e-4)
    # DCNv4#57, #65: images as rows of pixels.
    torch.testing.assert_close(made(image.flatten(1, 2), (6, 7)), expected.flatten(1, 2), rtol=1e-4, atol=1e-4)


def test_module_takes_rows_of_a_square():
    made = module()
    image = torch.randn(2, 5, 5, 12, generator=reseeded(1))
    torch.testing.assert_close(made(image.flatten(1, 2)), made(image).flatten(1, 2))


def test_module_takes_the_state_dict_of_opengvlabs():
    group, channels = 4, 64
    theirs = nn.ModuleDict(
        {
            "offset_mask_dw": nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            # 108, filled up to a multiple of 8
            "offset_mask": nn.Linear(channels, 112),
            "value_proj": nn.Linear(channels, channels),
            "output_proj": nn.Linear(channels, channels, bias=False),
        }
    )
    theirs.register_parameter("center_feature_scale_proj_weight", nn.Parameter(torch.randn(group, channels)))
    theirs.register_parameter("center_feature_scale_proj_bias", nn.Parameter(torch.randn(group)))
    ours = DCNv4(dw_kernel_size=3, center_feature_scale=True, output_bias=False)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)


def test_initial_values_look_at_nothing_and_learn_to():
    """DCNv4#35: NaN in training. Masks of zero make an output of zero, with a gradient to the masks alone."""
    made = DCNv4(8, group=2, without_pointwise=True)
    image = torch.randn(1, 5, 6, 8, generator=reseeded())
    output = made(image)
    assert output.eq(0).all()
    (output - 1).square().sum().backward()
    grad = made.offset_mask.weight.grad
    assert grad.isfinite().all()
    of_groups = grad[:54].view(2, 27, 8)
    assert of_groups[:, :18].eq(0).all()
    assert of_groups[:, 18:].abs().min() > 0
    assert grad[54:].eq(0).all()


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_module_under_autocast_and_in_half(low):
    made = module()
    image = torch.randn(2, 6, 7, 12, generator=reseeded(1))
    expected = made(image)
    with torch.autocast("cpu", dtype=low):
        output = made(image)
    assert output.dtype is low
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.2)
    output.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())
    half = module().to(low)(image.to(low))
    assert half.dtype is low
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.2)


def test_module_trains_on_a_cpu():
    """DCNv4#67, #68: "Not implemented on the CPU"; second derivatives too."""
    made = module().double()
    image = torch.randn(1, 4, 5, 12, dtype=torch.float64, generator=reseeded(1), requires_grad=True)
    (grad,) = torch.autograd.grad(made(image).square().sum(), image, create_graph=True)
    grad.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in made.parameters())


@pytest.mark.tiers("whole")
def test_module_is_exported_in_standard_operators(tmp_path):
    """DCNv4#82, onnx#6489: no export at all."""
    pytest.importorskip("onnxruntime", reason="nothing else here needs it")
    onnx = pytest.importorskip("onnx", reason="nothing else here needs it")
    path = tmp_path / "dcnv4.onnx"
    handgrad.onnx.export(module().eval(), (torch.randn(2, 5, 6, 12),), path, verify=True)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "GridSample" in operators
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}
