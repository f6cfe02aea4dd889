"""A reassembly of features by predicted kernels: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import CARAFE, CARAFEPack, carafe
from handgrad.layers.carafe import carafe_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

INF = float("inf")


def tensors(batch, channels, height, width, kernel, groups, scale, dtype=torch.float64, seed=0):
    generator = reseeded(seed)
    shapes = (batch, channels, height, width), (batch, groups * kernel**2, height * scale, width * scale)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes)


def numbers(kernel, groups, scale):
    return {"kernel_size": kernel, "group_size": groups, "scale_factor": scale}


def sample(name, *sizes, seed=0):
    return Sample(name, tensors(*sizes, seed=seed), numbers(*sizes[4:]))


def bilinear():
    features, masks = tensors(2, 3, 4, 5, 3, 1, 2)
    torch.testing.assert_close(carafe(-2 * features, 3 * masks, 3, 1, 2), -6 * carafe(features, masks, 3, 1, 2))


def a_weight_of_one_moves():
    """Nearest neighbours, moved by the tap that counts."""
    features, masks = tensors(2, 3, 4, 5, 3, 1, 3)
    for tap, (down, right) in {4: (0, 0), 0: (-1, -1), 5: (0, 1), 7: (1, 0)}.items():
        chosen = torch.zeros_like(masks)
        chosen[:, tap] = 1
        moved = F.pad(features, [1] * 4)[:, :, 1 + down : 5 + down, 1 + right : 6 + right]
        torch.testing.assert_close(carafe(features, chosen, 3, 1, 3), F.interpolate(moved, scale_factor=3))


def equal_weights_are_an_average():
    features, masks = tensors(2, 4, 5, 6, 5, 2, 2)
    mean = F.interpolate(F.avg_pool2d(features, 5, 1, 2), scale_factor=2)
    torch.testing.assert_close(carafe(features, torch.full_like(masks, 1 / 25), 5, 2, 2), mean)


def numel_beyond_int32():
    # A number for each row and channel: nothing but the output is in memory, 4.8 GB of it.
    side, channels, scale = 2**10, 64, 6
    rows, planes = torch.arange(side).remainder(15).bfloat16(), torch.arange(channels).bfloat16()
    features = (rows[:, None] + planes[:, None, None])[None].expand(1, channels, side, side)
    weight = torch.full((1, 1, 1, 1), 2.0).bfloat16().expand(1, 1, side * scale, side * scale)
    output = carafe(features, weight, 1, 1, scale)
    assert output.numel() > 2**31
    for channel in (0, 17, 63):
        expected = 2 * features[0, channel, :, 0].repeat_interleave(scale)
        for column in (0, 1234, -1):
            assert torch.equal(output[0, channel, :, column], expected)


FEATURES, MASKS = tensors(2, 4, 3, 4, 3, 2, 2, dtype=torch.float32)

SPEC = OpSpec(
    name="carafe",
    operator="handgrad::carafe",
    function=carafe,
    reference=carafe_reference,
    module=CARAFE,
    samples=[
        sample("plain", 2, 2, 1, 3, 3, 1, 2),
        sample("groups", 2, 4, 2, 2, 3, 2, 1, seed=1),
        # A window larger than the image, of more taps in a row than a thread of a device has at a time.
        sample("wide", 1, 1, 2, 2, 7, 1, 1, seed=2),
        sample("large_scale", 2, 1, 1, 2, 1, 1, 3, seed=3),
    ],
    # More channels than are worked on at a time, more columns than a warp has.
    large=Sample("large", tensors(2, 62, 19, 37, 5, 2, 2, dtype=torch.float32, seed=4), numbers(5, 2, 2)),
    empty=[
        sample("no_batch", 0, 2, 2, 3, 3, 1, 2),
        sample("no_channels", 2, 0, 2, 2, 3, 2, 2),
        sample("no_pixels", 2, 2, 0, 3, 3, 1, 2),
    ],
    bad=[
        Bad("kernel", lambda: carafe(FEATURES, MASKS, 0, 2, 2), ValueError, "kernel_size must be .* at least 1"),
        Bad("even", lambda: carafe(FEATURES, MASKS, 4, 2, 2), ValueError, "carafe: kernel_size must be odd; got 4"),
        Bad("taps", lambda: carafe(FEATURES, MASKS, 1025, 2, 2), ValueError, "kernel_size must be .* at most 1023"),
        Bad("group", lambda: carafe(FEATURES, MASKS, 3, 0, 2), ValueError, "group_size must be .* at least 1"),
        Bad("scale", lambda: carafe(FEATURES, MASKS, 3, 2, 0), ValueError, "scale_factor must be .* at least 1"),
        Bad("float", lambda: carafe(FEATURES, MASKS, 3, 2, 2.0), TypeError, "scale_factor must be a whole number"),
        Bad("rank", lambda: carafe(FEATURES[0], MASKS, 3, 2, 2), RuntimeError, r"features must have 4 .* \(4, 3, 4\)"),
        Bad("masks", lambda: carafe(FEATURES, MASKS[0], 3, 2, 2), RuntimeError, "masks must have 4 dim"),
        Bad("divisor", lambda: carafe(FEATURES, MASKS, 3, 3, 2), RuntimeError, "group_size must .*divide .* 4; got 3"),
        Bad("taps_of_masks", lambda: carafe(FEATURES, MASKS, 5, 2, 2), RuntimeError, "masks must have shape .*5"),
        Bad("size", lambda: carafe(FEATURES, MASKS, 3, 2, 3), RuntimeError, r"masks must have shape .*\(2, 18, 6, 8\)"),
        Bad("dtypes", lambda: carafe(FEATURES, MASKS.double(), 3, 2, 2), RuntimeError, "masks must have the dtype of"),
        Bad("integers", lambda: carafe(FEATURES.long(), MASKS.long(), 3, 2, 2), RuntimeError, "features must be float"),
        Bad("module", lambda: CARAFE(2, 1, 2), ValueError, "CARAFE: kernel_size must be odd; got 2"),
        Bad("pack", lambda: CARAFEPack(4, 2, up_group=3), ValueError, "CARAFEPack: up_group must divide channels, 4"),
        Bad("encoder", lambda: CARAFEPack(4, 2, encoder_kernel=2), ValueError, "encoder_kernel must be odd; got 2"),
    ],
    identities={"bilinear": bilinear, "moves": a_weight_of_one_moves, "average": equal_weights_are_an_average},
    numel_beyond_int32=numel_beyond_int32,
    # Each row of taps loads its pixels again, from a cache, and 32 lanes the columns beside them: 1.47, 1.97 and 2.17
    # times.
    floor_factors={"forward": 1.5, "backward": 2.0, "double_backward": 2.2},
    device_calls={"backward": (2, 2, 0), "double_backward": (2, 2, 0)},
)

test_matrix = matrix(SPEC)


def by_unfold(features, masks, kernel, groups, scale):
    """How it is written without a kernel: the map enlarged, and all taps of all outputs of it in memory."""
    large = F.interpolate(features, scale_factor=scale, mode="nearest")
    taps = F.unfold(large, kernel, dilation=scale, padding=kernel // 2 * scale)
    taps = taps.unflatten(1, (groups, -1, kernel**2)).unflatten(-1, large.shape[2:])
    return (taps * masks.unflatten(1, (groups, 1, kernel**2))).sum(3).flatten(1, 2)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "sizes",
    [(2, 96, 9, 35, 5, 1, 2), (1, 40, 10, 6, 3, 2, 4), (1, 21, 5, 66, 7, 3, 1), (1, 18, 3, 4, 5, 1, 3)],
    ids=str,
)
def test_equals_the_unfolded_map(sizes, dtype, channels_last):
    results = []
    for function in (carafe, by_unfold):
        leaves = [
            t.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
            for t in tensors(*sizes, dtype=dtype)
        ]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        output = function(*leaves, *sizes[4:])
        direction = torch.randn(output.shape, dtype=dtype, generator=reseeded(5))
        results.append((output, *torch.autograd.grad(output, leaves, direction)))
    tolerances = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {}
    torch.testing.assert_close(results[0], results[1], **tolerances)


def test_equals_the_definition_pixel_by_pixel():
    """Equation 4, with mmcv's order of the weights: by group, then by row and column of the window."""
    (features, masks), (kernel, groups, scale) = tensors(1, 4, 3, 4, 3, 2, 2), (3, 2, 2)
    expected = torch.zeros(1, 4, 6, 8, dtype=torch.float64)
    for c in range(4):
        for y in range(6):
            for x in range(8):
                for i in range(kernel):
                    for j in range(kernel):
                        row, column = y // scale + i - 1, x // scale + j - 1
                        if 0 <= row < 3 and 0 <= column < 4:
                            tap = c // (4 // groups) * kernel**2 + i * kernel + j
                            expected[0, c, y, x] += masks[0, tap, y, x] * features[0, c, row, column]
    torch.testing.assert_close(carafe(features, masks, kernel, groups, scale), expected)


def test_layouts_have_the_same_bits():
    plain = tensors(2, 50, 6, 21, 5, 2, 2, dtype=torch.float32)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        leaves = [tensor.clone(memory_format=memory_format).requires_grad_() for tensor in plain]
        output = carafe(*leaves, 5, 2, 2)
        results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    for one, other in zip(*results, strict=True):
        assert one.is_contiguous()
        assert other.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one, other)


# ---- reports about other implementations -----------------------------------------------------------------------------


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16], ids=str)
def test_half_features_and_weights_of_a_softmax(low):
    """mmcv#1210, myownskyW7/CARAFE#6: under autocast a softmax gives float32, and "expected scalar type Half but found
    Float"."""
    pack = CARAFEPack(6, 2, compressed_channels=4)
    for features in (torch.rand(2, 6, 4, 5), torch.rand(2, 6, 4, 5).to(low)):
        features.requires_grad_()
        with torch.autocast("cpu", dtype=low):
            output = pack(features)
            alone = carafe(features, torch.rand(2, 9, 8, 10), 3, 1, 2)
        assert output.dtype is alone.dtype is features.dtype
        output.float().sum().backward()
        assert features.grad.dtype is features.dtype
    assert pack.to(low)(features.to(low)).dtype is low


def test_half_types_are_added_in_float32():
    """A window of 61 x 61 ones: a sum of float16 ends at 2,048. The gradient of a weight is one of 4,096 channels."""
    for dtype in (torch.float16, torch.bfloat16):
        features = torch.ones(1, 1, 64, 64, dtype=dtype)
        masks = torch.ones(1, 1, 1, 1, dtype=dtype).expand(1, 61 * 61, 64, 64)
        exact = torch.tensor(61.0 * 61).to(dtype)
        assert carafe(features, masks, 61, 1, 1)[0, 0, 31, 31] == exact
        weight = torch.ones(1, 1, 2, 2, dtype=dtype, requires_grad=True)
        carafe(torch.ones(1, 4096, 1, 1, dtype=dtype), weight, 1, 1, 2).sum().backward()
        assert weight.grad.eq(4096).all()


def test_weights_that_mmcv_has_no_room_for():
    """Its kernels keep a pixel's weights in 48 KB of shared memory: 384 of them, of 32 pixels."""
    sizes = (1, 32, 2, 3, 5, 16, 2)
    features, masks = tensors(*sizes)
    assert masks.shape[1] == 400
    torch.testing.assert_close(carafe(features, masks, 5, 16, 2), by_unfold(features, masks, 5, 16, 2))


def test_a_gradient_penalty():
    """mmcv's backward is not differentiable: "once_differentiable", or silently no gradient."""
    pack = CARAFEPack(3, 2, up_kernel=3, compressed_channels=2).double()
    torch.nn.init.normal_(pack.content_encoder.weight)
    x = torch.rand(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(pack(x).square().sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (pack.content_encoder.weight, pack.channel_compressor.weight))
    assert torch.autograd.gradgradcheck(pack, x)


def test_views_that_are_not_contiguous():
    """FreqFusion and others pass slices and transposed maps; mmcv reads them as though they were contiguous."""
    features, masks = tensors(2, 6, 8, 9, 3, 1, 2)
    wide = torch.randn(2, 6, 16, 18, dtype=torch.float64, generator=reseeded(6))
    views = wide[:, :, ::2, ::2], masks.flip(1).transpose(2, 3).contiguous().transpose(2, 3)
    assert not any(view.is_contiguous() for view in views)
    leaves = [view.detach().requires_grad_() for view in views]
    output = carafe(*leaves, 3, 1, 2)
    plain = [view.detach().contiguous().requires_grad_() for view in views]
    expected = carafe(*plain, 3, 1, 2)
    assert torch.equal(output, expected)
    # The gradient of an output that is expanded has strides of 0.
    ours, theirs = torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(expected.sum(), plain)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert features.shape == leaves[0].shape


def test_non_finite_features_reach_what_looks_at_them():
    features, masks = (tensor.abs() + 0.1 for tensor in tensors(1, 1, 4, 5, 3, 1, 2))
    features[0, 0, 1, 2] = INF
    seen = carafe(features, masks, 3, 1, 2)[0, 0].isinf()
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[0:6, 2:8] = True
    assert torch.equal(seen, expected)


def test_what_is_beyond_the_edges_counts_nothing():
    """Neither an infinite weight of it, nor, for that weight, an infinite gradient."""
    features, masks = tensors(1, 1, 2, 2, 3, 1, 1)
    masks[0, 0, 0, 0] = INF  # of the pixel above and to the left of the first
    masks.requires_grad_()
    features.requires_grad_()
    output = carafe(features, masks, 3, 1, 1)
    assert output.isfinite().all()
    torch.testing.assert_close(output, carafe_reference(features, masks, 3, 1, 1))
    direction = torch.tensor([[[[INF, 1.0], [1.0, 1.0]]]], dtype=torch.float64)
    _, of_masks = torch.autograd.grad(output, (features, masks), direction)
    assert of_masks[0, 0, 0, 0] == 0
    assert of_masks[0, 4, 0, 0].isinf()


# ---- CARAFEPack ------------------------------------------------------------------------------------------------------


def test_pack_takes_mmcvs_state_dict():
    pack = CARAFEPack(8, 2, up_kernel=3, up_group=2, encoder_kernel=5, encoder_dilation=2, compressed_channels=4)
    shapes = {name: tuple(tensor.shape) for name, tensor in pack.state_dict().items()}
    assert shapes == {
        "channel_compressor.weight": (4, 8, 1, 1),
        "channel_compressor.bias": (4,),
        "content_encoder.weight": (72, 4, 5, 5),
        "content_encoder.bias": (72,),
    }
    torch.nn.init.normal_(pack.content_encoder.weight, generator=reseeded())
    x = torch.rand(2, 8, 6, 7, generator=reseeded(1))
    logits = F.conv2d(
        F.conv2d(x, pack.channel_compressor.weight, pack.channel_compressor.bias),
        pack.content_encoder.weight,
        pack.content_encoder.bias,
        padding=4,
        dilation=2,
    )
    masks = F.pixel_shuffle(logits, 2).view(2, 2, 9, 12, 14).softmax(2).view(2, 18, 12, 14)
    torch.testing.assert_close(pack(x), by_unfold(x, masks, 3, 2, 2))
    assert "up_group=2" in repr(pack)


def test_pack_begins_with_averages():
    torch.manual_seed(0)
    x = torch.rand(1, 16, 9, 9)
    average = F.interpolate(F.avg_pool2d(x, 5, 1, 2), scale_factor=2)
    torch.testing.assert_close(CARAFEPack(16, 2)(x), average, rtol=0.05, atol=0.01)


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("free_sizes", [False, True], ids=["batch", "height_and_width"])
def test_pack_in_onnx(tmp_path, free_sizes):
    """onnx#2698, HVision-NKU/OffSeg#3: mmcv's is an operator that no runtime has."""
    import handgrad.onnx

    pack, path = CARAFEPack(4, 2, up_group=2, compressed_channels=3).eval(), tmp_path / "carafe.onnx"
    torch.nn.init.normal_(pack.content_encoder.weight, generator=reseeded())
    free = torch.export.Dim.DYNAMIC
    shapes = {"dynamic_shapes": ({0: free, 2: free, 3: free},)} if free_sizes else {}
    exported = handgrad.onnx.export(pack, torch.rand(2, 4, 5, 6), path, verify=True, **shapes)
    assert {node.domain for node in exported.program.model.graph} == {""}
    handgrad.onnx.verify(pack, path, torch.rand(3, 4, 7, 4) if free_sizes else torch.rand(3, 4, 5, 6))
