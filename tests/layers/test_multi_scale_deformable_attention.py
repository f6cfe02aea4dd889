"""Multi-scale deformable attention: its spec, its module, and what is peculiar to it."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handgrad.layers import MultiScaleDeformableAttention, multi_scale_deformable_attention
from handgrad.layers.multi_scale_deformable_attention import multi_scale_deformable_attention_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")


def starts_of(shapes):
    starts = [0]
    for height, width in shapes[:-1]:
        starts.append(starts[-1] + height * width)
    return starts


def reference(value, sampling_locations, attention_weights, spatial_shapes, level_start_index=None):
    wide = torch.float64 if value.dtype is torch.float64 else torch.float32
    locations, weights = sampling_locations.to(wide), attention_weights.to(wide)
    flat = [size for shape in spatial_shapes for size in shape]
    starts = starts_of(spatial_shapes) if level_start_index is None else level_start_index
    return multi_scale_deformable_attention_reference(value, locations, weights, flat, starts)


def by_grid_sample(value, shapes, locations, weights):
    """What Deformable DETR, mmcv and Hugging Face do without their kernels, in one way or another."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    samples = []
    for level, part in enumerate(value.split([height * width for height, width in shapes], 1)):
        image = part.flatten(2).transpose(1, 2).reshape(batch * heads, channels, *shapes[level])
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples.append(F.grid_sample(image, grid, align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, len(shapes) * points)
    output = (torch.stack(samples, -2).flatten(-2) * weights).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2)


def tensors(batch, queries, heads, channels, shapes, points, positions=None, dtype=torch.float64, seed=0):
    """Value, locations and weights; no point is nearer to a kink than 0.05 pixels, and some are outside."""
    generator = reseeded(seed)
    count = positions or sum(height * width for height, width in shapes)
    sizes = torch.tensor([[width, height] for height, width in shapes], dtype=torch.float64)[:, None]
    random = torch.rand(batch, queries, heads, len(shapes), points, 2, dtype=torch.float64, generator=generator)
    pixels = random * (sizes + 2) - 1.5
    pixels = pixels.floor() + 0.05 + 0.9 * (pixels - pixels.floor())
    made = (
        torch.randn(batch, count, heads, channels, dtype=torch.float64, generator=generator),
        (pixels + 0.5) / sizes,
        torch.rand(batch, queries, heads, len(shapes), points, dtype=torch.float64, generator=generator) + 0.1,
    )
    return tuple(tensor.to(dtype) for tensor in made)


def linear_in_value_and_weights():
    shapes = [(5, 6), (2, 3)]
    value, locations, weights = tensors(2, 7, 3, 5, shapes, 4)
    plain = multi_scale_deformable_attention(value, shapes, locations, weights)
    torch.testing.assert_close(multi_scale_deformable_attention(-2 * value, shapes, locations, weights), -2 * plain)
    torch.testing.assert_close(multi_scale_deformable_attention(value, shapes, locations, 3 * weights), 3 * plain)


def centres_of_pixels_are_the_pixels():
    shapes = [(3, 4)]
    value = torch.randn(2, 12, 1, 5, dtype=torch.float64, generator=reseeded())
    y, x = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    locations = (
        torch.stack([(x + 0.5) / 4, (y + 0.5) / 3], -1).double().view(1, 12, 1, 1, 1, 2).expand(2, -1, 1, 1, 1, 2)
    )
    output = multi_scale_deformable_attention(value, shapes, locations, torch.ones(2, 12, 1, 1, 1).double())
    torch.testing.assert_close(output, value.view(2, 12, 5))


def levels_add_up():
    shapes = [(5, 6), (2, 3), (1, 1)]
    value, locations, weights = tensors(2, 7, 3, 5, shapes, 2)
    whole = multi_scale_deformable_attention(value, shapes, locations, weights)
    parts = zip(value.split([30, 6, 1], 1), shapes, locations.split(1, 3), weights.split(1, 3), strict=True)
    torch.testing.assert_close(whole, sum(multi_scale_deformable_attention(v, [s], x, w) for v, s, x, w in parts))


def numel_beyond_int32():
    # One number for all positions and channels of a head: nothing but the output is in memory, 4.4 GB of it.
    side, queries = 2**13, 33
    numbers = torch.arange(side).remainder(251).bfloat16()
    value = numbers.view(1, 1, side, 1).expand(1, 4, side, side)
    locations = torch.full((1, 1, 1, 1, 1, 1), 0.25).expand(1, queries, side, 1, 1, 2)
    weights = torch.ones(1, 1, 1, 1, 1).expand(1, queries, side, 1, 1)
    output = multi_scale_deformable_attention(value, [(2, 2)], locations, weights)
    assert output.numel() > 2**31
    of_heads = output.view(queries, side, side)
    for channel in (0, 77, side - 1):
        assert torch.equal(of_heads[:, :, channel], numbers.expand(queries, -1))


TWO = [(2, 3), (1, 2)]
VALUE, LOCATIONS, WEIGHTS = tensors(2, 3, 2, 2, TWO, 2, dtype=torch.float32)


def call(value=VALUE, shapes=TWO, locations=LOCATIONS, weights=WEIGHTS, starts=None):
    return multi_scale_deformable_attention(value, shapes, locations, weights, starts)


SPEC = OpSpec(
    name="multi_scale_deformable_attention",
    operator="handgrad::multi_scale_deformable_attention",
    function=multi_scale_deformable_attention,
    tensors=["value", "sampling_locations", "attention_weights"],
    reference=reference,
    module=None,
    samples=[
        Sample("two_levels", tensors(2, 3, 2, 2, TWO, 2), {"spatial_shapes": TWO}),
        Sample(
            "gaps",
            tensors(2, 2, 1, 3, [(1, 3), (2, 2)], 1, positions=10, seed=1),
            {"spatial_shapes": [(1, 3), (2, 2)], "level_start_index": [1, 5]},
        ),
        # More channels than a warp has lanes.
        Sample("wide", tensors(2, 2, 1, 35, [(1, 2)], 2, seed=2), {"spatial_shapes": [(1, 2)]}),
    ],
    large=Sample(
        "large",
        tensors(3, 101, 3, 35, [(37, 41), (13, 11), (5, 3)], 3, dtype=torch.float32, seed=3),
        {"spatial_shapes": [(37, 41), (13, 11), (5, 3)]},
    ),
    empty=[
        Sample("no_batch", tensors(0, 3, 2, 2, TWO, 2), {"spatial_shapes": TWO}),
        Sample("no_queries", tensors(2, 0, 2, 2, TWO, 2), {"spatial_shapes": TWO}),
        Sample("no_points", tensors(2, 3, 2, 2, TWO, 0), {"spatial_shapes": TWO}),
        Sample("no_heads", tensors(2, 3, 0, 2, TWO, 2), {"spatial_shapes": TWO}),
        Sample("no_channels", tensors(2, 3, 2, 0, TWO, 2), {"spatial_shapes": TWO}),
    ],
    bad=[
        Bad("shapes", lambda: call(shapes=[(2, 3), (1, 3)]), ValueError, "as many pixels as value .* 8; got 9"),
        Bad("shape", lambda: call(shapes=[(2, 3), (0, 2)]), ValueError, "spatial_shapes must be a height and a width"),
        Bad("no_shapes", lambda: call(shapes=[]), ValueError, "spatial_shapes must be .*, and of one level at least"),
        Bad("shapes_flat", lambda: call(shapes=[2, 3, 1, 2]), TypeError, "spatial_shapes must be a height and a width"),
        Bad("shapes_float", lambda: call(shapes=torch.tensor([[2.0, 3.0]])), TypeError, "a tensor of torch.float32"),
        Bad("levels", lambda: call(shapes=[(4, 2)]), RuntimeError, r"sampling_locations must have shape .* 1, 2, 2\)"),
        Bad("starts", lambda: call(starts=[0]), ValueError, "level_start_index must have a number for .* 2; got 1"),
        Bad("starts_overlap", lambda: call(starts=[0, 5]), RuntimeError, "level_start_index .* at least 6 .* got 5"),
        Bad("starts_beyond", lambda: call(starts=[1, 7]), RuntimeError, "positions of value, 8; got level 1"),
        Bad("starts_float", lambda: call(starts=[0, 6.5]), TypeError, "level_start_index must be a whole number"),
        Bad("rank", lambda: call(value=VALUE[0]), RuntimeError, "value must have 4 dimensions"),
        Bad("two", lambda: call(locations=LOCATIONS[..., :1]), RuntimeError, "sampling_locations must have shape"),
        Bad("weights", lambda: call(weights=WEIGHTS[:, :2]), RuntimeError, "attention_weights must have shape"),
        Bad(
            "many_levels",
            lambda: multi_scale_deformable_attention(
                torch.ones(1, 33, 1, 1), [(1, 1)] * 33, torch.ones(1, 1, 1, 33, 1, 2), torch.ones(1, 1, 1, 33, 1)
            ),
            RuntimeError,
            "level_start_index must have from 1 to 32 levels; got 33",
        ),
        Bad("dtype", lambda: call(locations=LOCATIONS.double()), TypeError, "sampling_locations must be of float32"),
        Bad("integers", lambda: call(weights=WEIGHTS.long()), TypeError, "attention_weights must be of float32"),
        Bad("module", lambda: MultiScaleDeformableAttention(10, 4), ValueError, "embed_dims must be a multiple"),
        Bad("module_int", lambda: MultiScaleDeformableAttention(8.5), TypeError, "embed_dims must be a whole number"),
        Bad(
            "module_batch_first",
            lambda: MultiScaleDeformableAttention(batch_first=None),
            TypeError,
            "batch_first must be True or False",
        ),
    ],
    identities={
        "linear": linear_in_value_and_weights,
        "centres": centres_of_pixels_are_the_pixels,
        "levels": levels_add_up,
    },
    numel_beyond_int32=numel_beyond_int32,
    channels_last=False,
    shards=[((0, 0, 0), 0), ((None, 1, 1), 1)],
    lenient={"level_start_index": lambda value: value is None},
    tolerances={
        # A location is one of 41 pixels, so that float32 tells points apart by 2e-6 pixels; the gradient of a location
        # is 41 times a sum over 35 channels of differences of pixels, around 250.
        torch.float32: (1e-4, 2e-3),
    },
    # Four corners of each sample are read where a value is read once, from the cache as a rule; locations once for each
    # 32 channels, here two times, and once more by each tile of their level for the gradient of the value: 2.10, 2.79
    # and 3.96 times.
    floor_factors={"forward": 2.2, "backward": 2.9, "double_backward": 4.1},
    device_calls={"backward": (2, 3, 0), "double_backward": (2, 3, 0)},
)

test_matrix = matrix(SPEC)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("batch", "queries", "heads", "channels", "shapes", "points"),
    [
        # Batches that 64, the usual im2col_step of the others, does not divide (Deformable-DETR#224, LLMDet#52).
        (154, 2, 1, 8, [(3, 2), (2, 1)], 1),
        (80, 1, 2, 3, [(2, 2)], 2),
        (1, 50, 8, 32, [(16, 12), (8, 6), (4, 3), (2, 2)], 4),
        # Channels that are no power of two, and more samples than a warp has lanes.
        (2, 20, 3, 71, [(9, 7), (5, 4), (3, 2)], 13),
        (2, 300, 2, 16, [(30, 20)], 4),
    ],
)
def test_equals_grid_sample(batch, queries, heads, channels, shapes, points, dtype):
    leaves = [t.requires_grad_() for t in tensors(batch, queries, heads, channels, shapes, points, dtype=dtype)]
    results = []
    for function in (multi_scale_deformable_attention, by_grid_sample):
        output = function(leaves[0], shapes, *leaves[1:])
        direction = torch.randn(output.shape, dtype=dtype, generator=reseeded())
        results.append((output, *torch.autograd.grad(output, leaves, direction)))
    # Locations are rounded in another order there, and their gradients are that many pixels' differences.
    tolerances = {"rtol": 1e-3, "atol": 2e-3} if dtype is torch.float32 else {}
    torch.testing.assert_close(results[0], results[1], **tolerances)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_half_values_beside_float32_points(low):
    """mmcv#2878, mmcv#2011, DINO#59: no kernel for them; and under autocast a softmax is in float32."""
    shapes = [(16, 12), (8, 6)]
    value, locations, weights = tensors(2, 30, 2, 32, shapes, 4, dtype=torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (value.to(low), locations, weights)]
    output = multi_scale_deformable_attention(leaves[0], shapes, *leaves[1:])
    grads = torch.autograd.grad(output.sum(), leaves)
    assert output.dtype is low
    assert [grad.dtype for grad in grads] == [low, torch.float32, torch.float32]
    wide = [leaves[0].detach().float().requires_grad_(), *leaves[1:]]
    expected = multi_scale_deformable_attention(wide[0], shapes, *wide[1:])
    # Rounded once, at the end.
    torch.testing.assert_close(output, expected.to(low), rtol=0, atol=0)
    torch.testing.assert_close(grads[0], torch.autograd.grad(expected.sum(), wide[0], retain_graph=True)[0].to(low))
    torch.testing.assert_close(grads[1:], torch.autograd.grad(expected.sum(), wide[1:]))


def test_half_sums_of_many_samples_do_not_overflow():
    """65,536 samples that weigh 1 in all: float16 sums would be infinite, or stand still."""
    value = torch.full((1, 4, 1, 2), 256.0, dtype=torch.float16)
    locations, weights = torch.full((1, 1, 1, 1, 65536, 2), 0.5), torch.full((1, 1, 1, 1, 65536), 2.0**-16)
    output = multi_scale_deformable_attention(value, [(2, 2)], locations, weights)
    assert output.eq(256).all()


@pytest.mark.parametrize("far", [INF, -INF, 1e30, -1e30, 3e9, 1.5])
def test_far_locations_look_at_zeros(far):
    """Of the others some read beyond their memory (mmcv#1724, GroundingDINO#410)."""
    value, locations, weights = (tensor.clone() for tensor in (VALUE, LOCATIONS, WEIGHTS))
    locations[0, 0, 0, 1, 0, 1] = far
    without = weights.clone()
    without[0, 0, 0, 1, 0] = 0
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    output = multi_scale_deformable_attention(value, TWO, locations, weights)
    torch.testing.assert_close(output, multi_scale_deformable_attention(value, TWO, LOCATIONS, without))
    grads = torch.autograd.grad(output.sum(), leaves)
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[1][0, 0, 0, 1, 0].eq(0).all()
    assert grads[2][0, 0, 0, 1, 0] == 0


def test_nan_location_is_nan_where_it_is_and_reaches_no_value():
    value, locations, weights = (tensor.clone() for tensor in (VALUE, LOCATIONS, WEIGHTS))
    locations[1, 2, 0, 1, 1, 0] = NAN
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    output = multi_scale_deformable_attention(value, TWO, locations, weights)
    assert output.isnan().nonzero().tolist() == [[1, 2, 0], [1, 2, 1]]
    grad_value, grad_locations, grad_weights = torch.autograd.grad(output.sum(), leaves)
    assert grad_value.isfinite().all()
    assert grad_locations.isnan().nonzero().tolist() == [[1, 2, 0, 1, 1, 0], [1, 2, 0, 1, 1, 1]]
    assert grad_weights.isnan().nonzero().tolist() == [[1, 2, 0, 1, 1]]


def test_padding_is_zeros_whatever_lies_beside_it():
    """What is beyond a level's edge is another level in memory, here of NaN: nothing of it is read, times 0 or not."""
    value = torch.full((1, 9, 1, 3), NAN)
    value[:, 4:5] = 2.0
    locations = torch.tensor([[0.1, 0.9], [0.5, 0.5], [1.2, 0.3]]).view(1, 1, 1, 1, 3, 2)
    leaves = [value.requires_grad_(), locations.requires_grad_()]
    output = multi_scale_deformable_attention(value, [(1, 1)], locations, torch.ones(1, 1, 1, 1, 3), [4])
    torch.testing.assert_close(output[0, 0], torch.full((3,), 2 * (0.6 * 0.6 + 1 + 0.3 * 0.8)))
    grad_value, grad_locations = torch.autograd.grad(output.sum(), leaves)
    assert grad_locations.isfinite().all()
    assert grad_value[0, :, 0, 0].nonzero().tolist() == [[4]]


def test_kinks_take_the_derivative_towards_larger_coordinates():
    """At the centres of pixels, where an encoder's points are when training begins, the derivative jumps."""
    value = torch.tensor([1.0, 10.0, 100.0, 0.0], dtype=torch.float64).view(1, 4, 1, 1)
    weights = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    for column, slope in ((-1, 1.0), (0, 9.0), (1, 90.0), (2, -100.0), (3, 0.0), (4, 0.0)):
        x = (column + 0.5) / 4
        locations = torch.tensor([x, 0.5], dtype=torch.float64).view(1, 1, 1, 1, 1, 2).requires_grad_()
        output = multi_scale_deformable_attention(value, [(1, 4)], locations, weights)
        (grad,) = torch.autograd.grad(output.sum(), locations)
        assert grad.flatten()[0] == 4 * slope, f"at {column}"


def test_shapes_and_starts_may_be_tensors():
    expected = call()
    shapes, starts = torch.tensor(TWO), torch.tensor([0, 6])
    for given in (shapes, shapes.int(), [torch.Size(shape) for shape in TWO], tuple(map(list, TWO))):
        torch.testing.assert_close(call(shapes=given), expected, rtol=0, atol=0)
    torch.testing.assert_close(call(shapes=shapes, starts=starts), expected, rtol=0, atol=0)


def test_positions_in_no_level_have_no_gradient():
    value, locations, weights = tensors(1, 40, 2, 3, [(2, 2), (3, 1)], 2, positions=12)
    value.requires_grad_()
    output = multi_scale_deformable_attention(value, [(2, 2), (3, 1)], locations, weights, [2, 7])
    (grad,) = torch.autograd.grad(output.square().sum(), value)
    nothing = grad[0].abs().sum((1, 2)).eq(0).nonzero().flatten()
    assert nothing.tolist() == [0, 1, 6, 10, 11]


@pytest.mark.tiers("whole")
def test_more_positions_than_int32_counts():
    side = 46341
    value = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64).expand(1, side * side, 1, 1)
    locations = torch.tensor([[1 - 0.6 / side, 1 - 0.6 / side], [0.5, 0.5]]).double().view(1, 1, 1, 1, 2, 2)
    output = multi_scale_deformable_attention(value, [(side, side)], locations, torch.ones(1, 1, 1, 1, 2).double())
    torch.testing.assert_close(output, torch.full((1, 1, 1), 6.0).double())


# ---- the module ------------------------------------------------------------------------------------------------------


def attention(**kwargs):
    """With parameters that are not those it begins with, for which all queries are one."""
    module = MultiScaleDeformableAttention(12, num_heads=3, num_levels=2, num_points=2, **kwargs)
    generator = reseeded()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module


SHAPES = [(4, 5), (2, 3)]


def module_inputs(coordinates=2, batch=2, queries=7):
    generator = reseeded(1)
    query = torch.randn(batch, queries, 12, generator=generator)
    points = torch.rand(batch, queries, 2, coordinates, generator=generator)
    return query, points, torch.randn(batch, 26, 12, generator=generator)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_module_is_the_papers(coordinates, masked):
    """Written out with the parameters' names of all three libraries."""
    module = attention()
    query, points, value = module_inputs(coordinates)
    mask = torch.rand(2, 26, generator=reseeded()) < 0.3 if masked else None
    state = module.state_dict()

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    projected = linear("value_proj", value)
    if masked:
        projected = torch.where(mask[..., None], 0.0, projected)
    offsets = linear("sampling_offsets", query).view(2, 7, 3, 2, 2, 2)
    weights = linear("attention_weights", query).view(2, 7, 3, 4).softmax(-1).view(2, 7, 3, 2, 2)
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(SHAPES):
        base, size = points[:, :, None, level, None, :2], torch.tensor([width, height])
        step = points[:, :, None, level, None, 2:] / 2 / 2 if coordinates == 4 else 1 / size
        locations[:, :, :, level] = base + offsets[:, :, :, level] * step
    expected = linear("output_proj", by_grid_sample(projected.view(2, 26, 3, 4), SHAPES, locations, weights))
    torch.testing.assert_close(module(query, points, value, SHAPES, padding_mask=mask), expected, rtol=1e-4, atol=1e-4)
    given = (torch.tensor(SHAPES), torch.tensor([0, 20]), mask)
    torch.testing.assert_close(module(query, points, value, *given), expected, rtol=1e-4, atol=1e-4)


def test_module_with_queries_first_is_the_same():
    first, second = attention(), attention(batch_first=False)
    second.load_state_dict(first.state_dict())
    query, points, value = module_inputs()
    output = second(query.transpose(0, 1), points, value.transpose(0, 1), SHAPES)
    torch.testing.assert_close(output.transpose(0, 1), first(query, points, value, SHAPES))
    assert repr(first).startswith("MultiScaleDeformableAttention(\n  12, num_heads=3, num_levels=2, num_points=2\n")
    assert "batch_first=False" in repr(second)


def test_module_takes_the_state_dicts_of_the_others():
    """Deformable DETR's MSDeformAttn, mmcv's MultiScaleDeformableAttention and Hugging Face's have these names."""
    samples, dims = 8 * 4 * 4, 256
    theirs = nn.ModuleDict(
        {
            "sampling_offsets": nn.Linear(dims, samples * 2),
            "attention_weights": nn.Linear(dims, samples),
            "value_proj": nn.Linear(dims, dims),
            "output_proj": nn.Linear(dims, dims),
        }
    )
    module = MultiScaleDeformableAttention()
    module.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(dict(module.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("coordinates", [2, 4])
def test_module_is_hugging_faces(coordinates):
    transformers = pytest.importorskip("transformers", reason="nothing here needs transformers but this test")
    from transformers.models.deformable_detr import modeling_deformable_detr

    config = transformers.DeformableDetrConfig(d_model=12, num_feature_levels=2, disable_custom_kernels=True)
    theirs = modeling_deformable_detr.DeformableDetrMultiscaleDeformableAttention(config, num_heads=3, n_points=2)
    ours = attention()
    theirs.load_state_dict(ours.state_dict())
    query, points, value = module_inputs(coordinates)
    mask = torch.rand(2, 26, generator=reseeded()) < 0.3
    expected = theirs(
        hidden_states=query,
        attention_mask=~mask,
        encoder_hidden_states=value,
        reference_points=points,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=SHAPES,
        level_start_index=torch.tensor([0, 20]),
    )[0]
    torch.testing.assert_close(ours(query, points, value, SHAPES, padding_mask=mask), expected, rtol=1e-4, atol=1e-4)


def test_initial_values_are_deformable_detrs():
    """Heads look in directions around a square, points at whole distances, and all weigh the same."""
    module = MultiScaleDeformableAttention(16, num_heads=8, num_levels=2, num_points=3)
    bias = module.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    for head, (x, y) in enumerate([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]):
        for point in range(3):
            expected = torch.tensor([x, y]).float() * (point + 1)
            torch.testing.assert_close(bias[head, :, point], expected.expand(2, 2), atol=1e-6, rtol=1e-6)
    for parameter in (module.sampling_offsets.weight, *module.attention_weights.parameters(), module.value_proj.bias):
        assert parameter.eq(0).all()
    for linear in (module.value_proj, module.output_proj):
        assert 0 < linear.weight.abs().max() <= math.sqrt(6 / 32)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_module_under_autocast_and_in_half(low):
    """mmdetection#6082, mmcv#2167: the tensors' types do not go together, and the call fails."""
    module = attention()
    query, points, value = module_inputs()
    expected = module(query, points, value, SHAPES)
    with torch.autocast("cpu", dtype=low):
        output = module(query, points, value, SHAPES)
    assert output.dtype is low
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.3)
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    half = attention().to(low)
    output = half(query.to(low), points.to(low), value.to(low), SHAPES)
    assert output.dtype is low
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.3)


def test_module_refuses_what_does_not_fit():
    module = attention()
    query, points, value = module_inputs()
    with pytest.raises(ValueError, match="spatial_shapes must have num_levels, 2, of them; got 1"):
        module(query, points, value, SHAPES[:1])
    with pytest.raises(RuntimeError, match=r"reference_points must have shape .* got \(2, 7, 2, 3\)"):
        module(query, torch.rand(2, 7, 2, 3), value, SHAPES)


@pytest.mark.tiers("whole")
def test_module_compiles():
    module = attention()
    compiled = torch.compile(module, fullgraph=True)
    for queries in (7, 9):
        query, points, value = module_inputs(queries=queries)
        torch.testing.assert_close(compiled(query, points, value, SHAPES), module(query, points, value, SHAPES))


# ---- ONNX ------------------------------------------------------------------------------------------------------------


class _Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = attention()

    def forward(self, query, points, value):
        return self.attention(query, points, value, SHAPES)


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("avoided", [(), ("GridSample",)], ids=["grid_sample", "gather"])
def test_onnx_by_either_road(avoided, tmp_path):
    """TensorRT computes GridSample wrongly (vision#9260, TensorRT#4646): the other road is without."""
    import handgrad.onnx

    with handgrad.onnx.without(*avoided):
        exported = handgrad.onnx.export(_Attending(), module_inputs(batch=1), tmp_path / "attention.onnx", verify=True)
    operators = [node.op_type for node in exported.program.model.graph]
    assert operators.count("GridSample") == (0 if avoided else 2)


@pytest.mark.tiers("whole")
def test_onnx_of_any_number_of_queries(tmp_path):
    import handgrad.onnx

    free = torch.export.Dim.DYNAMIC
    model, path = _Attending().eval(), tmp_path / "attention.onnx"
    handgrad.onnx.export(
        model, module_inputs(), path, dynamic_shapes=({0: free, 1: free}, {0: free, 1: free}, {0: free})
    )
    handgrad.onnx.verify(model, path, module_inputs(batch=3, queries=11))


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("avoided", [(), ("GridSample",)], ids=["grid_sample", "gather"])
def test_onnx_of_the_classic_exporter_by_either_road(avoided, tmp_path):
    import onnx

    import handgrad.onnx

    model, path = _Attending().eval(), tmp_path / "attention.onnx"
    with handgrad.onnx.without(*avoided), warnings.catch_warnings():
        # Of the exporter that is about to go; and sizes that are compared are fixed in what it writes.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(model, module_inputs(), path, dynamo=False, opset_version=17)
    handgrad.onnx.verify(model, path, module_inputs())
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("GridSample") == (0 if avoided else 2)
