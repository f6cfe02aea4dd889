"""A correlation of two feature maps: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import Correlation, correlation
from handgrad.layers.correlation import correlation_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

INF = float("inf")
NUMBERS = {
    "kernel_size": 1,
    "max_displacement": 1,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "dilation_patch": 1,
}


def reference(input1, input2, normalize=False, **numbers):
    pairs = [[n, n] if isinstance(n, int) else list(n) for n in (NUMBERS | numbers).values()]
    return correlation_reference(input1, input2, *pairs, normalize)


def tensors(*shape, dtype=torch.float64, seed=0):
    generator = reseeded(seed)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2))


def bilinear():
    one, other = tensors(2, 3, 5, 6)
    plain = correlation(one, other, max_displacement=2)
    torch.testing.assert_close(correlation(-2 * one, 3 * other, max_displacement=2), -6 * plain)


def exchanged_maps_exchange_displacements():
    """What one map has at a displacement, the other has at the opposite one, of the pixel there."""
    one, other = tensors(2, 3, 5, 6)
    there, back = correlation(one, other), correlation(other, one)
    torch.testing.assert_close(there[:, 0, 2, 1:, :-1], back[:, 2, 0, :-1, 1:])
    torch.testing.assert_close(there[:, 1, 1], back[:, 1, 1])


def a_window_is_a_sum_of_pixels():
    one, other = tensors(2, 3, 6, 7)
    volume = correlation(one, other, max_displacement=(1, 2)).flatten(1, 2)
    summed = 9 * F.avg_pool2d(volume, 3, stride=(1, 2), padding=1)
    window = correlation(one, other, 3, (1, 2), (1, 2), 1)
    torch.testing.assert_close(window.flatten(1, 2), summed)


def numel_beyond_int32():
    # One number for all pixels: nothing but the output is in memory, 4.5 GB of it.
    side = 2**13
    numbers = torch.arange(side).remainder(15).bfloat16()
    one = numbers.view(1, 1, side, 1).expand(1, 1, side, side)
    output = correlation(one, torch.full((1, 1, 1, 1), 2.0).bfloat16().expand(1, 1, side, side), 1, (0, 16))
    assert output.numel() > 2**31
    for displacement in (0, 16, 32):
        assert torch.equal(output[0, 0, displacement, :, 20], 2 * numbers)
        assert torch.equal(output[0, 0, displacement, :, -20], 2 * numbers)
    assert output[0, 0, 0, :, :16].eq(0).all()


ONE, OTHER = tensors(2, 3, 4, 5, dtype=torch.float32)

SPEC = OpSpec(
    name="correlation",
    operator="handgrad::correlation",
    function=correlation,
    reference=reference,
    module=Correlation,
    samples=[
        Sample("plain", tensors(2, 3, 3, 5), {}),
        Sample(
            "numbers",
            tensors(2, 2, 4, 5, seed=1),
            {
                "kernel_size": (2, 3),
                "max_displacement": (1, 2),
                "stride": (1, 2),
                "padding": (1, 2),
                "dilation": (2, 1),
                "dilation_patch": (2, 3),
                "normalize": True,
            },
        ),
        # Displacements that are no multiple of the stride, and farther from each other than a tile is wide.
        Sample(
            "far",
            tensors(2, 1, 3, 4, seed=2),
            {"max_displacement": (0, 1), "stride": (2, 3), "padding": 1, "dilation_patch": (1, 2000)},
        ),
    ],
    # More displacements than a thread of a device has at a time, and more channels than are added at a time.
    large=Sample("large", tensors(2, 21, 37, 41, dtype=torch.float32, seed=3), {"max_displacement": (1, 5)}),
    empty=[
        Sample("no_batch", tensors(0, 3, 4, 5), {}),
        Sample("no_channels", tensors(2, 0, 4, 5), {"normalize": True}),
        Sample("no_pixels", tensors(2, 3, 0, 5), {"padding": 1}),
    ],
    bad=[
        Bad("kernel", lambda: correlation(ONE, OTHER, 0), ValueError, "kernel_size must be a whole number, at least 1"),
        Bad(
            "displacement", lambda: correlation(ONE, OTHER, 1, -1), ValueError, "max_displacement must be .* at least 0"
        ),
        Bad("far", lambda: correlation(ONE, OTHER, 1, 4096), ValueError, "max_displacement must be .* at most 4095"),
        Bad("stride", lambda: correlation(ONE, OTHER, stride=(1, 0)), ValueError, "stride must be a whole number"),
        Bad("padding", lambda: correlation(ONE, OTHER, padding=-1), ValueError, "padding must be .* at least 0"),
        Bad("dilation", lambda: correlation(ONE, OTHER, dilation=0), ValueError, "dilation must be .* at least 1"),
        Bad(
            "patch", lambda: correlation(ONE, OTHER, dilation_patch=0), ValueError, "dilation_patch must be .* least 1"
        ),
        Bad("float", lambda: correlation(ONE, OTHER, max_displacement=1.5), TypeError, "max_displacement must be"),
        Bad("normalize", lambda: correlation(ONE, OTHER, normalize=None), TypeError, "normalize must be True or False"),
        Bad("rank", lambda: correlation(ONE[0], OTHER[0]), RuntimeError, r"input1 must have 4 dim.* \(3, 4, 5\)"),
        Bad("shapes", lambda: correlation(ONE, OTHER[:, :2]), RuntimeError, "input2 must have the shape of input1"),
        Bad("dtypes", lambda: correlation(ONE, OTHER.double()), RuntimeError, "input2 must have the .*dtype"),
        Bad("integers", lambda: correlation(ONE.long(), OTHER.long()), RuntimeError, "input1 must be float32"),
        Bad("small", lambda: correlation(ONE, OTHER, (5, 1)), RuntimeError, r"as large as the kernel, 5 rows; got"),
        Bad("module", lambda: Correlation(stride=0), ValueError, "Correlation: stride must be"),
    ],
    identities={
        "bilinear": bilinear,
        "exchanged": exchanged_maps_exchange_displacements,
        "window": a_window_is_a_sum_of_pixels,
    },
    numel_beyond_int32=numel_beyond_int32,
    channels_last=False,
    onnx=["plain", "far"],
    # Each vertical displacement and each group of horizontal ones reads the second map again, from a cache: 2.83, 3.26
    # and 4.02 times.
    floor_factors={"forward": 2.9, "backward": 3.3, "double_backward": 4.1},
    device_calls={"backward": (2, 2, 0), "double_backward": (2, 2, 0)},
)

test_matrix = matrix(SPEC)


def by_slices(input1, input2, radius, step=1):
    """How PWC-Net's ports compute it without a kernel: a product for each displacement."""
    far = radius * step
    padded, (height, width) = F.pad(input2, [far] * 4), input1.shape[2:]
    volume = [
        (input1 * padded[:, :, i : i + height, j : j + width]).sum(1)
        for i in range(0, 2 * far + 1, step)
        for j in range(0, 2 * far + 1, step)
    ]
    return torch.stack(volume, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("shape", "radius", "step"),
    [((2, 17, 13, 70), 4, 1), ((1, 40, 9, 33), 10, 2), ((1, 5, 40, 3), 3, 1), ((2, 8, 7, 150), 2, 7)],
)
def test_equals_a_product_for_each_displacement(shape, radius, step, dtype):
    results = []
    for function in (
        lambda a, b: correlation(a, b, max_displacement=radius, dilation_patch=step).flatten(1, 2),
        lambda a, b: by_slices(a, b, radius, step),
    ):
        leaves = [tensor.requires_grad_() for tensor in tensors(*shape, dtype=dtype)]
        output = function(*leaves)
        direction = torch.randn(output.shape, dtype=dtype, generator=reseeded(5))
        results.append((output, *torch.autograd.grad(output, leaves, direction)))
    tolerances = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {}
    torch.testing.assert_close(results[0], results[1], **tolerances)


def test_flownets_layer_is_ours_divided():
    """Its outputs begin max_displacement pixels within its padding: pad_size - max_displacement is ours. Both of its
    displacements are in pixels."""
    one, other = tensors(1, 2, 12, 13)
    pad_size, kernel, most, stride1, stride2 = 5, 3, 4, 2, 2
    border = most + kernel // 2
    padded = [F.pad(tensor, [pad_size] * 4) for tensor in (one, other)]
    out_h, out_w = (-(-(size + 2 * pad_size - 2 * border) // stride1) for size in one.shape[2:])
    expected = torch.zeros(1, 25, out_h, out_w, dtype=torch.float64)
    for y in range(out_h):
        for x in range(out_w):
            top, left = y * stride1 + most, x * stride1 + most
            window = padded[0][:, :, top : top + kernel, left : left + kernel]
            for d in range(25):
                row, column = top + (d // 5 - 2) * stride2, left + (d % 5 - 2) * stride2
                expected[0, d, y, x] = (window * padded[1][:, :, row : row + kernel, column : column + kernel]).mean()
    ours = correlation(one, other, kernel, most // stride2, stride1, pad_size - most, 1, stride2, normalize=True)
    torch.testing.assert_close(ours.flatten(1, 2), expected)


def test_channels_last_gradients_are_channels_last():
    plain = [tensor.requires_grad_() for tensor in tensors(2, 19, 6, 21, dtype=torch.float32)]
    last = [t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in plain]
    outputs = [correlation(*leaves, max_displacement=2) for leaves in (plain, last)]
    assert torch.equal(*outputs)
    grads = [
        torch.autograd.grad(output.square().sum(), leaves)
        for output, leaves in zip(outputs, (plain, last), strict=True)
    ]
    assert all(grad.is_contiguous(memory_format=torch.channels_last) for grad in grads[1])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


def test_non_finite_features_reach_what_looks_at_them():
    one, other = (tensor.abs() + 0.1 for tensor in tensors(1, 2, 5, 6))
    other[0, 1, 2, 3] = INF
    volume = correlation(one, other)
    seen = volume.isinf().nonzero()[:, 1:].tolist()
    # From each of nine pixels at the displacement that leads there.
    assert sorted(seen) == sorted([1 + i, 1 + j, 2 - i, 3 - j] for i in (-1, 0, 1) for j in (-1, 0, 1))
    assert not volume.isnan().any()
    one[0, 0, 0, 0] = INF
    # Beyond the edge are zeros, and infinity times zero is NaN, as it is of a padded map.
    assert correlation(one, other)[0, :, :, 0, 0].isnan().nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0]]


def test_half_types_are_added_in_float32():
    """4,096 channels of 1: sums of float16 end at 2,048, those of bfloat16 at 256."""
    for dtype in (torch.float16, torch.bfloat16):
        ones = torch.ones(1, 4096, 3, 4, dtype=dtype, requires_grad=True)
        volume = correlation(ones, ones.detach(), max_displacement=0)
        assert volume.eq(4096).all()
    assert correlation(ones, ones, max_displacement=1, normalize=True)[0, 1, 1].eq(1).all()
