"""grid_sample: its spec, and what is peculiar to it."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from handgrad.layers import grid_sample
from handgrad.layers.grid_sample import grid_sample_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

NAN, INF = float("nan"), float("inf")
MODES, PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


def reference(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False):
    wide = torch.float64 if input.dtype is torch.float64 else torch.float32
    return grid_sample_reference(
        input, grid.to(wide), MODES.index(mode), PADDINGS.index(padding_mode), bool(align_corners)
    )


def at_pixels(pixels, sizes, align_corners):
    """The grid whose points are these pixels, x first."""
    axes = torch.tensor(sizes[::-1], dtype=torch.float64)
    return pixels * 2 / (axes - 1) - 1 if align_corners else (2 * pixels + 1) / axes - 1


def tensors(batch, channels, sizes, points, align_corners=False, dtype=torch.float64, seed=0, beyond=0.8):
    """An image and a grid no point of which is nearer to a kink, one at each half pixel, than 0.05 pixels; some are
    outside, by so many pixels."""
    generator = reseeded(seed)
    image = torch.randn(batch, channels, *sizes, dtype=torch.float64, generator=generator)
    axes = torch.tensor(sizes[::-1], dtype=torch.float64)
    pixels = torch.rand(batch, *points, len(sizes), dtype=torch.float64, generator=generator)
    pixels = (pixels * (axes - 1 + 2 * beyond) - beyond) * 2
    pixels = (pixels.floor() + 0.1 + 0.8 * (pixels - pixels.floor())) / 2
    return image.to(dtype), at_pixels(pixels, sizes, align_corners).to(dtype)


def sample(name, batch, channels, sizes, points, seed=0, **kwargs):
    made = tensors(batch, channels, sizes, points, kwargs.get("align_corners", False), seed=seed)
    return Sample(name, made, kwargs)


def own_pixels(sizes, align_corners=False):
    axes = [torch.arange(size, dtype=torch.float64) for size in sizes]
    return at_pixels(torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1), sizes, align_corners)[None]


# ---- identities ------------------------------------------------------------------------------------------------------


def its_own_pixels_are_the_image():
    for sizes, aligned in itertools.product([(3, 5), (2, 3, 4)], (False, True)):
        image = torch.randn(1, 5, *sizes, dtype=torch.float64, generator=reseeded())
        for mode, padding in itertools.product(MODES[: 5 - len(sizes)], PADDINGS):
            output = grid_sample(image, own_pixels(sizes, aligned), mode, padding, aligned)
            torch.testing.assert_close(output, image)


def a_ramp_is_where_it_is_read():
    """Bilinear interpolation of a plane is the plane, inside. (Keys' kernel with a = -3/4, torch's, is not.)"""
    ramp = torch.arange(7.0, dtype=torch.float64).expand(1, 1, 6, 7)
    pixels = torch.tensor([[1.3, 2.0], [4.6, 3.5], [2.0, 1.0]], dtype=torch.float64).view(1, 1, 3, 2)
    grid = at_pixels(pixels, (6, 7), False).requires_grad_()
    output = grid_sample(ramp, grid)
    torch.testing.assert_close(output.flatten(), pixels[..., 0].flatten())
    (grad,) = torch.autograd.grad(output.sum(), grid)
    torch.testing.assert_close(grad, torch.tensor([3.5, 0.0], dtype=torch.float64).expand_as(grad))


def linear_in_the_image():
    image, grid = tensors(2, 5, (5, 6), (3, 4))
    for mode in MODES:
        torch.testing.assert_close(grid_sample(-3 * image, grid, mode), -3 * grid_sample(image, grid, mode))


def channels_do_not_see_each_other():
    """Whatever number there are: planes, few, and many."""
    image, grid = tensors(1, 41, (5, 6), (3, 7), seed=5)
    alone = torch.cat([grid_sample(image[:, c : c + 1], grid) for c in range(41)], 1)
    for count in (1, 2, 3, 4, 8, 32, 41):
        torch.testing.assert_close(grid_sample(image[:, :count], grid), alone[:, :count])


def numel_beyond_int32():
    # One pixel for all: nothing but the output is in memory, 4.4 GB of it.
    side, channels = 2**13, 33
    image = torch.arange(1.0, channels + 1).bfloat16().view(1, channels, 1, 1).expand(1, channels, 2, 2)
    output = grid_sample(image, torch.zeros(1, 1, 1, 2).expand(1, side, side, 2))
    assert output.numel() > 2**31
    for channel in range(channels):
        assert output[0, channel].view(-1)[:: 2**14 + 1].eq(channel + 1).all()
        assert output[0, channel, -1, -1] == channel + 1


def many_points_give_to_one():
    """A tenth each, of ninety thousand that read the same pixel."""
    image = torch.zeros(1, 1, 1, 1, requires_grad=True)
    grid_sample(image, torch.zeros(1, 300, 300, 2), "nearest").backward(torch.full((1, 1, 300, 300), 0.125))
    assert image.grad.item() == 0.125 * 300**2


# ---- spec ------------------------------------------------------------------------------------------------------------

IMAGE, GRID = tensors(2, 3, (4, 5), (2, 3), dtype=torch.float32)
VOLUME, POINTS = tensors(2, 3, (2, 4, 5), (1, 2, 3), dtype=torch.float32)

SPEC = OpSpec(
    name="grid_sample",
    operator="handgrad::grid_sample",
    function=grid_sample,
    reference=reference,
    module=None,
    samples=[
        # A batch of another size than the others: torch.compile takes equal sizes for the same.
        sample("zeros", 2, 5, (7, 3), (1, 9)),
        sample("bicubic_border", 2, 2, (3, 4), (2, 2), seed=1, mode="bicubic", padding_mode="border"),
        sample("volume", 2, 1, (2, 3, 2), (1, 2, 3), seed=2, padding_mode="reflection", align_corners=True),
        sample("nearest", 3, 2, (4, 3), (2, 3), seed=3, mode="nearest", padding_mode="reflection"),
    ],
    large=Sample("large", tensors(3, 35, (21, 27), (23, 19), dtype=torch.float32, seed=4)),
    empty=[
        Sample("no_batch", (torch.zeros(0, 3, 4, 5).double(), torch.zeros(0, 2, 3, 2).double())),
        Sample("no_points", (IMAGE.double(), torch.zeros(2, 0, 3, 2).double())),
        Sample("no_channels", (torch.zeros(2, 0, 4, 5).double(), GRID.double())),
    ],
    bad=[
        Bad("mode", lambda: grid_sample(IMAGE, GRID, "linear"), ValueError, "mode must be .*; got 'linear'"),
        Bad("mode_kind", lambda: grid_sample(IMAGE, GRID, 0), TypeError, "mode must be 'bilinear', .*; got 0"),
        Bad("padding", lambda: grid_sample(IMAGE, GRID, "nearest", "wrap"), ValueError, "padding_mode must be 'zeros'"),
        Bad("padding_kind", lambda: grid_sample(IMAGE, GRID, "nearest", None), TypeError, "padding_mode must be"),
        Bad("align", lambda: grid_sample(IMAGE, GRID, align_corners=1), TypeError, "align_corners must be True or"),
        Bad(
            "bicubic_volume", lambda: grid_sample(VOLUME, POINTS, "bicubic"), ValueError, "mode must be .* 5 dimension"
        ),
        Bad("rank", lambda: grid_sample(IMAGE[0], GRID), RuntimeError, r"input must have 4 or 5 .* got \(3, 4, 5\)"),
        Bad(
            "grid_rank", lambda: grid_sample(IMAGE, POINTS), RuntimeError, r"grid must have shape .* \(2, 1, 2, 3, 3\)"
        ),
        Bad("grid_axes", lambda: grid_sample(IMAGE, GRID[..., :1]), RuntimeError, "grid must have shape"),
        Bad(
            "grid_batch", lambda: grid_sample(IMAGE, GRID[:1]), RuntimeError, r"grid must have shape .* \(1, 2, 3, 2\)"
        ),
        Bad("grid_wide", lambda: grid_sample(IMAGE, GRID.double()), TypeError, "grid must be of float32"),
        Bad("grid_kind", lambda: grid_sample(IMAGE, GRID.long()), TypeError, "grid must be of float32"),
        Bad(
            "no_pixels", lambda: grid_sample(IMAGE[:, :, :0], GRID), RuntimeError, "input must have at least one pixel"
        ),
        Bad(
            "long_axis",
            lambda: grid_sample(torch.zeros(2, 1, 1, 1).expand(2, 1, 1, 2**24 + 1), GRID),
            RuntimeError,
            "input must have at most 2.24 pixels along an axis",
        ),
        Bad(
            "many_pixels",
            lambda: grid_sample(torch.zeros(2, 1, 1, 1).expand(2, 1, 2**16, 2**15), GRID),
            RuntimeError,
            "input must have fewer than 2.31 pixels in an image",
        ),
    ],
    identities={
        "own_pixels": its_own_pixels_are_the_image,
        "ramp": a_ramp_is_where_it_is_read,
        "linear": linear_in_the_image,
        "channels": channels_do_not_see_each_other,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=many_points_give_to_one,
    lenient={"align_corners": lambda value: value is None},
    onnx=["zeros", "bicubic_border", "volume"],
    device_calls={"backward": (4, 3, 0), "double_backward": (4, 3, 0)},
    tolerances={
        # A point is one of 27 pixels, so that float32 tells points apart by 2e-6 pixels; the gradient of a coordinate
        # is 13 times a sum over 35 channels of differences of pixels, around 100.
        torch.float32: (1e-4, 1e-3),
    },
    # Four pixels of each point are read where the input is read once, from the cache as a rule, and the grid once for
    # each eight channels; by each tile once more for the gradient of the input.
    floor_factors={"forward": 2.4, "backward": 3.1, "double_backward": 4.4},
)

test_matrix = matrix(SPEC)


# ---- beside torch ----------------------------------------------------------------------------------------------------


def derived(function, image, grid, *args):
    """Output and gradients, of a direction that half types have too."""
    leaves = image.detach().requires_grad_(), grid.detach().requires_grad_()
    output = function(*leaves, *args)
    direction = torch.randn(output.shape, generator=reseeded()).bfloat16()
    return output, *torch.autograd.grad(output, leaves, direction.to(output.dtype))


def both(image, grid, *args):
    return [derived(function, image, grid, *args) for function in (grid_sample, F.grid_sample)]


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(7, 6), (3, 5, 4)], ids=["image", "volume"])
def test_equals_torch(sizes, mode, padding_mode, align_corners):
    if len(sizes) == 3 and mode == "bicubic":
        pytest.skip("torch refuses it too")
    for channels in (1, 5, 33):
        # Far outside too: reflected more than once.
        image, grid = tensors(2, channels, sizes, (*sizes[:-1], 11), align_corners, seed=channels, beyond=14.3)
        ours, theirs = both(image, grid, mode, padding_mode, align_corners)
        torch.testing.assert_close(ours, theirs)
        last = image.to(memory_format=torch.channels_last if len(sizes) == 2 else torch.channels_last_3d)
        torch.testing.assert_close(both(last, grid, mode, padding_mode, align_corners)[0], ours)


@pytest.mark.parametrize("points", [11, 1], ids=["many_points", "few_points"])
@pytest.mark.parametrize("sizes", [(7, 6), (3, 5, 4)], ids=["image", "volume"])
def test_float32_images_of_few_channels(sizes, points):
    """Two to four channels are one vector, if there are enough points to turn an image for: as near to float64 as
    torch's float32 is."""
    for channels, mode, dtype in itertools.product((2, 3, 4), MODES, (torch.float32, torch.bfloat16)):
        if len(sizes) == 3 and mode == "bicubic":
            continue
        made = tensors(3, channels, sizes, (*[points] * (len(sizes) - 1), 7), dtype=torch.float32, seed=channels)
        image, grid = made[0].to(dtype), made[1]
        ours = derived(grid_sample, image, grid, mode, "reflection", True)
        theirs = derived(F.grid_sample, image.float(), grid, mode, "reflection", True)
        exact = derived(F.grid_sample, image.double(), grid.double(), mode, "reflection", True)
        for result, torchs, expected in zip(ours, theirs, exact, strict=True):
            if result.dtype is torch.float32:
                error, allowed = ((other - expected).abs().max() for other in (result, torchs))
                assert error <= 2 * allowed
            else:
                torch.testing.assert_close(result, expected.to(result.dtype))
        last = image.to(memory_format=torch.channels_last if len(sizes) == 2 else torch.channels_last_3d)
        assert all(map(torch.equal, derived(grid_sample, last, grid, mode, "reflection", True), ours))


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_kinks_are_torchs(mode, padding_mode):
    """At whole and half pixels and at the ends. (Where a reflection turns, the derivative is either of two.)"""
    pixels = torch.arange(-9, 17, dtype=torch.float64) / 2
    pixels = torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), -1)[None]
    image = torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=reseeded())
    for align_corners in (False, True):
        # Of sizes that are powers of two, or one more, all of it is exact.
        side = image[..., :3, :3] if align_corners else image
        ours, theirs = both(side, at_pixels(pixels, side.shape[2:], align_corners), mode, padding_mode, align_corners)
        torch.testing.assert_close(ours[:2], theirs[:2])
        if padding_mode != "reflection":
            torch.testing.assert_close(ours[2], theirs[2])


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_an_axis_of_one_pixel(padding_mode):
    """With align_corners it has no length, and no derivative."""
    grid = 2.6 * torch.rand(1, 3, 4, 2, dtype=torch.float64, generator=reseeded()) - 1.3
    for mode, align_corners in itertools.product(MODES, (False, True)):
        for sizes in ((1, 1), (1, 3)):
            image = torch.randn(1, 2, *sizes, dtype=torch.float64, generator=reseeded())
            ours, theirs = both(image, grid, mode, padding_mode, align_corners)
            torch.testing.assert_close(ours, theirs)
            assert ours[2].isfinite().all()
            assert not align_corners or ours[2][..., 1].eq(0).all()


def test_half_images_beside_float32_points():
    """A half type cannot say where a pixel is; the sums are those of float32, rounded once."""
    image, grid = tensors(2, 9, (24, 31), (13, 12), dtype=torch.float32, seed=7)
    for low in (torch.bfloat16, torch.float16):
        narrow = image.to(low)
        leaves = narrow.clone().requires_grad_(), grid.clone().requires_grad_()
        wide = narrow.float().requires_grad_(), grid.clone().requires_grad_()
        output, expected = grid_sample(*leaves, "bicubic"), grid_sample(*wide, "bicubic")
        assert output.dtype is low
        torch.testing.assert_close(output, expected.to(low), rtol=0, atol=0)
        grads = torch.autograd.grad(output.sum(), leaves)
        expected_grads = torch.autograd.grad(expected.sum(), wide)
        assert [grad.dtype for grad in grads] == [low, torch.float32]
        torch.testing.assert_close(grads[0], expected_grads[0].to(low))
        torch.testing.assert_close(grads[1], expected_grads[1])


# ---- numbers that are none -------------------------------------------------------------------------------------------


def read(mode, padding_mode, *coordinates, image=None, align_corners=False):
    """Of a 3x4 image, its pixels 1 to 12: outputs in the middle row at each x, and both gradients."""
    image = torch.arange(1.0, 13).view(1, 1, 3, 4) if image is None else image
    grid = torch.zeros(1, 1, len(coordinates), 2)
    grid[..., 0] = torch.tensor(coordinates)
    leaves = image.clone().requires_grad_(), grid.requires_grad_()
    output = grid_sample(*leaves, mode, padding_mode, align_corners)
    return output.flatten(), *torch.autograd.grad(output.sum(), leaves)


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_far_points(padding_mode, mode, align_corners):
    """No integer overflows: torch's own read beyond their memory (pytorch#24823, pytorch#19826)."""
    far = (1e30, -1e30, 3e9, -3e9, 1e10)
    output, grad_image, grad_grid = read(mode, padding_mode, *far, align_corners=align_corners)
    if padding_mode == "zeros":
        assert output.eq(0).all()
        assert grad_image.eq(0).all()
    else:
        assert output.ge(5).logical_and(output.le(8)).all()
        torch.testing.assert_close(grad_image.sum(), torch.tensor(5.0))
    assert grad_grid[..., 0].eq(0).all() or padding_mode == "reflection"
    assert grad_grid.isfinite().all()


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_infinite_points(mode):
    assert read(mode, "zeros", INF, -INF)[0].tolist() == [0, 0]
    assert read(mode, "border", INF, -INF)[0].tolist() == [8, 5]
    # Where a reflection of infinity is, nobody knows: at the first pixel, as in torch.
    assert read(mode, "reflection", INF, -INF)[0].tolist() == [5, 5]
    for padding_mode in PADDINGS:
        _, grad_image, grad_grid = read(mode, padding_mode, INF, -INF)
        assert grad_image.isfinite().all()
        assert grad_grid[..., 0].eq(0).all()


def test_nan_points():
    """As in torch, whose backward then reads beyond memory (pytorch#24823): padding takes it for the first pixel."""
    for mode, padding_mode in itertools.product(("bilinear", "nearest"), ("border", "reflection")):
        output, grad_image, grad_grid = read(mode, padding_mode, NAN)
        assert output.tolist() == [5]
        assert grad_image.flatten().nonzero().flatten().tolist() == [4]
        assert grad_grid[..., 0].eq(0).all()
        assert grad_grid.isfinite().all()
    output, grad_image, grad_grid = read("nearest", "zeros", NAN, 0.25)
    assert output.tolist() == [0, 7]
    # Where it weighs, it is not hidden; and it reaches no pixel.
    for mode, padding_mode in (("bilinear", "zeros"), *itertools.product(["bicubic"], PADDINGS)):
        for channels in (1, 3, 5, 33):
            image = torch.arange(1.0, 13).view(1, 1, 3, 4).expand(1, channels, 3, 4)
            output, grad_image, grad_grid = read(mode, padding_mode, NAN, 0.3, image=image)
            assert output.isnan().tolist() == [True, False] * channels
            assert grad_image.isfinite().all()
            assert grad_grid[0, 0].isnan().tolist() == [[True, True], [False, False]]


def test_nothing_is_read_outside():
    """A pixel that is not finite is read by no point beside the image, whose weights of it would be 0."""
    for channels in (1, 3, 5, 33):
        image = torch.full((1, channels, 2, 2), INF)
        leaves = image.requires_grad_(), torch.tensor([[[[-2.5, 0.0], [0.0, 3.0]]]], requires_grad=True)
        output = grid_sample(*leaves)
        assert output.eq(0).all()
        assert all(grad.eq(0).all() for grad in torch.autograd.grad(output.sum(), leaves))


# ---- many threads, much memory ---------------------------------------------------------------------------------------


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("channels", [1, 3, 8, 64])
def test_gradients_are_the_same_for_any_number_of_threads(channels):
    """torch says of its own on CUDA devices that it is not (pytorch#68959)."""
    image, grid = tensors(1, channels, (61, 67), (83, 89), dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            leaves = image.clone().requires_grad_(), grid.clone().requires_grad_()
            results.append(torch.autograd.grad(grid_sample(*leaves).square().sum(), leaves))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_points_are_the_same_whatever_there_is_beside_them():
    """More points than are taken at a time, on either device; and a grid that is not in one piece."""
    image, grid = tensors(1, 2, (9, 11), (40, 1000), seed=9)
    whole = grid_sample(image, grid)
    parts = torch.cat([grid_sample(image, part) for part in grid.split(333, 2)], 3)
    assert torch.equal(whole, parts)
    turned = grid.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(grid_sample(image, turned), whole)


# ---- a model ---------------------------------------------------------------------------------------------------------


def test_a_gradient_penalty_through_a_spatial_transformer():
    """The second derivative that torch's has not (pytorch#34704)."""
    image, grid = tensors(2, 3, (6, 7), (5, 4), seed=11)
    image, grid = image.requires_grad_(), grid.requires_grad_()
    penalties = []
    for function in (grid_sample, reference):
        (grad,) = torch.autograd.grad(function(image, grid, "bicubic").pow(2).sum(), grid, create_graph=True)
        penalties.append(torch.autograd.grad(grad.square().sum(), (image, grid)))
    torch.testing.assert_close(penalties[0], penalties[1])


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("avoided", [(), ("GridSample",)], ids=["grid_sample", "gather"])
def test_onnx_by_either_road(avoided, tmp_path):
    """TensorRT computes GridSample wrongly (vision#9260, TensorRT#4646): the other road is without."""
    import handgrad.onnx

    class Sampler(torch.nn.Module):
        def forward(self, image, grid):
            return grid_sample(image, grid, padding_mode="reflection")

    with handgrad.onnx.without(*avoided):
        exported = handgrad.onnx.export(Sampler(), (IMAGE, GRID), tmp_path / "sampler.onnx", verify=True)
    operators = [node.op_type for node in exported.program.model.graph]
    assert operators.count("GridSample") == (0 if avoided else 1)
