"""Filter response normalisation: its spec, its module, and what users reported of others."""

import pytest
import torch

import channel_norms as norms
import spatial_norms
from handgrad.layers import FilterResponseNormTlu2d, filter_response_norm
from handgrad.testing import Bad, OpSpec, matrix


def reference(input, weight=None, bias=None, tau=None, learned_eps=None, eps=1e-5):
    channels = (-1, *[1] * (input.dim() - 2))
    dims = tuple(range(2, input.dim()))
    positions = max(1, input.shape[2:].numel())
    square = input.square().sum(dims, keepdim=True) / positions if dims else input.square()
    square = square if learned_eps is None else square + learned_eps.abs().view(channels)
    output = input * (square + eps).rsqrt()
    output = output if weight is None else output * weight.view(channels)
    output = output if bias is None else output + bias.view(channels)
    return output if tau is None else torch.maximum(output, tau.view(channels))


def blind_to_scale():
    input, *others = norms.tensors(2, 7, 5, 3, of_channels=3)
    expected = filter_response_norm(input, *others, eps=0.0)
    torch.testing.assert_close(filter_response_norm(3 * input, *others, eps=0.0), expected)


def mean_square_of_one():
    output = filter_response_norm(norms.tensors(2, 7, 5, 3, of_channels=0)[0], eps=0.0)
    torch.testing.assert_close(output.square().mean((2, 3)), torch.ones(2, 7, dtype=torch.float64))


def one_position_is_a_sign():
    input = norms.tensors(2, 7, 1, 1, of_channels=0)[0]
    torch.testing.assert_close(filter_response_norm(input, eps=0.0), input.sign())


def numel_beyond_int32():
    assert spatial_norms.numel_beyond_int32(filter_response_norm) == 1.0


def sums_of_many():
    # Of as many ones the gradient of the weight is how many there are, by the root of 1 + eps.
    weight = torch.ones(2, requires_grad=True)
    many = 2**20
    output = filter_response_norm(torch.ones(()).expand(1, 2, many), weight, eps=0.0)
    (grad,) = torch.autograd.grad(output, weight, torch.ones(()).expand(1, 2, many))
    torch.testing.assert_close(grad / many, torch.ones(2), rtol=2.5e-7, atol=0)


INPUT, WEIGHT, BIAS, TAU, LEARNED = norms.tensors(2, 4, 3, of_channels=4)


def made_for(sample):
    names = ("input", "weight", "bias", "tau", "learned_eps")[: len(sample.tensors)]
    learned = 0.1 if "learned_eps" in names else None
    kwargs = {"apply_act": "tau" in names, "learned_eps": learned, **sample.kwargs}
    return {"num_features": sample.tensors[0].shape[1], **kwargs}


SPEC = OpSpec(
    name="filter_response_norm",
    operator="handgrad::filter_response_norm",
    function=filter_response_norm,
    tensors=["input", "weight", "bias", "tau", "learned_eps"],
    reference=reference,
    module=FilterResponseNormTlu2d,
    own=["weight", "bias", "tau", "learned_eps"],
    module_kwargs=made_for,
    samples=spatial_norms.samples(4),
    large=norms.large(4),
    empty=norms.empty(4),
    bad=[
        *norms.bad(filter_response_norm, lambda channels, affine=True, eps=1e-5: _module(channels, affine, eps))[:5],
        Bad("tau", lambda: filter_response_norm(INPUT, tau=TAU[:1]), RuntimeError, "tau must have shape"),
        Bad(
            "learned_eps",
            lambda: filter_response_norm(INPUT, learned_eps=LEARNED[:1]),
            RuntimeError,
            "learned_eps must have shape",
        ),
        Bad(
            "first_eps",
            lambda: FilterResponseNormTlu2d(4, learned_eps=float("nan")),
            ValueError,
            "learned_eps must be a finite number, or None; got nan",
        ),
        Bad(
            "num_features",
            lambda: FilterResponseNormTlu2d(0),
            ValueError,
            "num_features must be a whole number, at least 1; got 0",
        ),
        Bad(
            "apply_act",
            lambda: FilterResponseNormTlu2d(4, apply_act=1),
            TypeError,
            "apply_act must be True or False; got 1",
        ),
    ],
    identities={"scale": blind_to_scale, "mean_square": mean_square_of_one, "sign": one_position_is_a_sign},
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    autocast=torch.float32,
    optional=["weight", "bias", "tau", "learned_eps"],
    rows=["batch", "", "", "", ""],
    shards=[((0, None, None, None, None), 0), ((1, 0, 0, 0, 0), 1)],
    lenient={"input": norms.is_an_input},
    tolerances={
        # The gradient of a bias is a sum of thousands of terms, a thousand of them in float32: 4e-6 of it.
        torch.float32: (1e-5, 5e-5),
    },
    # The sums of 30 pieces of each image, channels last, and what is made of them.
    device_scratch=1 << 17,
    device_calls={"forward": (3, 3, 0), "backward": (6, 8, 0), "double_backward": (6, 6, 0)},
    # What is summed over a map is read once for the sums and once more for the elements; with thresholds the slopes of
    # what they cut off are read for both.
    floor_factors={"forward": 1.6, "backward": 2.1, "double_backward": 2.1},
)

test_matrix = matrix(SPEC)


def _module(channels, affine, eps):
    return FilterResponseNormTlu2d(channels, affine, eps)


def test_equals_the_definition_in_any_layout():
    spatial_norms.in_any_layout(filter_response_norm, reference, 4)
    spatial_norms.in_any_layout(filter_response_norm, reference, 2)


def test_gradients_of_each_sample():
    norms.per_sample(filter_response_norm, 4)


@pytest.mark.parametrize("last", [False, True])
def test_equals_share_the_gradient(last):
    """A channel of zeros under the first parameters is at its threshold: 0 = 0. As torch.maximum has it."""
    input, weight, *_ = norms.tensors(2, 9, 4, 3, of_channels=1)
    input[0, 2] = 0
    input = norms.channels_innermost(input) if last else input
    zeros = torch.zeros(9, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (input, weight, zeros.clone(), zeros.clone())]
    ours, theirs = (spatial_norms.derivatives(function, leaves) for function in (filter_response_norm, reference))
    assert all(tensor.isfinite().all() for tensor in ours)
    torch.testing.assert_close(ours, theirs)
    (grad,) = torch.autograd.grad(filter_response_norm(*leaves)[0, 2].sum(), leaves[3])
    assert grad[2] == 6.0


def test_the_gradient_of_an_eps_of_zero_is_zero():
    """The kink of the absolute value, as torch.abs has it."""
    input = norms.tensors(2, 3, 1, 1, of_channels=0)[0]
    learned = torch.tensor([0.0, 1e-4, -1e-4], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(filter_response_norm(input, learned_eps=learned).abs().sum(), learned)
    assert grad[0] == 0
    assert grad[1] < 0 < grad[2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_zeros_of_half_types_are_the_bias(dtype):
    """An eps of 1e-12 is 0 in float16."""
    input = torch.zeros(2, 4, 3, 3, dtype=dtype, requires_grad=True)
    output = filter_response_norm(input, None, torch.ones(4), eps=1e-12)
    assert output.eq(1).all()
    (grad,) = torch.autograd.grad(output.sum(), input)
    assert not grad.isnan().any()


def test_squares_may_overflow():
    spatial_norms.finite_beyond_the_squares(filter_response_norm, reference, 4)


@pytest.mark.parametrize("shape", [(2, 6, 9), (2, 6, 3, 4), (2, 6, 3, 2, 2)])
def test_one_two_and_three_dimensions(shape):
    """tensorflow/addons#1441, gupta-abhay/pytorch-frn#9: only images, or each rank by a class of its own."""
    tensors = norms.tensors(*shape, of_channels=4)
    torch.testing.assert_close(filter_response_norm(*tensors), reference(*tensors))


def test_autocast_gives_what_float32_gives():
    input, *others = norms.tensors(2, 6, 5, 3, of_channels=3, dtype=torch.float32)
    input = 1e4 * input
    with torch.autocast("cpu", torch.bfloat16):
        output = filter_response_norm(input.bfloat16(), *others)
    assert output.dtype is torch.float32
    torch.testing.assert_close(output, reference(input.bfloat16().float(), *others))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("last", [False, True])
def test_what_is_not_finite_stays_in_its_channel(value, last):
    input, *others = norms.tensors(2, 9, 5, 7, of_channels=3, dtype=torch.float32)
    input[1, 4, 2, 3] = value
    input = norms.channels_innermost(input) if last else input
    leaves = [tensor.requires_grad_() for tensor in (input, *others)]
    output = filter_response_norm(*leaves)
    torch.testing.assert_close(output, reference(*leaves), equal_nan=True)
    (grad,) = torch.autograd.grad(output.sum(), input)
    others_finite = torch.ones(2, 9, dtype=torch.bool)
    others_finite[1, 4] = False
    assert output[others_finite].isfinite().all()
    assert grad[others_finite].isfinite().all()
    # NaN is never below a threshold, whichever of the two it is.
    tau = torch.full((9,), float("nan"))
    assert filter_response_norm(input.detach(), tau=tau).isnan().all()


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("apply_act", [False, True])
def test_loads_the_state_dicts_of_others(apply_act):
    layers = pytest.importorskip("timm.layers.filter_response_norm", reason="timm does not load")
    input, weight, bias, tau = norms.tensors(2, 6, 5, 4, of_channels=3, dtype=torch.float32)
    theirs = layers.FilterResponseNormTlu2d(6, apply_act=apply_act)
    ours = FilterResponseNormTlu2d(6, apply_act=apply_act)
    torch.testing.assert_close(ours(input), theirs(input))
    theirs.load_state_dict({"weight": weight, "bias": bias, **({"tau": tau} if apply_act else {})})
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(input), theirs(input))
    assert repr(ours) == f"FilterResponseNormTlu2d(6, apply_act={apply_act}, eps=1e-05, learned_eps=None)"
