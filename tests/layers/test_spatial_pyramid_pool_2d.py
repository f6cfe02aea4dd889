"""A spatial pyramid pooling: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import SpatialPyramidPool2d, spatial_pyramid_pool_2d
from handgrad.layers.spatial_pyramid_pool_2d import spatial_pyramid_pool_2d_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")


def reference(input, levels=(1, 2, 4), mode="max"):
    return spatial_pyramid_pool_2d_reference(input, list(levels), mode == "avg")


def image(*shape, dtype=torch.float64, seed=0):
    """All pixels of a plane are different, and stay so in half types."""
    generator = reseeded(seed)
    count = shape[2] * shape[3]
    order = torch.rand(shape[0] * shape[1], max(1, count), generator=generator).argsort(1)[:, :count]
    return ((order.double() - count // 2) / 8).reshape(shape).to(dtype)


def moves_with_its_input():
    input = image(2, 3, 7, 5)
    for mode in ("max", "avg"):
        moved = spatial_pyramid_pool_2d(3 * input + 1, (1, 3), mode)
        torch.testing.assert_close(moved, 3 * spatial_pyramid_pool_2d(input, (1, 3), mode) + 1)


def one_bin_is_global():
    input = image(2, 3, 7, 5)
    torch.testing.assert_close(spatial_pyramid_pool_2d(input, [1]), input.amax((2, 3)))
    torch.testing.assert_close(spatial_pyramid_pool_2d(input, [1], "avg"), input.mean((2, 3)))


def numel_beyond_int32():
    # One number for each channel: nothing but the output is in memory, 4.5 GB of it.
    channels = 2**11
    numbers = torch.arange(channels).remainder(251).bfloat16()
    input = numbers.view(1, channels, 1, 1).expand(260, channels, 2, 2)
    output = spatial_pyramid_pool_2d(input, (64,))
    assert output.numel() > 2**31
    for n in (0, 259):
        assert torch.equal(output[n].view(channels, -1)[:, ::1000], numbers[:, None].expand(-1, 5))


INPUT = image(2, 3, 4, 5, dtype=torch.float32)

SPEC = OpSpec(
    name="spatial_pyramid_pool_2d",
    operator="handgrad::spatial_pyramid_pool_2d",
    function=spatial_pyramid_pool_2d,
    reference=reference,
    module=SpatialPyramidPool2d,
    samples=[
        Sample("max", (image(2, 2, 3, 5),), {"levels": (1, 2)}),
        Sample("avg", (image(2, 2, 4, 3, seed=1),), {"levels": (2, 3), "mode": "avg"}),
        # Fewer pixels than bins.
        Sample("small", (image(2, 1, 2, 1, seed=2),), {"levels": (3, 1)}),
    ],
    large=Sample("large", (image(3, 37, 23, 29, dtype=torch.float32, seed=3),), {"levels": (1, 2, 3, 6)}),
    empty=[
        Sample("no_batch", (image(0, 3, 4, 5),), {"levels": (1, 2)}),
        Sample("no_channels", (image(2, 0, 4, 5),), {"levels": (1, 2), "mode": "avg"}),
    ],
    bad=[
        Bad("zero", lambda: spatial_pyramid_pool_2d(INPUT, (0, 1)), ValueError, "levels must be whole numbers, at lea"),
        Bad("float", lambda: spatial_pyramid_pool_2d(INPUT, (1, 1.5)), TypeError, "levels must be whole numbers"),
        Bad("number", lambda: spatial_pyramid_pool_2d(INPUT, 3), TypeError, "levels must be a sequence of whole num"),
        Bad("none", lambda: spatial_pyramid_pool_2d(INPUT, ()), ValueError, "levels must be from 1 to 16"),
        Bad("many", lambda: spatial_pyramid_pool_2d(INPUT, (91,)), ValueError, "levels must be .* of 8192 bins"),
        Bad("mode", lambda: spatial_pyramid_pool_2d(INPUT, (1,), "sum"), ValueError, "mode must be"),
        Bad("mode_none", lambda: spatial_pyramid_pool_2d(INPUT, (1,), None), TypeError, "mode must be"),
        Bad("rank", lambda: spatial_pyramid_pool_2d(INPUT[0]), RuntimeError, r"input must have 4 dim.* \(3, 4, 5\)"),
        Bad("no_pixel", lambda: spatial_pyramid_pool_2d(INPUT[:, :, :0]), RuntimeError, "input must have at least one"),
        Bad("integers", lambda: spatial_pyramid_pool_2d(INPUT.long()), RuntimeError, "input must be float32"),
        Bad("module", lambda: SpatialPyramidPool2d((0,)), ValueError, "SpatialPyramidPool2d: levels must be"),
    ],
    identities={"moves": moves_with_its_input, "global": one_bin_is_global},
    numel_beyond_int32=numel_beyond_int32,
    channels_last=False,
    # Each of the four levels reads the input, from a cache after the first: 4.41, 2.77 and 1.53 times.
    floor_factors={"forward": 4.5, "backward": 2.85, "double_backward": 1.6},
    # Asked for the second derivative with respect to the input, which is 0.
    device_calls={"double_backward": (0, 1, 0)},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("size", [(13, 13), (10, 7), (1, 1), (2, 40), (5, 3)])
def test_equals_adaptive_pools(size, mode):
    levels = (1, 2, 3, 6, 4)
    pool = F.adaptive_max_pool2d if mode == "max" else F.adaptive_avg_pool2d
    results = []
    for function in (
        lambda x: spatial_pyramid_pool_2d(x, levels, mode),
        lambda x: torch.cat([pool(x, level).flatten(1) for level in levels], 1),
    ):
        # Equal pixels too: whose is the gradient?
        input = torch.randint(0, 4, (2, 19, *size), generator=reseeded()).double().requires_grad_()
        output = function(input)
        direction = torch.randn(output.shape, dtype=torch.float64, generator=reseeded(1))
        results.append((output, *torch.autograd.grad(output, input, direction)))
    torch.testing.assert_close(results[0], results[1])


def test_nan_reaches_its_bins_and_infinity_is_a_number():
    input = INPUT.clone()
    input[0, 1, 0, 0] = NAN
    input[1, 2, 3, 4] = INF
    for mode in ("max", "avg"):
        output = spatial_pyramid_pool_2d(input, (1, 2), mode)
        # Channel 1 of the first level, and its first bin of the second.
        assert output.isnan().nonzero().tolist() == [[0, 1], [0, 7]]
        assert output.isinf().nonzero().tolist() == [[1, 2], [1, 14]]
    leaf = input.requires_grad_()
    (grad,) = torch.autograd.grad(spatial_pyramid_pool_2d(leaf, (1, 2)).sum(), leaf)
    assert grad.isfinite().all()
    assert grad[0, 1, 0, 0] == 2


def test_channels_last_is_read_and_kept():
    plain = image(2, 19, 6, 5, dtype=torch.float32).requires_grad_()
    last = plain.detach().to(memory_format=torch.channels_last).requires_grad_()
    outputs = [spatial_pyramid_pool_2d(leaf, (1, 2, 4)) for leaf in (plain, last)]
    assert torch.equal(*outputs)
    grads = [torch.autograd.grad(output.square().sum(), x)[0] for output, x in zip(outputs, (plain, last), strict=True)]
    assert grads[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*grads)
