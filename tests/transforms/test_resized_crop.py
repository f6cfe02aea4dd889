import math

import pytest
import torch

from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.transforms import batched_resized_crop, resized_crop
from handgrad.transforms.resized_crop import resized_crop_reference
from transform_images import NO_DERIVATIVES, is_level_image, is_number_image, levels

MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")
SCALINGS = ("product", "quotient", "none")
MEAN, STD = [0.485, 0.456, 0.406, 0.5, 0.4], [0.229, 0.224, 0.225, 0.3, 0.2]


def numbers(*shape):
    return torch.rand(shape, dtype=torch.float64, generator=reseeded())


def pair(size):
    return (size, size) if isinstance(size, int) else size


def spread(values, channels):
    return [] if values is None else [*values] * (channels // len(values))


def result_type(image, dtype, mean):
    return dtype or (torch.float32 if mean and image.dtype is torch.uint8 else image.dtype)


def by_reference(image, boxes, box, size, interpolation, antialias, dtype, mean, std, window, rounding, scaling):
    """The public functions' arguments, given to the reference."""
    channels = image.shape[1]
    top, left, *shape = window or (0, 0, *pair(size))
    return resized_crop_reference(
        image, boxes, None, None, [*box, *pair(size), top, left], *shape, MODES.index(interpolation), antialias,
        result_type(image, dtype, mean), spread(mean, channels), spread(std, channels), 0,
        rounding == "pillow", SCALINGS.index(scaling),
    )  # fmt: skip


def reference(
    image, top, left, height, width, size, interpolation="bilinear", antialias=True, *, horizontal_flip=False,
    vertical_flip=False, dtype=None, mean=None, std=None, window=None, rounding="torch", scaling="product",
):  # fmt: skip
    box = [top, left, height, width, int(horizontal_flip), int(vertical_flip)]
    return by_reference(image, None, box, size, interpolation, antialias, dtype, mean, std, window, rounding, scaling)


def batched_reference(
    images, boxes, size, interpolation="bilinear", antialias=True, *, horizontal_flip=False, vertical_flip=False,
    dtype=None, mean=None, std=None, window=None, rounding="torch", scaling="product",
):  # fmt: skip
    box = [0, 0, 1, 1, int(horizontal_flip), int(vertical_flip)]
    return by_reference(images, boxes, box, size, interpolation, antialias, dtype, mean, std, window, rounding, scaling)


# ---- identities ------------------------------------------------------------------------------------------------------


def the_whole_image_in_its_size_is_the_image():
    for image in (numbers(2, 3, 7, 5), levels(2, 3, 7, 5)):
        for mode in MODES:
            for antialias in (False, True):
                found = resized_crop(image, 0, 0, 7, 5, (7, 5), mode, antialias)
                assert torch.equal(found, image), f"{mode}, {image.dtype}"


def flips_are_of_the_output():
    image = numbers(2, 3, 9, 8)
    plain = resized_crop(image, 1, 2, 7, 5, (4, 3))
    for horizontal in (False, True):
        for vertical in (False, True):
            found = resized_crop(image, 1, 2, 7, 5, (4, 3), horizontal_flip=horizontal, vertical_flip=vertical)
            assert torch.equal(found, plain.flip([d for d, on in ((2, vertical), (3, horizontal)) if on]))


def a_window_is_a_crop_of_the_output():
    """To the bit, of levels too, whose precision is that of all outputs; and flips are of the window."""
    for image in (numbers(2, 3, 17, 14), levels(2, 3, 17, 14)):
        for mode in MODES:
            for size in ((7, 9), (15, 12), (21, 30)):
                for rounding in ("torch", "pillow"):
                    call = {"interpolation": mode, "rounding": rounding, "size": size}
                    whole = resized_crop(image, 1, 2, 15, 12, **call)
                    found = resized_crop(image, 1, 2, 15, 12, **call, window=(2, 3, 5, 4), horizontal_flip=True)
                    assert torch.equal(found, whole[:, :, 2:7, 3:7].flip(3)), f"{mode}, {size}, {image.dtype}"


def one_colour_stays():
    """Weights add up to one, those of integers to within rounding."""
    for mode in MODES:
        for size in (1, 2, 5, 19, 40):
            image = torch.full((1, 1, 18, 23), 0.3, dtype=torch.float64)
            torch.testing.assert_close(
                resized_crop(image, 2, 1, 16, 20, size, mode), torch.full((1, 1, size, size), 0.3).double()
            )
            white = torch.full((1, 1, 18, 23), 255, dtype=torch.uint8)
            assert resized_crop(white, 2, 1, 16, 20, size, mode).eq(255).all()


def what_is_outside_the_box_does_not_count():
    image = numbers(1, 2, 9, 9)
    image[:, :, :2], image[:, :, :, 6:] = math.nan, math.inf
    assert resized_crop(image, 2, 0, 7, 6, (3, 4), "bicubic").isfinite().all()


def an_image_beyond_int32():
    """Its pages are never touched, but for those of the box."""
    side = 46400
    image = torch.empty(1, 1, side, side, dtype=torch.uint8)
    corner = levels(1, 1, 8, 8)
    image[:, :, -8:, -8:] = corner
    assert image.numel() > 2**31
    found = resized_crop(image, side - 8, side - 8, 8, 8, (3, 5), "bicubic")
    assert torch.equal(found, resized_crop(corner, 0, 0, 8, 8, (3, 5), "bicubic"))


# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 8, 9)
BOXES = torch.tensor([[0, 0, 4, 4], [1, 2, 5, 6]])
WHOLE = (0, 0, 8, 9)


# A dtype of None is the image's, a window of None all.
LENIENT = {"dtype": lambda value: value is None, "window": lambda value: value is None}
# On a device the taps of a call, in double and as they are multiplied with, and where they begin.
TABLES = 256 * 1024

SPEC = OpSpec(
    name="resized_crop",
    operator="handgrad::resized_crop",
    function=resized_crop,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample(
            "smaller",
            (numbers(2, 2, 6, 5),),
            {
                "top": 1,
                "left": 0,
                "height": 5,
                "width": 4,
                "size": (2, 3),
                "horizontal_flip": True,
                "mean": [0.4, 0.5],
                "std": [0.25, 0.3],
            },
        ),
        Sample(
            "larger",
            (numbers(2, 1, 4, 3),),
            {
                "top": 0,
                "left": 1,
                "height": 3,
                "width": 2,
                "size": (4, 5),
                "interpolation": "bicubic",
                "antialias": False,
                "vertical_flip": True,
            },
        ),
        Sample(
            "bicubic",
            (numbers(2, 1, 6, 5),),
            {"top": 0, "left": 0, "height": 6, "width": 5, "size": (3, 2), "interpolation": "bicubic"},
        ),
        Sample(
            "bilinear",
            (numbers(2, 1, 5, 5),),
            {"top": 1, "left": 1, "height": 4, "width": 4, "size": (2, 6), "antialias": False},
        ),
        Sample(
            "window",
            (numbers(2, 1, 5, 6),),
            {
                "top": 0,
                "left": 1,
                "height": 5,
                "width": 5,
                "size": (4, 7),
                "window": (1, 2, 2, 4),
                "horizontal_flip": True,
                "interpolation": "bicubic",
            },
        ),
        Sample(
            "nearest",
            (numbers(2, 1, 4, 5),),
            {"top": 0, "left": 1, "height": 4, "width": 4, "size": (3, 5), "interpolation": "nearest"},
        ),
        Sample(
            "same_size",
            (numbers(2, 2, 5, 6),),
            {
                "top": 1,
                "left": 2,
                "height": 3,
                "width": 4,
                "size": (3, 4),
                "horizontal_flip": True,
                "mean": [0.4, 0.5],
                "std": [0.25, 0.3],
            },
        ),
    ],
    large=Sample(
        "large",
        (numbers(3, 3, 131, 157).float(),),
        {"top": 5, "left": 3, "height": 121, "width": 150, "size": (97, 103), "mean": [0.5], "std": [0.25]},
    ),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5),), {"top": 0, "left": 0, "height": 4, "width": 5, "size": 3}),
        Sample("channels", (numbers(2, 0, 4, 5),), {"top": 0, "left": 0, "height": 4, "width": 5, "size": 3}),
    ],
    lenient={**LENIENT, "image": is_level_image},
    device_scratch=TABLES,
    # Every pixel of a result looks up its own taps, which lie in the nearest cache: four or five reads of each number.
    floor_factors={"forward": 5.0, "backward": 5.0, "double_backward": 2.0},
    bad=[
        Bad(
            "box_low",
            lambda: resized_crop(IMAGE, 5, 0, 4, 9, 3),
            RuntimeError,
            "top, left, height and width must be a box in the image of 8 x 9 pixels; got 5, 0, 4, 9",
        ),
        Bad("box_right", lambda: resized_crop(IMAGE, 0, 9, 4, 1, 3), RuntimeError, "must be a box in the image"),
        Bad(
            "top",
            lambda: resized_crop(IMAGE, -1, 0, 4, 4, 3),
            ValueError,
            "top must be a whole number, at least 0; got -1",
        ),
        Bad("height", lambda: resized_crop(IMAGE, 0, 0, 0, 4, 3), ValueError, "height must be .* at least 1; got 0"),
        Bad("size", lambda: resized_crop(IMAGE, *WHOLE, 0), ValueError, "size must be .* at least 1"),
        Bad(
            "window",
            lambda: resized_crop(IMAGE, *WHOLE, (6, 5), window=(3, 0, 4, 5)),
            ValueError,
            r"window must be a box in the output of 6 x 5 pixels; got \(3, 0, 4, 5\)",
        ),
        Bad(
            "window_three",
            lambda: resized_crop(IMAGE, *WHOLE, 3, window=(0, 0, 3)),
            TypeError,
            "window must be None, or top, left, height and width",
        ),
        Bad("sizes", lambda: resized_crop(IMAGE, *WHOLE, (3, 4, 5)), TypeError, "size must be .* two of them"),
        Bad(
            "mode",
            lambda: resized_crop(IMAGE, *WHOLE, 3, "lanczos"),
            ValueError,
            "interpolation must be 'nearest', .* got 'lanczos'",
        ),
        Bad(
            "dtype",
            lambda: resized_crop(IMAGE, *WHOLE, 3, dtype=torch.float64),
            TypeError,
            "dtype must be the image's, or .* got torch.float64",
        ),
        Bad(
            "dtype_int",
            lambda: resized_crop(levels(3, 8, 9), *WHOLE, 3, dtype=torch.int32),
            TypeError,
            "dtype must be .* got torch.int32",
        ),
        Bad(
            "no_std",
            lambda: resized_crop(IMAGE, *WHOLE, 3, mean=[0.5]),
            TypeError,
            "std must be a list .* mean and std both be given; got None",
        ),
        Bad(
            "channels",
            lambda: resized_crop(IMAGE, *WHOLE, 3, mean=[0.5, 0.5], std=[1.0, 1.0]),
            RuntimeError,
            "mean must be a list of one number a channel, 3, or of one for all; got 2",
        ),
        Bad(
            "std_zero",
            lambda: resized_crop(IMAGE, *WHOLE, 3, mean=[0.5], std=[0.0]),
            ValueError,
            "std must be finite numbers greater than 0; got 0.0",
        ),
        Bad(
            "levels_mean",
            lambda: resized_crop(levels(3, 8, 9), *WHOLE, 3, dtype=torch.uint8, mean=[0.5], std=[1.0]),
            TypeError,
            "dtype must be a floating-point one where there is a mean",
        ),
        Bad(
            "format",
            lambda: resized_crop(IMAGE, *WHOLE, 3, memory_format=torch.channels_last_3d),
            ValueError,
            "memory_format must be",
        ),
        Bad(
            "rank",
            lambda: resized_crop(IMAGE[0, 0], *WHOLE, 3),
            RuntimeError,
            r"image must have 3 or 4 dimensions .* got \(8, 9\)",
        ),
        Bad(
            "rounding",
            lambda: resized_crop(levels(3, 8, 9), *WHOLE, 3, rounding="opencv"),
            ValueError,
            "rounding must be 'torch' or 'pillow'; got 'opencv'",
        ),
        Bad(
            "scaling",
            lambda: resized_crop(levels(3, 8, 9), *WHOLE, 3, scaling="shift"),
            ValueError,
            "scaling must be 'product', 'quotient' or 'none'; got 'shift'",
        ),
        Bad("int16", lambda: resized_crop(IMAGE.short(), *WHOLE, 3), TypeError, "image must be uint8, .* got int16"),
    ],
    identities={
        "same_size": the_whole_image_in_its_size_is_the_image,
        "flips": flips_are_of_the_output,
        "window": a_window_is_a_crop_of_the_output,
        "one_colour": one_colour_stays,
        "outside": what_is_outside_the_box_does_not_count,
    },
    numel_beyond_int32=an_image_beyond_int32,
    # Tables of taps first, which are memory of their own; the gradient looks up who uses a pixel too.
    device_calls={"forward": (2, 4, 0), "backward": (2, 5, 0), "double_backward": (2, 4, 0)},
)

LEVELS_SPEC = OpSpec(
    name="resized_crop",
    operator="handgrad::resized_crop",
    function=resized_crop,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample("levels", (levels(2, 3, 9, 8),), {"top": 1, "left": 2, "height": 8, "width": 6, "size": (5, 3)}),
        Sample(
            "cubic_levels",
            (levels(2, 1, 9, 8),),
            {
                "top": 0,
                "left": 2,
                "height": 9,
                "width": 6,
                "size": (5, 13),
                "interpolation": "bicubic",
                "horizontal_flip": True,
                "vertical_flip": True,
            },
        ),
        Sample(
            "cubic_levels_interpolated",
            (levels(2, 4, 9, 8),),
            {
                "top": 0,
                "left": 2,
                "height": 9,
                "width": 6,
                "size": (5, 13),
                "interpolation": "bicubic",
                "antialias": False,
            },
        ),
        Sample(
            "normalised_levels",
            (levels(2, 3, 7, 8),),
            {"top": 0, "left": 0, "height": 7, "width": 8, "size": 4, "mean": MEAN[:3], "std": STD[:3]},
        ),
        Sample(
            "pillows_levels",
            (levels(2, 3, 17, 18),),
            {
                "top": 1,
                "left": 0,
                "height": 16,
                "width": 17,
                "size": (5, 6),
                "rounding": "pillow",
                "scaling": "quotient",
                "interpolation": "bicubic",
                "mean": MEAN[:3],
                "std": STD[:3],
            },
        ),
        Sample(
            "copied_levels",
            (levels(2, 3, 7, 9),),
            {
                "top": 1,
                "left": 2,
                "height": 5,
                "width": 6,
                "size": (5, 6),
                "scaling": "quotient",
                "vertical_flip": True,
                "horizontal_flip": True,
                "mean": MEAN[:3],
                "std": STD[:3],
            },
        ),
        Sample(
            "window_of_levels",
            (levels(2, 3, 9, 8),),
            {
                "top": 1,
                "left": 2,
                "height": 8,
                "width": 6,
                "size": (5, 7),
                "window": (1, 3, 3, 2),
                "vertical_flip": True,
                "scaling": "none",
                "mean": [120.0, 110.0, 100.0],
                "std": [60.0, 55.0, 50.0],
            },
        ),
        Sample(
            "many_taps",
            (levels(2, 2, 90, 70),),
            {"top": 3, "left": 2, "height": 85, "width": 66, "size": (2, 3), "vertical_flip": True},
        ),
        Sample(
            "nearest_levels",
            (levels(2, 3, 7, 8),),
            {"top": 1, "left": 0, "height": 6, "width": 8, "size": (4, 11), "interpolation": "nearest-exact"},
        ),
    ],
    large=Sample(
        "large",
        (levels(3, 3, 131, 157),),
        {"top": 5, "left": 3, "height": 121, "width": 150, "size": (97, 103), "mean": MEAN[:3], "std": STD[:3]},
    ),
    empty=[Sample("batch", (levels(0, 3, 4, 5),), {"top": 0, "left": 0, "height": 4, "width": 5, "size": 3})],
    dtypes=(torch.uint8,),
    # Of what is normalised: autocast has nothing to do with levels.
    autocast=torch.float32,
    private_ops=(),
    derivatives=False,
    lenient={**LENIENT, "image": is_number_image},
    device_scratch=TABLES,
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    not_applicable={3: NO_DERIVATIVES, 15: NO_DERIVATIVES},
)

BATCHED_SPEC = OpSpec(
    name="resized_crop",
    operator="handgrad::resized_crop",
    function=batched_resized_crop,
    reference=batched_reference,
    module=None,
    samples=[
        Sample(
            "boxes",
            # No multiple of three is one of the other sizes, which would be taken for the batch.
            (numbers(3, 2, 7, 5), torch.tensor([[0, 1, 6, 4], [2, 0, 3, 5], [1, 1, 2, 2]])),
            {"size": (2, 3), "horizontal_flip": True, "mean": [0.4, 0.5], "std": [0.25, 0.3]},
        ),
        Sample(
            "cubic_boxes",
            (numbers(2, 1, 5, 5), torch.tensor([[0, 1, 2, 4], [2, 0, 3, 5]])),
            {
                "size": (6, 5),
                "window": (1, 1, 4, 3),
                "interpolation": "bicubic",
                "antialias": False,
                "vertical_flip": True,
            },
        ),
    ],
    large=Sample(
        "large",
        (
            numbers(4, 3, 131, 157).float(),
            torch.tensor([[0, 0, 131, 157], [5, 9, 60, 70], [1, 2, 3, 4], [9, 9, 99, 9]]),
        ),
        {"size": (97, 103)},
    ),
    empty=[Sample("batch", (numbers(0, 3, 4, 5), torch.zeros(0, 4, dtype=torch.int64)), {"size": 3})],
    lenient={**LENIENT, "images": is_level_image},
    device_scratch=TABLES,
    bad=[
        Bad(
            "kind",
            lambda: batched_resized_crop(IMAGE, BOXES.float(), 3),
            TypeError,
            "boxes must be a tensor of integers, as int64; got one of float32",
        ),
        Bad(
            "columns",
            lambda: batched_resized_crop(IMAGE, BOXES[:, :3], 3),
            RuntimeError,
            r"boxes must have shape \(images, 4\): .* got \(2, 3\)",
        ),
        Bad(
            "rows",
            lambda: batched_resized_crop(IMAGE, BOXES[:1], 3),
            RuntimeError,
            r"boxes must have shape .* got \(1, 4\)",
        ),
        Bad(
            "flips",
            lambda: batched_resized_crop(IMAGE, BOXES, 3, horizontal_flip=torch.ones(3).bool()),
            RuntimeError,
            r"horizontal_flip must have shape \(images,\), here \(2,\); got \(3,\)",
        ),
        Bad(
            "flip_kind",
            lambda: batched_resized_crop(IMAGE, BOXES, 3, vertical_flip=torch.ones(2)),
            TypeError,
            "vertical_flip must be True, False or .* booleans; got .* of float32",
        ),
        Bad("rank", lambda: batched_resized_crop(IMAGE[0], BOXES, 3), RuntimeError, "images must have 4 dimensions"),
        Bad(
            "list",
            lambda: batched_resized_crop([], BOXES, 3),
            ValueError,
            "images must be a tensor, or a list of at least one; got an empty list",
        ),
        Bad(
            "list_rank",
            lambda: batched_resized_crop([IMAGE], BOXES[:1], 3),
            RuntimeError,
            r"images\[0\] must have 3 dimensions",
        ),
        Bad(
            "list_rows",
            lambda: batched_resized_crop([IMAGE[0]], BOXES, 3),
            RuntimeError,
            "boxes must have a row for each of images, 1; got 2",
        ),
    ],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
)

test_matrix = matrix(SPEC)
test_matrix_of_levels = matrix(LEVELS_SPEC)
test_matrix_of_batches = matrix(BATCHED_SPEC)


# ---- torchvision's pictures ------------------------------------------------------------------------------------------


def random_calls(count, most, seed):
    """Boxes, sizes, flips, channels and memory orders, drawn."""
    generator = reseeded(seed)

    def below(limit):
        return int(torch.randint(0, limit, (), generator=generator))

    for _ in range(count):
        channels, height, width = (1, 3, 4, 3)[below(4)], 1 + below(most), 1 + below(most)
        image = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8, generator=generator)
        if below(3) == 0:
            image = (image > 127).to(torch.uint8) * 255  # overshoots with a cubic
        image = image.permute(2, 0, 1) if below(2) else image.permute(2, 0, 1).contiguous()
        h, w = 1 + below(height), 1 + below(width)
        box = (below(height - h + 1), below(width - w + 1), h, w)
        yield image, box, (1 + below(most), 1 + below(most)), bool(below(2)), bool(below(2))


def torchvisions(functional, image, box, size, mode, antialias, horizontal_flip, vertical_flip):
    from torchvision.transforms import InterpolationMode

    picture = functional.resized_crop(image, *box, list(size), InterpolationMode(mode), antialias)
    picture = functional.horizontal_flip(picture) if horizontal_flip else picture
    return functional.vertical_flip(picture) if vertical_flip else picture


def test_levels_are_pillows_to_the_bit():
    """Of one axis: which of two Pillow resizes first depends on its version."""
    image_module = pytest.importorskip("PIL.Image")
    for image, (top, left, height, width), (size, other), *flips in random_calls(80, 90, 7):
        packed = image.permute(1, 2, 0).contiguous()
        if image.shape[0] == 1:
            packed = packed[:, :, 0]
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[image.shape[0]]
        whole = image_module.frombuffer(mode, (image.shape[2], image.shape[1]), packed.numpy(), "raw", mode, 0, 1)
        crop = whole.crop((left, top, left + width, top + height))
        cubic, shape = flips[0], ((size, width) if flips[1] else (height, other))
        expected = crop.resize((shape[1], shape[0]), 3 if cubic else 2)
        found = resized_crop(
            image, top, left, height, width, shape, "bicubic" if cubic else "bilinear", rounding="pillow"
        )
        assert found.permute(1, 2, 0).contiguous().numpy().tobytes() == expected.tobytes(), f"{image.shape} to {shape}"


def test_a_quotient_is_the_division():
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        for size in (16, (16, 17)):
            picture = resized_crop(every, 0, 0, 16, 16, size, "nearest")
            found = resized_crop(every, 0, 0, 16, 16, size, "nearest", dtype=dtype, scaling="quotient")
            assert torch.equal(found, picture.to(dtype) / 255)
            assert not torch.equal(found, picture.to(dtype) * (1 / 255))
            found = resized_crop(
                every, 0, 0, 16, 16, size, "nearest", dtype=dtype, scaling="quotient", mean=[0.3], std=[0.21]
            )
            mean, std = torch.tensor([0.3, 0.21], dtype=dtype)
            assert torch.equal(found, (picture.to(dtype) / 255 - mean) / std)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16], ids=str)
def test_a_crop_that_keeps_its_size(dtype):
    """No sums are made; the picture is the same for any memory, rows of pixels in four bytes included."""
    for channels in (1, 2, 3, 4):
        wide = levels(11, 13, channels + 1).to(dtype)
        for image in (wide[:, :, :channels].permute(2, 0, 1), wide[:, :, :channels].permute(2, 0, 1).contiguous()):
            for horizontal_flip in (False, True):
                for vertical_flip in (False, True):
                    found = resized_crop(
                        image, 2, 3, 8, 7, (8, 7), horizontal_flip=horizontal_flip, vertical_flip=vertical_flip
                    )
                    flips = [dim for dim, flip in ((1, vertical_flip), (2, horizontal_flip)) if flip]
                    assert torch.equal(found, image[:, 2:10, 3:10].flip(flips))


def test_pixels_in_four_bytes():
    """As Pillow keeps those of three channels."""
    image = levels(40, 37, 4).permute(2, 0, 1)[:3]
    for size in ((9, 8), (30, 33), (37, 35), (90, 50)):
        expected = resized_crop(image.contiguous(), 2, 1, 37, 35, size, mean=MEAN[:3], std=STD[:3])
        assert torch.equal(resized_crop(image, 2, 1, 37, 35, size, mean=MEAN[:3], std=STD[:3]), expected)
    # The last pixel of memory has no fourth byte.
    tight = torch.zeros(40 * 37 * 4 - 1, dtype=torch.uint8).as_strided((3, 40, 37), (1, 37 * 4, 4)).copy_(image)
    assert torch.equal(resized_crop(tight, 0, 0, 40, 37, 11), resized_crop(image, 0, 0, 40, 37, 11))


SMOOTH = [(mode, antialias) for mode in ("bilinear", "bicubic") for antialias in (True, False)]


@pytest.mark.parametrize(("mode", "antialias"), [*SMOOTH, ("nearest", False), ("nearest-exact", False)])
def test_levels_are_torchvisions_to_the_bit(functional, mode, antialias):
    """And normalised they are what its ToDtype and Normalize make of them, to the bit too. vision#8399: elsewhere the
    levels of its CPU and of its CUDA kernels differ by one."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("here torchvision resizes uint8 through float32")
    for image, box, size, *flips in random_calls(60, 70, len(mode) + antialias):
        expected = torchvisions(functional, image, box, size, mode, antialias, *flips)
        both = dict(zip(("horizontal_flip", "vertical_flip"), flips, strict=True))
        found = resized_crop(image, *box, size, mode, antialias, **both)
        where = f"{tuple(image.shape)}, strides {image.stride()}, {box} to {size}"
        assert torch.equal(found, expected), where
        mean, std = MEAN[: len(image)], STD[: len(image)]
        normalised = functional.normalize(functional.to_dtype(expected, torch.float32, scale=True), mean, std)
        found = resized_crop(image, *box, size, mode, antialias, **both, mean=mean, std=std)
        assert torch.equal(found, normalised), where


@pytest.mark.tiers("whole")
@pytest.mark.parametrize(("mode", "antialias"), SMOOTH)
def test_levels_of_large_images_are_torchvisions(functional, mode, antialias):
    """Weights of so many taps are summed in int32, and the ring of rows is long."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("here torchvision resizes uint8 through float32")
    image = levels(3, 1500, 1300)
    for size in ((7, 1), (33, 500), (224, 224), (1600, 90)):
        expected = torchvisions(functional, image, (11, 2, 1480, 1290), size, mode, antialias, False, True)
        found = resized_crop(image, 11, 2, 1480, 1290, size, mode, antialias, vertical_flip=True)
        assert torch.equal(found, expected), f"{size}"


@pytest.mark.parametrize(("mode", "antialias"), SMOOTH)
def test_numbers_are_torchvisions(functional, mode, antialias):
    for image, box, size, *flips in random_calls(20, 60, 5):
        # Of one column torch's antialiased kernel for contiguous numbers makes another picture than of the same numbers
        # with channels innermost.
        size = (size[0], size[1] + 1)
        for dtype in (torch.float64, torch.float32):
            numbers = image.to(dtype) / 255
            expected = torchvisions(functional, numbers, box, size, mode, antialias, *flips)
            found = resized_crop(numbers, *box, size, mode, antialias, horizontal_flip=flips[0], vertical_flip=flips[1])
            # Its weights of float32 images are computed in float32.
            tolerance = {"rtol": 0, "atol": 2e-5} if dtype is torch.float32 else {}
            torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.tiers("whole")
def test_gradients_are_torchvisions(functional):
    image = numbers(1, 3, 21, 19)
    for mode, antialias in SMOOTH:
        grads = []
        for call in (
            lambda x, m=mode, a=antialias: torchvisions(functional, x, (2, 3, 17, 15), (9, 20), m, a, True, True),
            lambda x, m=mode, a=antialias: resized_crop(
                x, 2, 3, 17, 15, (9, 20), m, a, horizontal_flip=True, vertical_flip=True
            ),
        ):
            leaf = image.clone().requires_grad_()
            call(leaf).square().sum().backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.tiers("whole")
def test_the_same_seed_gives_the_picture_of_torchvisions_pipeline(functional):
    """As docs/transforms/resized_crop.md has it."""
    from torchvision.transforms import v2

    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("here torchvision resizes uint8 through float32")
    crop, mean, std = v2.RandomResizedCrop(24), MEAN[:3], STD[:3]
    steps = [crop, v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    theirs = v2.Compose(steps)

    def ours(image):
        box = crop.make_params([image])
        flip = bool(torch.rand(1) < 0.5)
        return resized_crop(image, **box, size=24, horizontal_flip=flip, mean=mean, std=std)

    with torch.random.fork_rng():
        for seed in range(30):
            image = levels(3, 90, 70 + seed, seed=seed)
            pictures = []
            for prepare in (theirs, ours):
                torch.manual_seed(seed)
                pictures.append(prepare(image))
            assert torch.equal(pictures[1], pictures[0]), f"seed {seed}"


@pytest.mark.tiers("whole")
def test_the_interpolation_may_be_torchvisions(functional):
    from torchvision.transforms import InterpolationMode

    image = levels(3, 9, 9)
    for mode in MODES:
        found = resized_crop(image, 0, 0, 9, 9, 4, InterpolationMode(mode))
        assert torch.equal(found, resized_crop(image, 0, 0, 9, 9, 4, mode))


# ---- types, layouts, batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_levels_become_numbers_of_any_type(dtype):
    image = levels(2, 3, 20, 17)
    picture = resized_crop(image, 1, 2, 18, 13, (9, 8))
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    scaled = picture.to(wide) * (1 / 255)
    found = resized_crop(image, 1, 2, 18, 13, (9, 8), dtype=dtype)
    assert found.dtype == dtype
    assert torch.equal(found, scaled.to(dtype))
    found = resized_crop(image, 1, 2, 18, 13, (9, 8), dtype=dtype, mean=[0.5, 0.25, 0.3], std=[0.2])
    mean = torch.tensor([0.5, 0.25, 0.3], dtype=wide)[:, None, None]
    assert torch.equal(found, ((scaled - mean) / torch.tensor(0.2, dtype=wide)).to(dtype))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
def test_memory_formats(kind):
    """Rows of pixels, as decoders leave them, and planes; in and out, one picture."""
    packed = levels(2, 12, 11, 3).to(kind).permute(0, 3, 1, 2)
    planes = packed.contiguous()
    sparse = planes.new_zeros(2, 3, 12, 22)[..., ::2].copy_(planes)
    expected = resized_crop(planes, 1, 1, 10, 9, (5, 20), mean=MEAN[:3], std=STD[:3])
    for image in (packed, planes, sparse, planes.transpose(2, 3).contiguous().transpose(2, 3)):
        for memory_format in (torch.preserve_format, torch.contiguous_format, torch.channels_last):
            found = resized_crop(image, 1, 1, 10, 9, (5, 20), mean=MEAN[:3], std=STD[:3], memory_format=memory_format)
            assert torch.equal(found, expected)
            kept = torch.channels_last if image is packed else torch.contiguous_format
            wanted = kept if memory_format is torch.preserve_format else memory_format
            assert found.is_contiguous(memory_format=wanted)


def test_a_batch_is_its_images():
    images = levels(5, 3, 30, 25)
    boxes = torch.tensor([[0, 0, 30, 25], [3, 4, 1, 1], [10, 0, 20, 5], [2, 2, 9, 20], [29, 24, 1, 1]])
    flips = torch.tensor([True, False, True, False, True])
    for mode, antialias in [*SMOOTH, ("nearest", True)]:
        whole = batched_resized_crop(
            images, boxes, (8, 9), mode, antialias, horizontal_flip=flips, vertical_flip=~flips, mean=[0.5], std=[0.5]
        )
        for index, (image, box, flip) in enumerate(zip(images, boxes.tolist(), flips.tolist(), strict=True)):
            alone = resized_crop(
                image, *box, (8, 9), mode, antialias, horizontal_flip=flip, vertical_flip=not flip, mean=[0.5],
                std=[0.5],
            )  # fmt: skip
            assert torch.equal(whole[index], alone)


def test_images_of_different_sizes():
    images = [levels(3, 12 + 3 * k, 20 - 2 * k, seed=k) for k in range(4)]
    boxes = torch.tensor([[0, 0, 12, 20], [1, 2, 5, 6], [0, 3, 18, 9], [4, 4, 4, 4]])
    flips = torch.tensor([False, True, True, False])
    found = batched_resized_crop(images, boxes, (6, 7), horizontal_flip=flips, mean=MEAN[:3], std=STD[:3])
    for index, (image, box, flip) in enumerate(zip(images, boxes.tolist(), flips.tolist(), strict=True)):
        alone = resized_crop(image, *box, (6, 7), horizontal_flip=flip, mean=MEAN[:3], std=STD[:3])
        assert torch.equal(found[index], alone)
    leaves = [image.float().requires_grad_() for image in images]
    batched_resized_crop(leaves, boxes, 3).sum().backward()
    assert all(leaf.grad.sum() > 8 for leaf in leaves)


@pytest.mark.tiers("whole")
def test_a_box_that_is_not_in_its_image():
    """On a device, which would have to be waited for, NaN."""
    for row in ([0, 0, 9, 9], [-1, 0, 2, 2], [0, 0, 0, 4], [0, 2**40, 1, 1]):
        with pytest.raises(RuntimeError, match=r"boxes must lie in the image of 8 x 9 pixels; got .* in row 1"):
            batched_resized_crop(IMAGE, torch.tensor([[0, 0, 8, 9], row]), 3)


def test_non_finite_pixels_stay_where_they_are():
    image = numbers(1, 1, 40, 40)
    image[0, 0, 20, 20] = math.inf
    found = resized_crop(image, 0, 0, 40, 40, 20, "bilinear")
    assert found.isfinite().sum() == 400 - found.isinf().sum()
    assert 1 <= found.isinf().sum() <= 9


@pytest.mark.tiers("whole")
def test_torchvision_need_not_be_there():
    import subprocess
    import sys

    program = (
        "import sys; sys.modules['torchvision'] = None; import torch, handgrad; "
        "print(handgrad.transforms.resized_crop(torch.zeros(3, 9, 9), 0, 0, 9, 9, 4).shape)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "torch.Size([3, 4, 4])" in run.stdout


@pytest.mark.tiers("whole")
@pytest.mark.parametrize(("mode", "antialias"), SMOOTH)
def test_onnx_of_float32_is_its_own_operator(tmp_path, mode, antialias):
    hg_onnx = pytest.importorskip("handgrad.onnx")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    class Prepared(torch.nn.Module):
        def forward(self, image):
            return resized_crop(
                image, 3, 2, 30, 33, (11, 40), mode, antialias, horizontal_flip=True, mean=MEAN[:3], std=STD[:3]
            )

    image = torch.rand(2, 3, 40, 40, generator=reseeded())
    hg_onnx.export(Prepared(), (image,), tmp_path / "crop.onnx", verify=True)
    assert "Resize" in [node.op_type for node in onnx.load(tmp_path / "crop.onnx").graph.node]
