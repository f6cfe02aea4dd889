import math

import pytest
import torch

from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.transforms import elastic, gaussian_blur
from handgrad.transforms.elastic import elastic_reference
from transform_images import NO_DERIVATIVES, is_level_image, is_number_image, levels, needs_fma


def numbers(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def field(images, height, width, pixels=1.7, seed=1):
    """Moved by so many pixels at most, anyhow."""
    halves = torch.tensor([2 * pixels / width, 2 * pixels / height], dtype=torch.float64)
    return (2 * numbers(images, height, width, 2, seed=seed) - 1) * halves


def gathered(images, height, width, towards=0.5, seed=2):
    """Whose positions are inside, the whole picture in its middle part."""
    across = torch.linspace(1 / width - 1, 1 - 1 / width, width, dtype=torch.float64).expand(height, width)
    down = torch.linspace(1 / height - 1, 1 - 1 / height, height, dtype=torch.float64)[:, None].expand(height, width)
    return field(images, height, width, 0.3, seed) - towards * torch.stack([across, down], 2)


def reference(image, displacement, interpolation="bilinear", fill=None):
    """The public function's arguments, given to the reference."""
    images = image.unsqueeze(0) if image.dim() == 3 else image
    moved = displacement.to(torch.float64 if image.dtype is torch.float64 else torch.float32)
    fills = [] if fill is None else fill if isinstance(fill, list) else [fill]
    mode = {"nearest": 0, "bilinear": 1}[interpolation]
    output = elastic_reference(images, moved.expand(images.shape[0], -1, -1, -1), mode, [float(x) for x in fills])
    return output.squeeze(0) if image.dim() == 3 else output


def slope(*shape):
    """Whole quarters, which all types hold, without kinks: positions in float32 may be on the other side of one."""
    rows, columns = torch.arange(shape[-2]).float(), torch.arange(shape[-1]).float()
    return (columns / 4 + rows[:, None] / 2).expand(shape).clone()


# ---- identities ------------------------------------------------------------------------------------------------------


def no_displacement_changes_nothing():
    """kornia's function moved the picture (kornia#4235)."""
    for height, width in ((7, 5), (1, 1), (1, 9), (64, 333)):
        still = torch.zeros(1, height, width, 2, dtype=torch.float64)
        for fill in (None, 3.0):
            for image in (numbers(2, 3, height, width), levels(2, 3, height, width), levels(1, height, width)):
                torch.testing.assert_close(elastic(image, still, fill=fill), image)
                assert torch.equal(elastic(image, still, "nearest", fill), image)


def whole_pixels_are_moved():
    """Two to the right and one up, of a picture that is not square: x in halves of the width, y of the height."""
    image = levels(2, 3, 9, 8)
    by = torch.tensor([2 * 2 / 8, -1 * 2 / 9]).expand(1, 9, 8, 2)
    for mode in ("nearest", "bilinear"):
        moved = elastic(image, by, mode, 7)
        assert torch.equal(moved[:, :, 1:, :-2], image[:, :, :-1, 2:])
        assert moved[:, :, 0].eq(7).all()
        assert moved[:, :, :, -2:].eq(7).all()


def a_batch_is_its_images():
    fields = field(3, 12, 11, 3.0).float()
    for image in (levels(3, 3, 12, 11), numbers(3, 3, 12, 11).float()):
        whole = elastic(image, fields, fill=9)
        for index in range(3):
            assert torch.equal(whole[index], elastic(image[index], fields[index : index + 1], fill=9))


def an_image_beyond_int32():
    """Channels that are far apart."""
    far = torch.empty(2**31 + 999, dtype=torch.uint8).as_strided((1, 2, 7, 9), (0, 2**31, 90, 9))
    far.copy_(levels(1, 2, 7, 9, seed=3))
    for mode in ("nearest", "bilinear"):
        assert torch.equal(elastic(far, field(1, 7, 9), mode), elastic(far.contiguous(), field(1, 7, 9), mode))


def many_pixels_give_to_one():
    """A tenth each, of ninety thousand that are read in the same pixel."""
    side = 300
    image = torch.zeros(1, 1, side, side, requires_grad=True)
    centres = torch.arange(side).float() * 2 / side - 1 + 1 / side
    towards = torch.stack([-centres.expand(side, side), -centres[:, None].expand(side, side)], 2) + 1 / side
    elastic(image, towards[None], "nearest").backward(torch.full((1, 1, side, side), 0.1))
    torch.testing.assert_close(image.grad[0, 0, 150, 150].item(), 0.1 * side**2, rtol=1e-6, atol=0)


# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 8, 9)
STILL = torch.zeros(1, 8, 9, 2)


BAD = [
    Bad("rank", lambda: elastic(IMAGE[0, 0], STILL), RuntimeError, "image must have 3 or 4 dimensions"),
    Bad("int16", lambda: elastic(IMAGE.short(), STILL), TypeError, "image must be uint8, .* got int16"),
    Bad("kind", lambda: elastic(IMAGE, STILL.long()), TypeError, "displacement must be a tensor of floating-point"),
    Bad(
        "shape",
        lambda: elastic(IMAGE, STILL[:, :7]),
        RuntimeError,
        r"displacement must be \(1, height, width, 2\), here \(1, 8, 9, 2\), or .* got \(1, 7, 9, 2\)",
    ),
    Bad("batch", lambda: elastic(IMAGE, STILL.expand(3, 8, 9, 2)), RuntimeError, r"got \(3, 8, 9, 2\)"),
    Bad("batch_of_one", lambda: elastic(IMAGE[0], STILL.expand(2, 8, 9, 2)), RuntimeError, r"got \(2, 8, 9, 2\)"),
    Bad("planes", lambda: elastic(IMAGE, STILL.movedim(3, 1)), RuntimeError, r"got \(1, 2, 8, 9\)"),
    Bad("mode", lambda: elastic(IMAGE, STILL, "bicubic"), ValueError, "interpolation must be"),
    Bad(
        "fills", lambda: elastic(IMAGE, STILL, fill=[1, 2]), ValueError, r"fill must be a number, or one a channel, 3;"
    ),
    Bad(
        "level",
        lambda: elastic(levels(3, 8, 9), STILL, fill=256),
        ValueError,
        "fill must be numbers from 0 to 255 beside a uint8 image; got 256",
    ),
    Bad("no_pixels", lambda: elastic(IMAGE[:, :, :0], STILL[:, :0]), RuntimeError, "image must have at least 1 and at"),
]

SPEC = OpSpec(
    name="elastic",
    operator="handgrad::elastic",
    function=elastic,
    tensors=("image", "displacement"),
    reference=reference,
    module=None,
    samples=[
        # A batch of another size than the others: torch.compile takes equal sizes for the same.
        Sample("field", (numbers(4, 2, 5, 6, seed=3), field(4, 5, 6))),
        Sample("filled", (numbers(2, 2, 4, 5), field(2, 4, 5)), {"fill": [0.3, -0.7]}),
        Sample("nearest", (numbers(2, 3, 4, 5), field(2, 4, 5)), {"interpolation": "nearest", "fill": 0.5}),
    ],
    large=Sample("large", (slope(8, 12, 21, 27), gathered(8, 21, 27).float())),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5), torch.zeros(0, 4, 5, 2).double())),
        Sample("channels", (numbers(2, 0, 4, 5), torch.zeros(2, 4, 5, 2).double())),
    ],
    lenient={"image": is_level_image, "displacement": lambda value: True,
             "fill": lambda value: value is None or isinstance(value, list)},
    bad=BAD,
    identities={"still": no_displacement_changes_nothing, "whole": whole_pixels_are_moved,
                "batch": a_batch_is_its_images},
    numel_beyond_int32=an_image_beyond_int32,
    sums_of_many=many_pixels_give_to_one,
    # Each of four pixels is read by itself; neighbouring threads find them in the first-level cache. For the gradient
    # of the image the field is read by all pixels that look for theirs in a tile, and the image anew for the field's.
    floor_factors={"forward": 2.4, "backward": 4.8, "double_backward": 5.3},
    device_calls={"forward": (1, 1, 0), "backward": (4, 3, 0), "double_backward": (4, 3, 0)},
)  # fmt: skip

LEVELS_SPEC = OpSpec(
    name="elastic",
    operator="handgrad::elastic",
    function=elastic,
    tensors=("image", "displacement"),
    reference=reference,
    module=None,
    samples=[
        Sample("field", (levels(2, 3, 9, 8), field(2, 9, 8))),
        Sample("filled", (levels(2, 3, 9, 8), field(2, 9, 8, 4.0)), {"fill": [20, 30, 200]}),
        Sample("nearest", (levels(2, 3, 9, 8), field(2, 9, 8)), {"interpolation": "nearest"}),
    ],
    large=Sample("large", (levels(3, 3, 131, 157), field(3, 131, 157, 9.0)), {"fill": 128}),
    empty=[Sample("batch", (levels(0, 3, 4, 5), torch.zeros(0, 4, 5, 2)))],
    # Of the field; levels stay.
    dtypes=(torch.float32,),
    private_ops=(),
    derivatives=False,
    lenient={"image": is_number_image, "displacement": lambda value: True,
             "fill": lambda value: value is None or isinstance(value, list)},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors={"forward": 1.7},
    device_calls={"forward": (1, 1, 0)},
    not_applicable={3: NO_DERIVATIVES, 8: "levels stay levels", 15: NO_DERIVATIVES},
)  # fmt: skip

test_matrix = matrix(SPEC)
test_matrix_of_levels = matrix(LEVELS_SPEC)


# ---- torchvision's pictures ------------------------------------------------------------------------------------------


@needs_fma
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64], ids=str)
def test_pictures_are_torchvisions(kind, functional):
    """To the bit, uint8 and floating-point, over sizes, modes, fills, memory in both orders, smooth fields and rough
    ones, small ones and such as leave the picture."""
    generator = reseeded(5)
    for case in range(24):
        height, width = torch.randint(1, 130, (2,), generator=generator).tolist()
        channels = (1, 3, 4, 3)[case % 4]
        image = levels(channels, height, width, seed=case)
        image = image.movedim(0, 2).contiguous().movedim(2, 0) if case % 2 else image
        image = image if kind is torch.uint8 else image.to(kind) / 255
        by = field(1, height, width, (0.4, 7.0, 90.0)[case % 3], seed=case)
        if case % 2 and min(height, width) > 4:
            by = gaussian_blur(by.permute(0, 3, 1, 2).float(), 7, 2.0).permute(0, 2, 3, 1)
        for mode in ("nearest", "bilinear"):
            for fill in (None, 0, 100.0, [3.0, 200.0, 7.0, 1.0][:channels]):
                expected = functional.elastic(image, by, functional.InterpolationMode(mode), fill)
                assert torch.equal(elastic(image, by, mode, fill), expected), f"{tuple(image.shape)}, {mode}, {fill}"


@needs_fma
def test_large_pictures_are_torchvisions(functional):
    image = levels(3, 700, 900).movedim(0, 2).contiguous().movedim(2, 0)
    by = field(1, 700, 900, 20.0).float()
    for mode in ("nearest", "bilinear"):
        expected = functional.elastic(image, by, functional.InterpolationMode(mode), 9)
        assert torch.equal(elastic(image, by, mode, 9), expected)


@pytest.mark.tiers("whole")
def test_a_half_precision_picture_has_coordinates_of_float(functional):
    """torchvision's grid of a bfloat16 image is bfloat16: of a picture of 512 pixels it knows every other one."""
    image, by = numbers(1, 512, 512), field(1, 512, 512, 3.0).float()
    for kind, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        found = elastic(image.to(kind), by, fill=0)
        expected = functional.elastic(image.to(kind).float(), by, functional.InterpolationMode.BILINEAR, fill=0)
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)


@pytest.mark.tiers("whole")
def test_videos_and_what_is_empty(functional):
    by = field(1, 6, 5)
    video = levels(2, 4, 3, 6, 5)
    assert torch.equal(elastic(video, by, fill=4), functional.elastic(video, by, fill=4))
    assert elastic(levels(0, 2, 3, 6, 5), by).shape == (0, 2, 3, 6, 5)
    assert elastic(levels(0, 3, 6, 5), by).shape == (0, 3, 6, 5)


# ---- what a definition leaves open -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [None, 3.0])
def test_positions_that_are_no_numbers(fill):
    image, around = numbers(1, 2, 4, 5), fill or 0.0
    for far in (math.inf, -math.inf, 1e30, -1e30, 3.4e38):
        by = torch.zeros(1, 4, 5, 2)
        by[0, 1, 2, 0] = by[0, 3, 4, 1] = far
        for mode in ("nearest", "bilinear"):
            found = elastic(image, by, mode, fill)
            assert found[0, :, 1, 2].eq(around).all()
            assert found[0, :, 3, 4].eq(around).all()
            torch.testing.assert_close(found[0, :, 0], image[0, :, 0])
    by = torch.zeros(1, 4, 5, 2)
    by[0, 1, 2, 0] = math.nan
    found = elastic(image, by, fill=fill)
    assert found.isnan().sum() == 2
    assert found[0, :, 1, 2].isnan().all()
    assert elastic(image, by, "nearest", fill)[0, :, 1, 2].eq(around).all()
    assert elastic((image * 255).to(torch.uint8), by, fill=fill)[0, :, 1, 2].eq(0).all()


def test_what_is_outside_has_no_gradient():
    """Neither the displacement there nor a pixel: nothing is read, whatever stands at the border."""
    image, by = numbers(1, 2, 4, 5).requires_grad_(), torch.zeros(1, 4, 5, 2).double()
    by[0, 0, :, 0], by[0, 1, :, 1], by[0, 2, :, 0] = math.nan, math.inf, -3.5
    by.requires_grad_()
    elastic(image, by, fill=0.3)[:, :, 1:].sum().backward()
    assert by.grad[0, :3].eq(0).all()
    assert image.grad.isfinite().all()
    torch.testing.assert_close(image.grad[0, :, 3, 1:4], torch.ones(2, 3).double(), rtol=0.3, atol=0)
    assert image.grad[0, :, 0].eq(0).all()


def test_nan_stays_where_it_is_read():
    image, by = numbers(1, 2, 6, 7), torch.tensor([1 / 7, 1 / 6]).expand(1, 6, 7, 2)
    image[0, 0, 2, 3] = math.nan
    found = elastic(image, by)
    assert found.isnan().sum() == 4
    assert found[0, 0, 1:3, 2:4].isnan().all()
    image[0, 0, 2, 3] = math.inf
    assert not elastic(image, by + 40, fill=1).isnan().any()


def test_a_kink_has_the_slope_of_its_right_side():
    """At a whole position a corner begins; as torch's grid_sample has it."""
    image = torch.tensor([0.0, 1.0, 5.0, 6.0]).double().view(1, 1, 1, 4)
    # Of four pixels positions are whole to the last bit.
    by = torch.zeros(1, 1, 4, 2, dtype=torch.float64, requires_grad=True)
    elastic(image, by)[..., 1].sum().backward()
    assert by.grad[0, 0, 1, 0] == 4 * 4 / 2


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_gradients_of_rough_fields(mode):
    """Kernels that gather ask the tiles of the output which pixels they read: of more than one tile each way, of fields
    that are rough, leave the picture, or read one pixel only."""
    for shape, by in (
        ((1, 5, 19, 21), field(1, 19, 21, 30.0)),
        ((2, 2, 9, 17), field(2, 9, 17, 2.0)),
        ((1, 1, 8, 20), gathered(1, 8, 20, 0.97)),
    ):
        image, by = numbers(*shape).requires_grad_(), by.requires_grad_()
        expected, found = reference(image, by, mode, 0.3), elastic(image, by, mode, 0.3)
        torch.testing.assert_close(found, expected)
        weights = numbers(*found.shape, seed=4)
        inputs = (image, by) if mode == "bilinear" else (image,)
        wanted = torch.autograd.grad((expected * weights).sum(), inputs)
        for own, other in zip(torch.autograd.grad((found * weights).sum(), inputs), wanted, strict=True):
            torch.testing.assert_close(own, other)


# ---- types, layouts, batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float16], ids=str)
def test_memory_formats(kind):
    four = levels(2, 12, 11, 4)
    four = four if kind is torch.uint8 else (four / 255).to(kind)
    packed = four[..., :3].contiguous().permute(0, 3, 1, 2)
    planes = packed.contiguous()
    sparse = planes.new_zeros(2, 3, 12, 22)[..., ::2].copy_(planes)
    turned = planes.transpose(2, 3).contiguous().transpose(2, 3)
    by = field(2, 12, 11, 3.0).float()
    fields = (by, by.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), by.flip(2).flip(2), by.double(),
              by.transpose(1, 2).contiguous().transpose(1, 2))  # fmt: skip
    for mode in ("nearest", "bilinear"):
        for fill in (None, 60.0):
            expected = elastic(planes, by, mode, fill)
            for image in (packed, sparse, turned, four[..., :3].permute(0, 3, 1, 2), planes.flip(3).flip(3)):
                for same in fields:
                    assert torch.equal(elastic(image, same, mode, fill), expected)
            kept = elastic(packed, by, mode, fill)
            assert kept.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.tiers("whole")
def test_one_field_for_all_has_the_sum_of_their_gradients():
    image, by = numbers(3, 2, 5, 6), field(1, 5, 6).requires_grad_()
    (found,) = torch.autograd.grad(elastic(image, by).square().sum(), by)
    each = by.detach().expand(3, -1, -1, -1).clone().requires_grad_()
    (parts,) = torch.autograd.grad(elastic(image, each).square().sum(), each)
    torch.testing.assert_close(found, parts.sum(0, keepdim=True))


@pytest.mark.tiers("whole")
def test_levels_have_no_slope():
    by = torch.zeros(1, 4, 4, 2, requires_grad=True)
    assert not elastic(levels(3, 4, 4), by).requires_grad
    assert elastic(numbers(3, 4, 4).float(), by).requires_grad


@pytest.mark.tiers("whole")
def test_tensors_that_do_not_fit_are_refused_by_the_op():
    for by, said in (
        (STILL, r"displacement must have shape \(batch, height, width, 2\), here \(2, 8, 9, 2\); got \(1, 8, 9, 2\)"),
        (STILL.expand(2, -1, -1, -1).double(), "displacement must be float32 beside a float32 image; got float64"),
    ):
        with pytest.raises(RuntimeError, match=said):
            torch.ops.handgrad.elastic(IMAGE, by, 1, [])
