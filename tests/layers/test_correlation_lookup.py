"""A lookup of correlations around points: its spec, its module, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import CorrBlock, correlation_lookup
from handgrad.layers.correlation_lookup import correlation_lookup_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")


def reference(fmap1, fmap2, coords, radius=4, num_levels=4):
    coords = coords.to(torch.float64 if fmap1.dtype is torch.float64 else torch.float32)
    assert num_levels == 1  # more are as many calls
    return correlation_lookup_reference(fmap1, fmap2, coords, radius)


def tensors(batch, channels, size, map_size, radius=1, levels=1, dtype=torch.float64, seed=0):
    """Both maps and points; none is nearer to a kink than 0.02 pixels of any level, and some windows are outside."""
    generator = reseeded(seed)
    one = torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator)
    other = torch.randn(batch, channels, *map_size, dtype=torch.float64, generator=generator)
    step = 2 ** (levels - 1)
    coords = []
    for extent in reversed(map_size):
        random = torch.rand(batch, *size, dtype=torch.float64, generator=generator)
        pixels = (random * (extent + 2 * radius + 2) - radius - 1).floor()
        coords.append(pixels + (0.1 + 0.8 * torch.rand(batch, *size, dtype=torch.float64, generator=generator)) / step)
    return tuple(tensor.to(dtype) for tensor in (one, other, torch.stack(coords, 1)))


def bilinear_in_maps():
    one, other, coords = tensors(2, 3, (3, 4), (5, 6))
    plain = correlation_lookup(one, other, coords, 1, 1)
    torch.testing.assert_close(correlation_lookup(-2 * one, 3 * other, coords, 1, 1), -6 * plain)


def whole_points_are_products_of_pixels():
    one, other, _ = tensors(2, 3, (4, 5), (4, 5))
    y, x = torch.meshgrid(torch.arange(4.0).double(), torch.arange(5.0).double(), indexing="ij")
    looked = correlation_lookup(one, other, torch.stack([x, y]).expand(2, -1, -1, -1), 1, 1)
    padded = F.pad(other, [1] * 4)
    for column in range(3):
        for row in range(3):
            product = (one * padded[:, :, row : row + 4, column : column + 5]).sum(1) / 3**0.5
            torch.testing.assert_close(looked[:, 3 * column + row], product)


def levels_are_calls():
    one, other, coords = tensors(2, 3, (3, 4), (5, 6), levels=2)
    both = correlation_lookup(one, other, coords, 1, 2)
    pooled = F.avg_pool2d(other, 2)
    parts = [correlation_lookup(one, other, coords, 1, 1), correlation_lookup(one, pooled, coords / 2, 1, 1)]
    torch.testing.assert_close(both, torch.cat(parts, 1))
    torch.testing.assert_close(both, correlation_lookup(one, [other, pooled], coords, 1))


def numel_beyond_int32():
    # One number for all channels and all pixels of a row: nothing but the output is in memory, 4.4 GB of it.
    height, width = 2**11, 2**10 + 80
    numbers = torch.arange(height).remainder(15).bfloat16()
    one = numbers.view(1, 1, height, 1).expand(1, 1, height, width)
    other = torch.full((1, 1, 1, 1), 2.0).bfloat16().expand(1, 1, 40, 40)
    output = correlation_lookup(one, other, torch.full((1, 2, 1, 1), 18.25).expand(1, 2, height, width), 15, 1)
    assert output.numel() > 2**31
    for k in (0, 480, 960):
        assert torch.equal(output[0, k], 2 * one[0, 0])


ONE, OTHER, COORDS = tensors(2, 3, (3, 4), (5, 6), dtype=torch.float32)

SPEC = OpSpec(
    name="correlation_lookup",
    operator="handgrad::correlation_lookup",
    function=correlation_lookup,
    reference=reference,
    module=None,
    samples=[
        Sample("one_level", tensors(2, 3, (2, 3), (3, 5)), {"radius": 1, "num_levels": 1}),
        Sample("point", tensors(2, 2, (2, 2), (2, 3), 0, seed=1), {"radius": 0, "num_levels": 1}),
        # More channels than a warp has lanes.
        Sample("wide", tensors(1, 33, (1, 2), (1, 2), 1, seed=2), {"radius": 1, "num_levels": 1}),
    ],
    large=Sample(
        "large",
        tensors(2, 37, (11, 37), (19, 23), 3, dtype=torch.float32, seed=4),
        {"radius": 3, "num_levels": 1},
    ),
    empty=[
        Sample("no_batch", tensors(0, 3, (3, 4), (5, 6)), {"radius": 1, "num_levels": 1}),
        Sample("no_channels", tensors(2, 0, (3, 4), (5, 6)), {"radius": 1, "num_levels": 1}),
        Sample("no_points", tensors(2, 3, (0, 4), (5, 6)), {"radius": 1, "num_levels": 1}),
        Sample("no_pixels", tensors(2, 3, (3, 4), (5, 0)), {"radius": 1, "num_levels": 1}),
    ],
    bad=[
        Bad("radius", lambda: correlation_lookup(ONE, OTHER, COORDS, -1), ValueError, "radius must be .* at least 0"),
        Bad("wide", lambda: correlation_lookup(ONE, OTHER, COORDS, 16), ValueError, "radius must be .* at most 15"),
        Bad("float", lambda: correlation_lookup(ONE, OTHER, COORDS, 1.5), TypeError, "radius must be a whole number"),
        Bad("levels", lambda: correlation_lookup(ONE, OTHER, COORDS, 1, 0), ValueError, "num_levels must be a whole"),
        Bad("halves", lambda: correlation_lookup(ONE, OTHER, COORDS, 1, 4), ValueError, "num_levels must be so few"),
        Bad("none", lambda: correlation_lookup(ONE, [], COORDS), ValueError, "fmap2 must have from 1 to 32 levels"),
        Bad("rank", lambda: correlation_lookup(ONE[0], OTHER, COORDS, 1, 1), RuntimeError, "fmap1 must have 4 dim"),
        Bad(
            "channels",
            lambda: correlation_lookup(ONE, OTHER[:, :2], COORDS, 1, 1),
            RuntimeError,
            "fmap2 must have the batch and the channels of fmap1",
        ),
        Bad("coords", lambda: correlation_lookup(ONE, OTHER, COORDS[:, :1], 1, 1), RuntimeError, "coords must have sh"),
        Bad(
            "coords_dtype",
            lambda: correlation_lookup(ONE, OTHER, COORDS.double(), 1, 1),
            TypeError,
            "coords must be of float32",
        ),
        Bad("dtypes", lambda: correlation_lookup(ONE, OTHER.half(), COORDS, 1, 1), RuntimeError, "fmap2 must have the"),
        Bad("module", lambda: CorrBlock(radius=16), ValueError, "CorrBlock: radius must be"),
        Bad("early", lambda: CorrBlock().index_pyramid(COORDS), RuntimeError, "build_pyramid must be called before"),
    ],
    identities={
        "bilinear": bilinear_in_maps,
        "whole": whole_points_are_products_of_pixels,
        "levels": levels_are_calls,
    },
    numel_beyond_int32=numel_beyond_int32,
    channels_last=False,
    # Each pixel reads a window of 64 pixels, from a cache; tiles of the second map's gradient read all points, and list
    # of what touches them the outputs' gradients, four for each product: 15.0, 21.8 and 48.6 times.
    floor_factors={"forward": 15.5, "backward": 22.5, "double_backward": 50},
    device_calls={"backward": (3, 3, 0), "double_backward": (3, 3, 0)},
)

test_matrix = matrix(SPEC)


@pytest.fixture
def raft():
    pytest.importorskip("torchvision", reason="torchvision does not load beside this torch")
    from torchvision.models.optical_flow import raft

    return raft


@pytest.mark.parametrize(("channels", "size", "radius"), [(16, (16, 23), 4), (71, (17, 16), 3)])
def test_equals_torchvisions_corr_block(raft, channels, size, radius):
    """All pairs, pooled, and grid_sample: what RAFT does with memory for it."""
    one, other, coords = tensors(2, channels, size, size, radius, 4)
    results = []
    for block in (raft.CorrBlock(num_levels=4, radius=radius), CorrBlock(num_levels=4, radius=radius)):
        leaves = [tensor.detach().requires_grad_() for tensor in (one, other)]
        block.build_pyramid(*leaves)
        output = block.index_pyramid(coords)
        direction = torch.randn(output.shape, dtype=torch.float64, generator=reseeded(7))
        results.append((output, *torch.autograd.grad(output, leaves, direction)))
        assert output.shape[1] == block.out_channels
    # Their points are between -1 and 1 in between.
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.tiers("whole")
def test_raft_runs_on_it(raft):
    torch.manual_seed(0)
    model = raft._raft(
        feature_encoder_layers=(8, 8, 12, 16, 16),
        feature_encoder_block=raft.ResidualBlock,
        feature_encoder_norm_layer=torch.nn.InstanceNorm2d,
        context_encoder_layers=(8, 8, 12, 16, 24),
        context_encoder_block=raft.ResidualBlock,
        context_encoder_norm_layer=torch.nn.BatchNorm2d,
        corr_block_num_levels=4,
        corr_block_radius=2,
        motion_encoder_corr_layers=(8, 8),
        motion_encoder_flow_layers=(8, 8),
        motion_encoder_out_channels=10,
        recurrent_block_hidden_state_size=16,
        recurrent_block_kernel_size=((1, 5), (5, 1)),
        recurrent_block_padding=((0, 2), (2, 0)),
        flow_head_hidden_size=8,
        use_mask_predictor=True,
    ).eval()
    images = torch.rand(2, 1, 3, 128, 136, generator=reseeded()) * 2 - 1
    expected = model(*images, num_flow_updates=2)[-1]
    model.corr_block = CorrBlock(num_levels=4, radius=2)
    torch.testing.assert_close(model(*images, num_flow_updates=2)[-1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("far", [INF, -INF, 1e30, -1e30, 3e9])
def test_far_points_see_zeros(far):
    one, other, coords = (tensor.clone() for tensor in (ONE, OTHER, COORDS))
    coords[0, 1, 1, 2] = far
    leaves = [tensor.requires_grad_() for tensor in (one, other, coords)]
    output = correlation_lookup(*leaves, 1, 1)
    assert output[0, :, 1, 2].eq(0).all()
    grads = torch.autograd.grad(output.sum(), leaves)
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0][0, :, 1, 2].eq(0).all()
    assert grads[2][0, :, 1, 2].eq(0).all()


def test_nan_point_is_nan_where_it_is_and_reaches_no_pixel():
    one, other, coords = (tensor.clone() for tensor in (ONE, OTHER, COORDS))
    coords[1, 0, 2, 3] = NAN
    leaves = [tensor.requires_grad_() for tensor in (one, other, coords)]
    output = correlation_lookup(*leaves, 1, 1)
    assert output.isnan().any(1).nonzero().tolist() == [[1, 2, 3]]
    grads = torch.autograd.grad(output.sum(), leaves)
    assert grads[0].isnan().any(1).nonzero().tolist() == [[1, 2, 3]]
    assert grads[1].isfinite().all()
    assert grads[2].isnan().any(1).nonzero().tolist() == [[1, 2, 3]]


def test_beyond_an_edge_are_zeros_whatever_lies_there_in_memory():
    memory = torch.full((1, 3, 7, 8), NAN)
    memory[:, :, 1:6, 1:7] = OTHER[:1]
    inner = memory[:, :, 1:6, 1:7]
    torch.testing.assert_close(
        correlation_lookup(ONE[:1], inner, COORDS[:1], 3, 1), correlation_lookup(ONE[:1], OTHER[:1], COORDS[:1], 3, 1)
    )


def test_half_maps_beside_float32_points():
    one, other, coords = tensors(2, 64, (5, 6), (7, 9), 2, dtype=torch.float32)
    for low in (torch.bfloat16, torch.float16):
        leaves = [tensor.requires_grad_() for tensor in (one.detach().to(low), other.detach().to(low), coords.detach())]
        output = correlation_lookup(*leaves, 2, 1)
        grads = torch.autograd.grad(output.sum(), leaves)
        assert [tensor.dtype for tensor in (output, *grads)] == [low, low, low, torch.float32]
        wide = correlation_lookup(leaves[0].detach().float(), leaves[1].detach().float(), coords, 2, 1)
        # Rounded once, at the end.
        torch.testing.assert_close(output, wide.to(low), rtol=0, atol=0)
