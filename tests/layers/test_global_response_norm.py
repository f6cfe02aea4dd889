"""Global response normalisation: its spec, its module, and what users reported of others."""

import pytest
import torch

import channel_norms as norms
import spatial_norms
from handgrad.layers import GlobalResponseNorm, global_response_norm
from handgrad.testing import Bad, OpSpec, matrix


def reference(input, weight=None, bias=None, eps=1e-6):
    dims = tuple(range(2, input.dim()))
    norm = torch.linalg.vector_norm(input, dim=dims, keepdim=True) if dims else input.square().sqrt()
    output = input * (norm / (norm.mean(1, keepdim=True) + eps))
    channels = (-1, *[1] * (input.dim() - 2))
    output = output if weight is None else output * weight.view(channels)
    output = input + output
    return output if bias is None else output + bias.view(channels)


def grows_with_the_input():
    input = norms.tensors(2, 7, 5, 3, of_channels=0)[0]
    torch.testing.assert_close(global_response_norm(3 * input, eps=0.0), 3 * global_response_norm(input, eps=0.0))


def equal_norms_have_a_response_of_one():
    input, weight, bias = norms.tensors(2, 7, 5)
    input = input / input.norm(dim=2, keepdim=True)
    expected = input * (1 + weight[:, None]) + bias[:, None]
    torch.testing.assert_close(global_response_norm(input, weight, bias, eps=0.0), expected)


def without_weight_and_bias_of_0_nothing_changes():
    input = norms.tensors(2, 7, 5, of_channels=0)[0]
    zeros = torch.zeros(7, dtype=torch.float64)
    torch.testing.assert_close(global_response_norm(input, zeros, zeros), input, rtol=0, atol=0)


def numel_beyond_int32():
    assert spatial_norms.numel_beyond_int32(global_response_norm) == 2.0


def sums_of_many():
    # Two channels of as many ones have a response of one, and the gradient of the weight is how many there are.
    weight = torch.ones(2, requires_grad=True)
    many = 2**20
    output = global_response_norm(torch.ones(()).expand(1, 2, many), weight)
    (grad,) = torch.autograd.grad(output, weight, torch.ones(()).expand(1, 2, many))
    torch.testing.assert_close(grad / many, torch.ones(2), rtol=2.5e-7, atol=0)


INPUT, WEIGHT, BIAS = norms.tensors(2, 4, 3)


SPEC = OpSpec(
    name="global_response_norm",
    operator="handgrad::global_response_norm",
    function=global_response_norm,
    tensors=["input", "weight", "bias"],
    reference=reference,
    module=GlobalResponseNorm,
    own=["weight", "bias"],
    module_kwargs=lambda sample: {"dim": sample.tensors[0].shape[1], "channels_last": False, **sample.kwargs},
    # The module's own weight is 0 at first, that of a function without one 1.
    samples=spatial_norms.samples(2, fewest=1),
    large=norms.large(2),
    empty=norms.empty(2),
    bad=[
        Bad(
            "eps", lambda: GlobalResponseNorm(4, -1.0), ValueError, "eps must be a finite number, at least 0; got -1.0"
        ),
        Bad(
            "rank",
            lambda: global_response_norm(WEIGHT),
            RuntimeError,
            r"input must have 2 to 5 dimensions \(batch, channels, positions...\); got \(4,\)",
        ),
        Bad("weight_shape", lambda: global_response_norm(INPUT, WEIGHT[:3]), RuntimeError, "weight must have shape"),
        Bad("bias_shape", lambda: global_response_norm(INPUT, WEIGHT, BIAS[:1]), RuntimeError, "bias must have shape"),
        Bad(
            "weight_dtype",
            lambda: global_response_norm(INPUT.float(), WEIGHT),
            TypeError,
            "weight must be of float32, bfloat16 or float16 beside an input that is computed in float32; got float64",
        ),
        Bad("dim", lambda: GlobalResponseNorm(0), ValueError, "dim must be a whole number, at least 1; got 0"),
        Bad(
            "channels_last",
            lambda: global_response_norm(INPUT, channels_last=1),
            TypeError,
            "channels_last must be True or False; got 1",
        ),
        Bad(
            "groups",
            lambda: torch.ops.handgrad.global_response_norm(INPUT, None, None, 1e-6, 3),
            RuntimeError,
            "groups must divide the channels, 4; got 3",
        ),
    ],
    identities={
        "grows": grows_with_the_input,
        "equal_norms": equal_norms_have_a_response_of_one,
        "zeros": without_weight_and_bias_of_0_nothing_changes,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    autocast=torch.float32,
    optional=["weight", "bias"],
    rows=["batch", "", ""],
    shards=[((0, None, None), 0)],
    lenient={"input": norms.is_an_input},
    tolerances={
        # The gradient of a bias is a sum of thousands of terms, a thousand of them in float32: 4e-6 of it.
        torch.float32: (1e-5, 5e-5),
    },
    # The sums of 30 pieces of each image, channels last, and what is made of them.
    device_scratch=1 << 17,
    device_calls={"forward": (3, 3, 0), "backward": (4, 6, 0), "double_backward": (4, 5, 0)},
    # What is summed over a map is read once for the sums and once more for the elements.
    floor_factors={"forward": 1.6, "backward": 1.8, "double_backward": 1.7},
)

test_matrix = matrix(SPEC)


def test_equals_the_definition_in_any_layout():
    spatial_norms.in_any_layout(global_response_norm, reference, 2)


def test_groups_are_normalised_apart():
    input, weight, bias = norms.tensors(2, 12, 5, 3)

    def apart(input, weight, bias):
        parts = zip(input.chunk(3, 1), weight.chunk(3), bias.chunk(3), strict=True)
        return torch.cat([reference(*part, eps=0.1) for part in parts], 1)

    for x in (input, norms.channels_innermost(input)):
        leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
        ours = spatial_norms.derivatives(lambda *args: torch.ops.handgrad.global_response_norm(*args, 0.1, 3), leaves)
        torch.testing.assert_close(ours, spatial_norms.derivatives(apart, leaves))


def test_gradients_of_each_sample():
    norms.per_sample(global_response_norm, 2)


@pytest.mark.parametrize("last", [False, True])
def test_a_channel_of_zeros_has_finite_derivatives(last):
    """keras_cv_attention_models#129: training with this norm is NaN from the first step on. The root of 0 has no
    derivative; a channel of zeros, as dead units leave it, is at its kink."""
    input, weight, bias = norms.tensors(2, 9, 4, 3)
    input[0, 2] = 0
    input[1] = 0
    input = norms.channels_innermost(input) if last else input
    leaves = [tensor.requires_grad_() for tensor in (input, weight, bias)]
    made = spatial_norms.derivatives(global_response_norm, leaves)
    assert all(tensor.isfinite().all() for tensor in made)
    torch.testing.assert_close(made[0][1], bias.view(-1, 1, 1).expand(9, 4, 3), rtol=0, atol=0)
    # Through a map of zeros passes what the residual has, and nothing else.
    (grad,) = torch.autograd.grad(global_response_norm(*leaves).sum(), input)
    assert grad[1].eq(1).all()
    assert grad[0, 2].eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_zeros_of_half_types_are_zeros(dtype):
    """keras_cv_attention_models#129: an eps of 1e-6 is next to nothing in float16, and the norm of zeros by it NaN."""
    input = torch.zeros(2, 4, 3, 3, dtype=dtype, requires_grad=True)
    output = global_response_norm(input, eps=1e-12)
    assert output.eq(0).all()
    (grad,) = torch.autograd.grad(output.sum(), input)
    assert grad.eq(1).all()


def test_squares_may_overflow():
    spatial_norms.finite_beyond_the_squares(global_response_norm, reference, 2)


def test_each_sample_has_norms_of_its_own():
    """facebookresearch/ConvNeXt-V2#85, #86: norms over the whole batch are another function, and depend on it."""
    input, weight, bias = norms.tensors(4, 6, 5, 3)
    alone = torch.cat([global_response_norm(sample[None], weight, bias) for sample in input])
    torch.testing.assert_close(global_response_norm(input, weight, bias), alone, rtol=0, atol=0)


def test_sequences_and_no_positions():
    """huggingface/pytorch-image-models#2390: (batch, length, channels) is refused by the module, with no reason."""
    input, weight, bias = norms.tensors(2, 6, 5)
    rows = input.movedim(1, -1).contiguous()
    actual = global_response_norm(rows, weight, bias, channels_last=True)
    assert actual.is_contiguous()
    torch.testing.assert_close(actual.movedim(-1, 1), reference(input, weight, bias))
    torch.testing.assert_close(global_response_norm(rows[:, 0], weight, bias), reference(rows[:, 0], weight, bias))


def test_autocast_gives_what_float32_gives():
    input, weight, bias = norms.tensors(2, 6, 5, 3, dtype=torch.float32)
    input = 1e4 * input
    with torch.autocast("cpu", torch.bfloat16):
        output = global_response_norm(input.bfloat16(), weight, bias)
    assert output.dtype is torch.float32
    torch.testing.assert_close(output, reference(input.bfloat16().float(), weight, bias))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("last", [False, True])
def test_what_is_not_finite_stays_in_its_sample(value, last):
    input, weight, bias = norms.tensors(2, 9, 5, 7, dtype=torch.float32)
    input[1, 4, 2, 3] = value
    input = norms.channels_innermost(input) if last else input
    leaves = [tensor.requires_grad_() for tensor in (input, weight, bias)]
    output = global_response_norm(*leaves)
    torch.testing.assert_close(output, reference(*leaves), equal_nan=True)
    assert output[0].isfinite().all()
    (grad,) = torch.autograd.grad(output.sum(), input)
    assert grad[0].isfinite().all()
    assert output[1, 4].isnan().all()


@pytest.mark.tiers("whole")
@pytest.mark.parametrize("last", [False, True])
def test_loads_the_state_dicts_of_others(last):
    layers = pytest.importorskip("timm.layers.grn", reason="timm does not load")
    input, weight, bias = norms.tensors(2, 6, 5, 4, dtype=torch.float32)
    theirs, ours = (module(6, channels_last=last) for module in (layers.GlobalResponseNorm, GlobalResponseNorm))
    x = input.movedim(1, -1) if last else input
    torch.testing.assert_close(ours(x), theirs(x))
    theirs.load_state_dict({"weight": weight, "bias": bias})
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    # ConvNeXt V2's own names and shapes, and Hugging Face's shapes.
    for names in (("gamma", "beta"), ("weight", "bias")):
        other = GlobalResponseNorm(6, channels_last=last)
        holder = torch.nn.Sequential(other)
        state = {f"0.{name}": tensor.view(1, 1, 1, 6) for name, tensor in zip(names, (weight, bias), strict=True)}
        holder.load_state_dict(state)
        assert set(state) == {f"0.{name}" for name in names}
        torch.testing.assert_close(other(x), theirs(x))
    assert repr(ours) == f"GlobalResponseNorm(6, eps=1e-06, channels_last={last})"
