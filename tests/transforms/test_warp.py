import math

import pytest
import torch

from handgrad._warping import perspective_coefficients
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded
from handgrad.transforms import affine, perspective, rotate, warp
from handgrad.transforms.warp import warp_reference
from transform_images import NO_DERIVATIVES, is_level_image, is_number_image, levels, needs_fma

TURNED = [[0.83, -0.47, 2.337], [0.52, 0.79, -1.142]]
TILTED = [[0.9, 0.13, -0.4], [-0.21, 0.8, 1.7], [0.013, -0.017, 1.1]]


def numbers(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=reseeded(seed))


def table(*matrices):
    return torch.tensor(matrices, dtype=torch.float64)


def reference(image, matrix, size=None, *, interpolation="bilinear", fill=None, centered=False):
    """The public function's arguments, given to the reference."""
    images = image.unsqueeze(0) if image.dim() == 3 else image
    by = torch.as_tensor(matrix, dtype=torch.float64, device=image.device)
    by = by.expand(images.shape[0], -1, -1) if by.dim() == 2 else by
    height, width = images.shape[-2:] if size is None else (size, size) if isinstance(size, int) else size
    fills = [] if fill is None else fill if isinstance(fill, list) else [fill]
    mode = {"nearest": 0, "bilinear": 1}[interpolation]
    output = warp_reference(images, by, [], height, width, mode, [float(x) for x in fills], centered)
    return output.squeeze(0) if image.dim() == 3 else output


def slope(*shape):
    """Whole numbers, which all types hold, without kinks: positions in float32 may be on the other side of one."""
    rows, columns = torch.arange(shape[-2]).float(), torch.arange(shape[-1]).float()
    return (columns + 2 * rows[:, None]).expand(shape).clone()


# ---- identities ------------------------------------------------------------------------------------------------------


def the_identity_changes_nothing():
    for image in (numbers(2, 3, 7, 5), levels(2, 3, 7, 5), levels(1, 7, 5)):
        for fill in (None, 3.0):
            for centered in (False, True):
                for rows in (2, 3):
                    found = warp(image, torch.eye(3)[:rows], fill=fill, centered=centered)
                    torch.testing.assert_close(found, image)


def whole_pixels_are_moved():
    image = levels(2, 3, 9, 8)
    for mode in ("nearest", "bilinear"):
        moved = warp(image, [[1, 0, 2], [0, 1, -1]], interpolation=mode, fill=7)
        assert torch.equal(moved[:, :, 1:, :-2], image[:, :, :-1, 2:])
        assert moved[:, :, 0].eq(7).all()
        assert moved[:, :, :, -2:].eq(7).all()
        turned = warp(image, [[0, 1, 0], [1, 0, 0]], (8, 9), interpolation=mode)
        assert torch.equal(turned, image.transpose(2, 3))


def a_scaled_matrix_is_the_same_map():
    image = numbers(2, 3, 9, 8)
    by = table(*TILTED)
    torch.testing.assert_close(warp(image, 3 * by), warp(image, by))
    torch.testing.assert_close(warp(image, -by), warp(image, by))


def an_image_beyond_int32():
    """Rows that are one row in memory, and channels that are far apart."""
    row = levels(1, 1, 1, 700)
    image = row.expand(1, 1, 2**22, 700)
    found = warp(image, [[1, 0, 0], [0, 1, 2**22 - 4]], (4, 700), interpolation="nearest")
    assert torch.equal(found, row.expand(1, 1, 4, 700))
    far = torch.empty(2**31 + 999, dtype=torch.uint8).as_strided((1, 2, 7, 9), (0, 2**31, 90, 9))
    far.copy_(levels(1, 2, 7, 9, seed=3))
    assert torch.equal(warp(far, TURNED), warp(far.contiguous(), TURNED))


def many_pixels_are_one_sum():
    """Of the matrix's gradient: ninety thousand pixels of a ramp, whose slope is 1 everywhere inside."""
    side = 300
    ramp = torch.arange(side).float().expand(1, 1, side, side)
    by = torch.tensor([[1, 0, 0.5], [0, 1, 0.5]], requires_grad=True)
    warp(ramp, by, side - 1).sum().backward()
    torch.testing.assert_close(by.grad[0, 2].item(), float((side - 1) ** 2), rtol=1e-6, atol=0)


# ---- specs -----------------------------------------------------------------------------------------------------------

IMAGE = torch.rand(2, 3, 8, 9)
EYE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


BAD = [
    Bad("rank", lambda: warp(IMAGE[0, 0], EYE), RuntimeError, "image must have 3 or 4 dimensions"),
    Bad("int16", lambda: warp(IMAGE.short(), EYE), TypeError, "image must be uint8, .* got int16"),
    Bad("rows", lambda: warp(IMAGE, [[1.0, 0.0]]), TypeError, "matrix must be a tensor, or two or three rows"),
    Bad("none", lambda: warp(IMAGE, 3.0), TypeError, "matrix must be .* rows of three numbers; got float"),
    Bad(
        "nan", lambda: warp(IMAGE, [[math.nan, 0, 0], [0, 1, 0]]), ValueError, "matrix must be finite numbers; got nan"
    ),
    Bad("shape", lambda: warp(IMAGE, torch.eye(2)), RuntimeError, r"matrix must be \(2, 3\) or .* got \(2, 2\)"),
    Bad(
        "batch",
        lambda: warp(IMAGE, torch.eye(3).expand(3, 3, 3)),
        RuntimeError,
        r"matrix must have shape \(images, 2 or 3, 3\), here \(2, 2 or 3, 3\); got \(3, 3, 3\)",
    ),
    Bad(
        "kind", lambda: warp(IMAGE, torch.eye(3).long()), TypeError, "matrix must be a tensor of floating-point numbers"
    ),
    Bad("size", lambda: warp(IMAGE, EYE, 0), ValueError, "size must be"),
    Bad("mode", lambda: warp(IMAGE, EYE, interpolation="bicubic"), ValueError, "interpolation must be"),
    Bad("fills", lambda: warp(IMAGE, EYE, fill=[1, 2]), ValueError, r"fill must be a number, or one a channel, 3; got"),
    Bad(
        "level",
        lambda: warp(levels(3, 4, 4), EYE, fill=256),
        ValueError,
        "fill must be numbers from 0 to 255 beside a uint8 image; got 256",
    ),
    Bad("no_pixels", lambda: warp(IMAGE[:, :, :0], EYE, 3), RuntimeError, "image must have at least 1 and at most"),
    Bad("scale", lambda: affine(IMAGE, 0, [0, 0], 0.0, 0), ValueError, "scale must be a finite number greater than 0"),
    Bad("translate", lambda: affine(IMAGE, 0, [0], 1.0, 0), TypeError, r"translate must be two numbers; got \[0\]"),
    Bad("angle", lambda: rotate(IMAGE, math.inf), ValueError, "angle must be a finite number; got inf"),
    Bad("points", lambda: perspective(IMAGE, None, None), ValueError, "either startpoints and endpoints must be given"),
    Bad(
        "three_points",
        lambda: perspective(IMAGE, [[0, 0]] * 3, [[0, 0]] * 3),
        ValueError,
        "startpoints must be four points of x and y",
    ),
    Bad(
        "on_a_line",
        lambda: perspective(IMAGE, [[0, 0], [1, 0], [1, 1], [0, 1]], [[0, 0], [1, 1], [2, 2], [0, 1]]),
        ValueError,
        "no three of the endpoints must lie on a line",
    ),
    Bad(
        "coefficients",
        lambda: perspective(IMAGE, None, None, coefficients=[1.0]),
        ValueError,
        "coefficients must be eight numbers",
    ),
]

SPEC = OpSpec(
    name="warp",
    operator="handgrad::warp",
    function=warp,
    tensors=("image", "matrix"),
    reference=reference,
    module=None,
    samples=[
        # A batch of another size than the matrix has rows: torch.compile takes equal sizes for the same.
        Sample("affine", (numbers(4, 2, 5, 6, seed=3), table(*[TURNED, [[0.9, 0.2, -0.337], [0.1, 0.6, 0.871]]] * 2))),
        Sample("filled", (numbers(2, 2, 4, 5), table(TURNED, TURNED)), {"fill": [0.3, -0.7], "size": (3, 4)}),
        Sample("projective", (numbers(2, 2, 5, 4), table(TILTED, TILTED)), {"size": (4, 3)}),
        Sample(
            "centered",
            (numbers(2, 2, 4, 4), table(TILTED, [[1.3, 0, 0.37], [0.1, 0.9, 0.41], [0, 0.1, 1]])),
            {"centered": True, "fill": 0.25},
        ),
        Sample("nearest", (numbers(2, 3, 4, 5), table(TURNED, TURNED)), {"interpolation": "nearest", "fill": 0.5}),
    ],
    large=Sample(
        "large",
        (slope(8, 12, 21, 27), (table(*[[[0.31, -0.17, 9.3], [0.12, 0.33, 4.1]]] * 8) + numbers(8, 2, 3) / 50).float()),
    ),
    empty=[
        Sample("batch", (numbers(0, 3, 4, 5), torch.zeros(0, 2, 3).double())),
        Sample("channels", (numbers(2, 0, 4, 5), table(EYE, EYE))),
    ],
    lenient={"image": is_level_image, "matrix": lambda value: True, "size": lambda value: True,
             "fill": lambda value: value is None or isinstance(value, list)},
    bad=BAD,
    identities={"identity": the_identity_changes_nothing, "whole": whole_pixels_are_moved,
                "scaled": a_scaled_matrix_is_the_same_map},
    numel_beyond_int32=an_image_beyond_int32,
    sums_of_many=many_pixels_are_one_sum,
    # Each of four pixels is read by itself; neighbouring threads find them in the first-level cache. Derivatives gather
    # what reads a pixel, and the sums of the matrix read the image anew.
    floor_factors={"forward": 2.6, "backward": 4.1, "double_backward": 5.2},
    device_calls={"forward": (1, 1, 0), "backward": (3, 3, 0), "double_backward": (3, 3, 0)},
    # The matrix in double, of eight images, for either derivative.
    saves=2 * 8 * 48,
    # Sums of the warps, of eight images and three launches.
    device_scratch=8 * 3 * 9216 + 1024,
)  # fmt: skip

LEVELS_SPEC = OpSpec(
    name="warp",
    operator="handgrad::warp",
    function=warp,
    tensors=("image",),
    reference=reference,
    module=None,
    samples=[
        Sample("affine", (levels(2, 3, 9, 8),), {"matrix": TURNED}),
        Sample("filled", (levels(2, 3, 9, 8),), {"matrix": TURNED, "fill": [20, 30, 200], "size": (7, 11)}),
        Sample("projective", (levels(2, 1, 9, 8),), {"matrix": TILTED, "fill": 99}),
        Sample("nearest", (levels(2, 3, 9, 8),), {"matrix": TURNED, "interpolation": "nearest", "centered": True}),
    ],
    large=Sample("large", (levels(3, 3, 131, 157),), {"matrix": [[0.7, 0.3, 9.0], [-0.2, 0.8, 31.0]], "fill": 128}),
    empty=[Sample("batch", (levels(0, 3, 4, 5),), {"matrix": TURNED})],
    dtypes=(torch.uint8,),
    private_ops=(),
    derivatives=False,
    lenient={"image": is_number_image, "matrix": lambda value: True, "size": lambda value: True,
             "fill": lambda value: value is None or isinstance(value, list)},
    bad=[],
    identities={},
    numel_beyond_int32=an_image_beyond_int32,
    floor_factors={"forward": 4.0},
    device_calls={"forward": (1, 1, 0)},
    not_applicable={3: NO_DERIVATIVES, 8: "levels stay levels", 15: NO_DERIVATIVES},
)  # fmt: skip

test_matrix = matrix(SPEC)
test_matrix_of_levels = matrix(LEVELS_SPEC)


# ---- torchvision's pictures ------------------------------------------------------------------------------------------


def drawn(height, width, generator):
    """Arguments of all three functions."""
    numbers = (2 * torch.rand(12, generator=generator) - 1).tolist()
    corners = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    # Whole ones: of others torchvision rounds some products to float32.
    ends = [[round(x * 0.9 + n * width / 4), round(y * 0.9 + m * height / 4)]
            for (x, y), n, m in zip(corners, numbers[:4], numbers[4:8], strict=True)]  # fmt: skip
    translate, shear = [numbers[0] * width, numbers[1] * height], [30 * numbers[2], 20 * numbers[3]]
    center = [width * numbers[4], height * numbers[5]] if numbers[6] > 0 else None
    return {
        "affine": {"angle": 180 * numbers[7], "translate": translate, "scale": 1.2 + numbers[8], "shear": shear,
                   "center": center},
        "rotate": {"angle": 180 * numbers[9], "expand": numbers[10] > 0, "center": center},
        "perspective": {"startpoints": corners, "endpoints": ends},
    }  # fmt: skip


FUNCTIONS = {"affine": affine, "rotate": rotate, "perspective": perspective}


@needs_fma
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64], ids=str)
def test_pictures_are_torchvisions(kind, functional):
    """To the bit, uint8 and floating-point, over sizes, modes, fills, and memory in both orders."""
    from torchvision.transforms import InterpolationMode

    generator = reseeded(5)
    for case in range(24):
        height, width = torch.randint(8, 130, (2,), generator=generator).tolist()
        channels = (1, 3, 4, 3)[case % 4]
        image = levels(channels, height, width, seed=case)
        image = image.movedim(0, 2).contiguous().movedim(2, 0) if case % 2 else image
        image = image if kind is torch.uint8 else image.to(kind) / 255
        for name, arguments in drawn(height, width, generator).items():
            if name == "perspective" and kind is torch.float64:
                # Of points torchvision's least squares have other last bits, which double shows.
                found = perspective_coefficients(name, *arguments.values())
                arguments = {"startpoints": None, "endpoints": None, "coefficients": found}
            for mode in ("nearest", "bilinear"):
                for fill in (None, 0, 100.0, [3.0, 200.0, 7.0, 1.0][:channels]):
                    how = {**arguments, "interpolation": InterpolationMode(mode), "fill": fill}
                    expected = getattr(functional, name)(image, **how)
                    found = FUNCTIONS[name](image, **how)
                    assert torch.equal(found, expected), f"{name} of {tuple(image.shape)}, {how}"


@needs_fma
def test_large_pictures_are_torchvisions(functional):
    image = levels(3, 700, 900).movedim(0, 2).contiguous().movedim(2, 0)
    for name, arguments in drawn(700, 900, reseeded(2)).items():
        how = {**arguments, "interpolation": "bilinear", "fill": 9}
        expected = getattr(functional, name)(image, **{**how, "interpolation": 2})
        assert torch.equal(FUNCTIONS[name](image, **how), expected)


@pytest.mark.tiers("whole")
def test_quarters_of_a_turn_and_expanded_sizes(functional):
    for height, width in ((7, 7), (5, 9), (64, 48)):
        image = levels(3, height, width)
        for angle in (*range(-720, 721, 90), 45, 30.0, 0.001, 89.999, 179.5):
            for expand in (False, True):
                assert torch.equal(rotate(image, angle, expand=expand), functional.rotate(image, angle, expand=expand))
    video = levels(2, 4, 3, 6, 5)
    assert torch.equal(rotate(video, 33, fill=4), functional.rotate(video, 33, fill=4))
    empty = levels(0, 3, 6, 5)
    assert affine(empty, 3, [0, 0], 1.0, 0).shape == empty.shape


@pytest.mark.tiers("whole")
def test_a_half_precision_picture_has_coordinates_of_float(functional):
    """torchvision's grid is of the image's type, and NaN beyond some size (vision#9029)."""
    image = numbers(1, 1024, 1024).half()
    found = rotate(image, 30, "bilinear", fill=0)
    assert found.isfinite().all()
    expected = functional.rotate(image.float(), 30, interpolation=functional.InterpolationMode.BILINEAR, fill=0)
    torch.testing.assert_close(found, expected.half(), rtol=0, atol=1e-3)


# ---- what a definition leaves open -----------------------------------------------------------------------------------


def test_nan_stays_where_it_is_read():
    image = numbers(1, 2, 6, 7)
    image[0, 0, 2, 3] = math.nan
    found = warp(image, [[1, 0, 0.5], [0, 1, 0.5]])
    assert found.isnan().sum() == 4
    assert found[0, 0, 1:3, 2:4].isnan().all()
    assert not warp(image, [[1, 0, 40], [0, 1, 0]]).isnan().any()
    image[0, 0, 2, 3] = math.inf  # outside is 0, whatever stands at the border
    assert not warp(image, [[1, 0, 40], [0, 1, 0]], fill=1).isnan().any()


@pytest.mark.parametrize("fill", [None, 3.0])
def test_positions_that_are_no_numbers(fill):
    image, around = numbers(1, 2, 4, 5), fill or 0.0
    far = torch.tensor([[1.0, 0, math.inf], [0, 1, 0]])
    assert warp(image, far, fill=fill).eq(around).all()
    assert warp(image, 1e30 * torch.eye(3)[:2], fill=fill).eq(around).all()
    nowhere = torch.tensor([[math.nan, 0, 0], [0, 1, 0]])
    assert warp(image, nowhere, fill=fill).isnan().all()
    assert warp(image, nowhere, interpolation="nearest", fill=fill).eq(around).all()
    whole = (image * 255).to(torch.uint8)
    assert warp(whole, nowhere, fill=fill).eq(0).all()
    # Where it is divided by zero nothing is seen: 1 / 0 is infinite.
    horizon = [[1.0, 0, 1], [0, 1, 1], [1, 0, -2.5]]
    assert warp(image, horizon, fill=fill)[..., 2].eq(around).all()


def test_a_kink_has_the_slope_of_its_right_side():
    """At a whole position a corner begins; as torch's grid_sample has it."""
    image = torch.tensor([0.0, 1.0, 5.0]).double().view(1, 1, 1, 3)
    by = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64, requires_grad=True)
    warp(image, by)[..., 1].sum().backward()
    assert by.grad[0, 2] == 4


MATRICES = {
    "singular": [[0.513, 0.513, 1.017], [0.513, 0.513, 0.971], [0, 0, 1]],
    "a_point": [[0, 0, 2.3], [0, 0, 3.1], [0, 0, 1]],
    "mirrored": [[-1.1, 0.2, 7.3], [0.1, 0.9, 0.3], [0, 0, 1]],
    "larger": [[0.13, 0.02, 1.1], [-0.03, 0.17, 1.3], [0, 0, 1]],
    "smaller": [[4.3, 0.2, -9.1], [0.3, 5.1, -11.7], [0, 0, 1]],
    "tilted": TILTED,
    "horizon": [[0.917, 0.113, -3.171], [0.203, 0.719, -2.339], [0.1317, 0.0519, -0.9371]],
    "sheared": [[1, 30.1, -100.3], [0, 1, 0.21], [0, 0, 1]],
}


@pytest.mark.parametrize("name", MATRICES)
def test_gradients_of_all_kinds_of_matrices(name):
    """Kernels that gather ask the inverse which outputs a pixel is read by; here there is none, or one with poles."""
    for mode, centered, size in (("bilinear", False, (9, 8)), ("nearest", False, (9, 8)), ("bilinear", True, (13, 5))):
        image = numbers(1, 2, 7, 9).requires_grad_()
        how = {"interpolation": mode, "centered": centered, "fill": 0.3, "size": size}
        by = table(MATRICES[name]).requires_grad_()
        expected, found = reference(image, by, **how), warp(image, by, **how)
        torch.testing.assert_close(found, expected)
        weights = numbers(*found.shape, seed=4)
        inputs = (image, by) if mode == "bilinear" else (image,)
        wanted = torch.autograd.grad((expected * weights).sum(), inputs)
        for own, other in zip(torch.autograd.grad((found * weights).sum(), inputs), wanted, strict=True):
            torch.testing.assert_close(own, other)


# ---- types, layouts, batches -----------------------------------------------------------------------------------------


def test_a_batch_is_its_images():
    by = torch.stack([torch.tensor(TILTED), torch.eye(3), torch.tensor(MATRICES["larger"])])
    for image in (levels(3, 3, 30, 25), numbers(3, 3, 30, 25).float()):
        whole = warp(image, by, (20, 31), fill=9)
        for index in range(3):
            assert torch.equal(whole[index], warp(image[index], by[index].tolist(), (20, 31), fill=9))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float16], ids=str)
def test_memory_formats(kind):
    four = levels(2, 12, 11, 4)
    four = four if kind is torch.uint8 else (four / 255).to(kind)
    packed = four[..., :3].contiguous().permute(0, 3, 1, 2)
    planes = packed.contiguous()
    sparse = planes.new_zeros(2, 3, 12, 22)[..., ::2].copy_(planes)
    turned = planes.transpose(2, 3).contiguous().transpose(2, 3)
    for mode in ("nearest", "bilinear"):
        for fill in (None, 60.0):
            expected = warp(planes, TURNED, interpolation=mode, fill=fill)
            for image in (packed, sparse, turned, four[..., :3].permute(0, 3, 1, 2), planes.flip(3).flip(3)):
                found = warp(image, TURNED, interpolation=mode, fill=fill)
                assert torch.equal(found, expected)
            kept = warp(packed, TURNED, interpolation=mode, fill=fill)
            assert kept.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.tiers("whole")
def test_levels_have_no_slope():
    by = torch.eye(3, requires_grad=True)
    assert not warp(levels(3, 4, 4), by).requires_grad
    assert warp(numbers(3, 4, 4).float(), by).requires_grad


@pytest.mark.tiers("whole")
def test_numbers_that_are_none_are_refused_by_the_op():
    with pytest.raises(RuntimeError, match="matrix must have 2 or 3 rows of 3 numbers; got 4 numbers"):
        torch.ops.handgrad.warp(IMAGE, None, [1.0] * 4, 3, 3, 1, [], False)
    with pytest.raises(RuntimeError, match=r"interpolation must be 0 \(nearest\) or 1 \(bilinear\); got 2"):
        torch.ops.handgrad.warp(IMAGE, None, [1.0] * 6, 3, 3, 2, [], False)
