"""Multi-scale structural similarity: its spec, and what is peculiar to it."""

import pytest
import torch
import torch.nn.functional as F

from handgrad.kinds.window_score import check_window, moments_of, stabilisers, structural_similarity
from handgrad.losses import MSSSIM, MSSSIMLoss, ms_ssim, ms_ssim_loss, ssim
from handgrad.testing import Bad, OpSpec, Sample, matrix
from handgrad.testing.spec import NOT_ON_A_DEVICE
from window_scores import all_derivatives, images

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SETTINGS = {"data_range": 1.0, "window_size": 3, "sigma": 0.8, "weights": (0.3, 0.7)}


def reference(
    input,
    target,
    data_range=1.0,
    window_size=11,
    sigma=1.5,
    window="gaussian",
    weights=WEIGHTS,
    negative="clip",
    k1=0.01,
    k2=0.03,
    reduction="mean",
):
    """The paper's formula, scale by scale, of scores above 0."""
    shape = check_window("ms_ssim", window_size, sigma, window, "valid", "mean")
    pool = F.avg_pool2d if input.dim() == 4 else F.avg_pool3d
    index = input.new_ones(input.shape[:2])
    for scale, weight in enumerate(weights):
        if scale and input.numel():
            input, target = pool(input, 2), pool(target, 2)
        numbers = (*stabilisers("ms_ssim", data_range, k1, k2), scale == len(weights) - 1)
        score = structural_similarity(moments_of(input, target, shape), *numbers).flatten(2).mean(2)
        index = index * ((1 + score) / 2 if negative == "shift" else score) ** weight
    summed = index.sum(1) if reduction == "image" else index.sum()
    return summed / max(1, index.shape[1] if reduction == "image" else index.numel())


def one_scale_is_a_power_of_ssim():
    one, other = images(2, 2, 9, 8)
    for weight in (1.0, 0.5):
        alone = ms_ssim(one, other, 1.0, 3, weights=[weight], reduction="image")
        by_plane = ssim(one.reshape(4, 1, 9, 8), other.reshape(4, 1, 9, 8), 1.0, 3, reduction="image").view(2, 2)
        torch.testing.assert_close(alone, (by_plane**weight).mean(1))


def symmetric():
    one, other = images(2, 2, 9, 8)
    torch.testing.assert_close(ms_ssim(one, other, **SETTINGS), ms_ssim(other, one, **SETTINGS))


def the_loss_is_the_rest():
    one, other = images(2, 2, 9, 8)
    for reduction in ("image", "mean"):
        torch.testing.assert_close(
            ms_ssim_loss(one, other, **SETTINGS, reduction=reduction),
            1 - ms_ssim(one, other, **SETTINGS, reduction=reduction),
        )
    torch.testing.assert_close(MSSSIMLoss(**SETTINGS)(one, other), ms_ssim_loss(one, other, **SETTINGS))


def sums_of_many():
    one, other = images(1, 1, 16, 16, dtype=torch.float32)
    many = [image.expand(1, 100, 16, 16) for image in (one, other)]
    expected = ms_ssim(one, other, 1.0, 3, weights=(1.0,))
    # Of the planes' means torch makes one, in float32.
    torch.testing.assert_close(ms_ssim(*many, 1.0, 3, weights=(1.0,)), expected, rtol=3e-7, atol=0)


def numel_beyond_int32():
    one, other = images(1, 1, 64, 64, dtype=torch.float32)
    # One plane for all of them: nothing but a sum for each is in memory.
    many = [image.expand(64, 2**13 + 1, 64, 64) for image in (one, other)]
    index = ms_ssim(*many, 1.0, 1, weights=(1.0,), reduction="image")
    torch.testing.assert_close(index[-1], ms_ssim(one, other, 1.0, 1, weights=(1.0,)), rtol=1e-5, atol=0)


ONE, OTHER = images(2, 2, 6, 7)

SPEC = OpSpec(
    name="ms_ssim",
    operator="handgrad::ms_ssim",
    function=ms_ssim,
    reference=reference,
    module=MSSSIM,
    samples=[
        Sample("two_scales", images(2, 2, 6, 7), SETTINGS),
        Sample("image", images(2, 1, 7, 6), {**SETTINGS, "negative": "shift", "reduction": "image"}),
        Sample("volume", images(1, 1, 4, 4, 5), {**SETTINGS, "window_size": 1, "weights": (0.5, 0.3)}),
    ],
    large=Sample("large", images(2, 3, 87, 171, dtype=torch.float32), {"data_range": 1.0, "weights": (0.2, 0.5, 0.3)}),
    empty=[Sample("no_batch", images(0, 3, 6, 7), SETTINGS)],
    autocast=torch.float32,
    widens=True,
    lenient={"weights": lambda value: isinstance(value, (tuple, list))},
    bad=[
        Bad("range", lambda: ms_ssim(ONE, OTHER), ValueError, r"ms_ssim: data_range must be given .*; got None"),
        Bad("even", lambda: ms_ssim(ONE, OTHER, 1, 4), ValueError, "window_size must be an odd number, .*; got 4"),
        Bad("window", lambda: MSSSIM(1, window="box"), ValueError, "window must be 'gaussian' or 'uniform'; got"),
        Bad("negative", lambda: MSSSIM(1, negative="relu"), ValueError, "negative must be 'clip' or 'shift'; got"),
        Bad("reduction", lambda: MSSSIMLoss(1, reduction="none"), ValueError, "reduction must be 'image' or 'mean'"),
        Bad("weights", lambda: MSSSIM(1, weights=()), TypeError, r"weights must be a list or tuple .*; got \(\)"),
        Bad("weight", lambda: MSSSIM(1, weights=(0.5, -0.1)), ValueError, "weights must be numbers from 0 to 1000"),
        Bad(
            "small",
            lambda: ms_ssim(ONE, OTHER, 1.0),
            RuntimeError,
            r"at least 176 pixels along each axis, so that after 4 halvings .* window of 11; got \(2, 2, 6, 7\)",
        ),
        Bad("rank", lambda: ms_ssim(ONE[0], OTHER[0], 1.0), RuntimeError, r"\(N, C, H, W\) or \(N, C, D, H, W\); got"),
    ],
    identities={"one_scale": one_scale_is_a_power_of_ssim, "symmetric": symmetric, "loss": the_loss_is_the_rest},
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    # What the powers keep of each plane and scale.
    saves=4096,
    # Halved images, and gradients of these, while a pass runs.
    scratch=512 * 1024,
    # Of two scales.
    device_calls={"forward": (6, 5, 0), "backward": (4, 7, 0), "double_backward": (10, 12, 0)},
    # Blocks read the pixels around their tiles again, which lie in the second-level cache; images are halved, and read
    # at every scale; the double backward is two passes.
    floor_factors={"forward": 4.1, "backward": 3.8, "double_backward": 8.1},
    pending={2: NOT_ON_A_DEVICE},
)

test_matrix = matrix(SPEC)


def test_all_derivatives_over_all_scales():
    one, other = images(1, 1, 90, 83)
    settings = {"data_range": 0.8, "window_size": 5, "weights": WEIGHTS}
    expected = all_derivatives(lambda x, y: reference(x, y, **settings), one, other)
    torch.testing.assert_close(all_derivatives(lambda x, y: ms_ssim(x, y, **settings), one, other), expected)


# ---- what users of other implementations reported --------------------------------------------------------------------


def opposite():
    image = torch.rand(3, 1, 190, 190, generator=torch.Generator().manual_seed(0))
    return image.requires_grad_(), 1 - image.detach()


def test_opposite_images_are_no_nan():
    """pytorch-msssim#7 and #16, jorge-pessoa/pytorch-msssim#2: a power of a negative contrast."""
    image, other = opposite()
    index = ms_ssim(image, other, 1.0, reduction="image")
    assert (index == 0).all()
    (grad,) = torch.autograd.grad(index.sum(), image)
    assert (grad == 0).all()


def test_shifted_contrast_still_has_a_gradient():
    """jorge-pessoa/pytorch-msssim#2: training stands still, or is NaN, before images are alike."""
    image, other = opposite()
    index = ms_ssim(image, other, 1.0, negative="shift", reduction="image")
    assert ((index > 0) & (index < 0.3)).all()
    (grad,) = torch.autograd.grad(index.sum(), image)
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("negative", ["clip", "shift"])
def test_the_gradient_is_finite_for_constant_images(negative):
    flat = torch.zeros(1, 1, 24, 24)
    for one, other in [(flat, flat), (flat, flat + 1), (flat, torch.rand(1, 1, 24, 24)), (flat + 0.5, flat + 0.5)]:
        leaf = one.clone().requires_grad_()
        index = ms_ssim(leaf, other, 1.0, 3, weights=(0.3, 0.3, 0.4), negative=negative)
        (grad,) = torch.autograd.grad(index, leaf)
        assert index.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_identical_images_score_one_to_the_bit(dtype):
    image = torch.rand(2, 3, 176, 180, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert (ms_ssim(image, image, 1.0, reduction="image") == 1).all()


def test_nan_stays():
    one, other = images(2, 1, 12, 12, dtype=torch.float32)
    one[0, 0, 3, 3] = float("nan")
    index = ms_ssim(one, other, **SETTINGS, reduction="image")
    assert index.isnan().tolist() == [True, False]


def test_bytes_have_a_range():
    one, other = ((image * 255).round().to(torch.uint8) for image in images(1, 3, 14, 15))
    settings = {"window_size": 3, "weights": (0.5, 0.5)}
    expected = ms_ssim(one.float(), other.float(), 255.0, **settings)
    torch.testing.assert_close(ms_ssim(one, other, **settings), expected, rtol=0, atol=0)


def test_a_scale_of_weight_zero_counts_nothing():
    one, other = images(1, 1, 12, 12)
    expected = ms_ssim(F.avg_pool2d(one, 2), F.avg_pool2d(other, 2), 1.0, 3, weights=(0.7,))
    torch.testing.assert_close(ms_ssim(one, other, 1.0, 3, weights=(0.0, 0.7)), expected)


# ---- values of others ------------------------------------------------------------------------------------------------


@pytest.mark.tiers("whole")
def test_equals_pytorch_msssim():
    theirs = pytest.importorskip("pytorch_msssim")
    one, other = images(1, 2, 176, 192, dtype=torch.float32)
    ours = ms_ssim(one, other, 1.0, reduction="image")
    torch.testing.assert_close(ours, theirs.ms_ssim(one, other, 1.0, size_average=False), rtol=1e-4, atol=1e-5)
