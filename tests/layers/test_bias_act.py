"""An activation behind a bias: its spec, its module, and what users reported of others."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

import channel_norms as norms
import spatial_norms
from handgrad.layers import BiasAct, bias_act
from handgrad.layers.bias_act import _ACTS, bias_act_reference
from handgrad.testing import Bad, OpSpec, Sample, matrix, reseeded

CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")


def reference(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    """What people write: the bias beside the other dimensions, an activation of torch, a product, a clamp."""
    if b is not None:
        x = x + b.view([-1 if d == dim % x.dim() else 1 for d in range(x.dim())])
    y = {
        "linear": lambda z: z,
        "relu": F.relu,
        "lrelu": lambda z: F.leaky_relu(z, 0.2 if alpha is None else alpha),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "elu": F.elu,
        "selu": F.selu,
        "softplus": F.softplus,
        "swish": lambda z: z * torch.sigmoid(z),
    }[act](x)
    y = y * ((math.sqrt(2) if act in ("relu", "lrelu", "swish") else 1) if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def tensors(*shape, seed=0, dtype=torch.float64):
    return norms.tensors(*shape, of_channels=1, seed=seed, dtype=dtype)


# ---- identities ------------------------------------------------------------------------------------------------------


def linear_is_a_sum():
    x, b = tensors(3, 5, 4)
    assert torch.equal(bias_act(x, b), x + b.view(-1, 1))
    assert torch.equal(bias_act(x), x)


def a_slope_of_one_is_none():
    x, b = tensors(3, 5, 4)
    torch.testing.assert_close(bias_act(x, b, act="lrelu", alpha=1.0, gain=1.0), x + b.view(-1, 1))
    torch.testing.assert_close(bias_act(x, b, act="lrelu", alpha=0.0), bias_act(x, b, act="relu"))


def no_result_is_larger():
    x, b = tensors(3, 5, 4)
    for act in _ACTS:
        assert bias_act(x, b, act=act, gain=3.0, clamp=0.5).abs().max() <= 0.5
        free = bias_act(x, b, act=act, gain=3.0)
        assert torch.equal(bias_act(x, b, act=act, gain=3.0, clamp=free.abs().max().item()), free)


def the_variance_is_kept():
    """What the gain is for (He et al., 2015): of a normal input, the mean square of relu is that of the input."""
    x = torch.randn(1, 1, 200_000, generator=reseeded())
    torch.testing.assert_close(bias_act(x, act="relu").square().mean(), x.square().mean(), rtol=1e-2, atol=0)


def numel_beyond_int32():
    # One number for all: nothing but the output is in memory, 4 GiB of it.
    positions = 2**30 + 8
    x = torch.ones((), dtype=torch.bfloat16).expand(1, 2, positions)
    output = bias_act(x, torch.tensor([0.0, -3.0]), act="lrelu", gain=1.0, alpha=0.5)
    assert output[0, 0, 0] == 1.0
    assert output[0, 1, -1] == -1.0
    assert output[0, 0, :: 2**20].eq(1.0).all()
    assert output[0, 1, :: 2**20].eq(-1.0).all()


def sums_of_many():
    norms.gradients_of_many_rows(lambda x, b: bias_act(x, b, act="swish"), 1)


X, B = tensors(2, 4, 3)


def is_of_channels(value):
    """An x with more positions, or more dimensions, is no mistake."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type != "meta"
        and value.is_floating_point()
    )


def is_bad(name, message, error=ValueError, **kwargs):
    return Bad(name, lambda: bias_act(X, B, **kwargs), error, message)


LAST = norms.channels_innermost(tensors(2, 9, 2, 1, seed=2)[0])

SPEC = OpSpec(
    name="bias_act",
    operator="handgrad::bias_act",
    function=bias_act,
    tensors=["x", "b"],
    reference=reference,
    module=BiasAct,
    own={"b": "bias"},
    module_kwargs=lambda sample: {
        "num_features": sample.tensors[0].shape[1],
        "act": "linear",
        "bias": len(sample.tensors) > 1,
        **sample.kwargs,
    },
    samples=[
        # First one that has a second derivative: the private ops are recorded of it.
        Sample("curved", tensors(2, 5, 3, 2), {"act": "swish", "clamp": 1.7}),
        Sample("stylegan", tensors(2, 5, 3, 2, seed=6), {"act": "lrelu", "clamp": 1.7}),
        Sample("rows", tensors(3, 5, seed=1)[:1], {"act": "sigmoid", "gain": 0.7}),
        Sample("channels_last", (LAST, *tensors(2, 9, seed=2)[1:]), {"act": "softplus", "clamp": 4.0}),
        Sample("volumes", tensors(2, 3, 2, 1, 2, seed=3), {"act": "tanh", "gain": -1.5}),
        Sample("selu", tensors(4, 2, 2, seed=4), {"act": "selu"}),
    ],
    large=Sample("large", tensors(3, 37, 41, 23, dtype=torch.float32), {"act": "swish", "clamp": 2.0}),
    empty=[
        Sample("no_batch", tensors(0, 3, 4), {"act": "swish"}),
        Sample("no_channels", tensors(2, 0, 4), {}),
        Sample("no_positions", tensors(2, 3, 0, 5), {"act": "relu"}),
    ],
    optional=["b"],
    rows=["batch", ""],
    shards=[((0, None), 0), ((1, 0), 1)],
    lenient={
        "x": is_of_channels,
        "gain": lambda value: value is None,
        "clamp": lambda value: value is None,
    },
    bad=[
        is_bad("act", "act must be 'linear', 'relu', .* or 'swish'; got 'gelu'", act="gelu"),
        is_bad("act_none", "act must be 'linear', .*; got None", TypeError, act=None),
        is_bad("alpha", "alpha must be a finite number, or None; got inf", act="lrelu", alpha=math.inf),
        is_bad("gain", "gain must be a finite number, or None; got nan", gain=math.nan),
        is_bad("clamp", "clamp must be a finite number, at least 0, or None; got -1", clamp=-1),
        is_bad("dim", "dim must be a dimension of x, from -3 to 2; got 3", dim=3),
        is_bad("dim_kind", "dim must be a dimension of x, .*; got 1.0", TypeError, dim=1.0),
        Bad("b_shape", lambda: bias_act(X, B[:3]), RuntimeError, r"b must have shape .* \(4,\); got"),
        Bad("b_dim", lambda: bias_act(X, B, dim=2), RuntimeError, r"b must have shape .* \(3,\); got"),
        Bad(
            "b_dtype",
            lambda: bias_act(X.float(), B),
            TypeError,
            "b must be of float32, bfloat16 or float16 beside an x that is computed in float32; got float64",
        ),
        Bad("features", lambda: BiasAct(0), ValueError, "num_features must be a whole number, at least 1; got 0"),
        Bad("module_act", lambda: BiasAct(4, act="gelu"), ValueError, "act must be 'linear'"),
        Bad("module_bias", lambda: BiasAct(4, bias=1), TypeError, "bias must be True or False; got 1"),
    ],
    identities={
        "sum": linear_is_a_sum,
        "slope": a_slope_of_one_is_none,
        "clamp": no_result_is_larger,
        "variance": the_variance_is_kept,
    },
    numel_beyond_int32=numel_beyond_int32,
    sums_of_many=sums_of_many,
    tolerances={
        # The gradient of a bias is a sum of thousands of terms, rounded to 1e-7 each: 5e-6 of it.
        torch.float32: (1e-5, 5e-5),
    },
    # The sums of a few spans of each channel, and what adds them.
    device_calls={"backward": (2, 3, 0), "double_backward": (2, 3, 0)},
)

test_matrix = matrix(SPEC)


# ---- every activation, layout and dimension --------------------------------------------------------------------------


@pytest.mark.parametrize("act", _ACTS)
@pytest.mark.parametrize("clamp", [None, 0.8])
def test_every_activation(act, clamp):
    """Value, gradients and second derivatives, near 0 and far from it."""
    for scale in (1, 30):
        x, b = tensors(3, 9, 40)
        leaves = [(scale * x).requires_grad_(), b.requires_grad_()]
        ours, theirs = (
            spatial_norms.derivatives(lambda x, b, f=f: f(x, b, act=act, gain=1.3, clamp=clamp), leaves)
            for f in (bias_act, reference)
        )
        torch.testing.assert_close(ours, theirs)
        single = [leaf.detach().float().requires_grad_() for leaf in leaves]
        output = bias_act(*single, act=act, gain=1.3, clamp=clamp)
        torch.testing.assert_close(output.double(), theirs[0], rtol=1e-5, atol=1e-5)
        grads = torch.autograd.grad(output.sum(), single)
        expected = torch.autograd.grad(reference(*leaves, act=act, gain=1.3, clamp=clamp).sum(), leaves)
        torch.testing.assert_close([grad.double() for grad in grads], list(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_equals_the_definition_in_any_layout(act):
    spatial_norms.in_any_layout(lambda x, b: bias_act(x, b, act=act), lambda x, b: reference(x, b, act=act), 1)
    spatial_norms.in_any_layout(lambda x: bias_act(x, act=act), lambda x: reference(x, act=act), 0)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5), (2, 3, 4, 5), (2, 1, 3, 2, 2, 5)], ids=str)
def test_along_any_dimension(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=reseeded())
    for dim in range(-len(shape), len(shape)):
        b = torch.randn(shape[dim], dtype=torch.float64, generator=reseeded(1))
        leaves = [x.clone().requires_grad_(), b.requires_grad_()]
        ours, theirs = (
            spatial_norms.derivatives(lambda x, b, f=f, dim=dim: f(x, b, dim, "tanh"), leaves)
            for f in (bias_act, reference)
        )
        torch.testing.assert_close(ours, theirs)
        assert bias_act(x, b, dim).is_contiguous()


def test_without_a_bias_any_shape():
    for shape in ((), (5,), (0,), (2, 3, 4)):
        x = torch.randn(shape, dtype=torch.float64, generator=reseeded()).requires_grad_()
        output = bias_act(x, act="swish", dim=7)
        assert output.shape == x.shape
        torch.testing.assert_close(output, reference(x, act="swish"))
        (grad,) = torch.autograd.grad(output.sum(), x)
        assert grad.shape == x.shape


def test_gradients_of_each_sample():
    norms.per_sample(lambda x, b: bias_act(x, b, act="softplus"), 1)


def test_layouts_are_kept():
    x = torch.randn(2, 8, 5, 4, generator=reseeded()).contiguous(memory_format=torch.channels_last).requires_grad_()
    output = bias_act(x, torch.ones(8), act="relu")
    assert output.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(output.sum(), x)
    assert grad.is_contiguous(memory_format=torch.channels_last)


# ---- kinks, NaN, infinity --------------------------------------------------------------------------------------------

INFINITY, NAN = math.inf, math.nan


def torch_stops_at_the_border():
    """From 2.14 on torch.clamp has the gradient 0 there, as hardtanh always had; before it was 1
    (pytorch/pytorch#191142)."""
    x = torch.ones(1, requires_grad=True)
    return torch.autograd.grad(x.clamp(-1, 1), x)[0].item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("act", [act for act in _ACTS if act != "swish"])
@pytest.mark.parametrize("clamp", [None, 0.5, 0.0])
def test_kinks_and_what_is_not_finite_as_torch(act, clamp, dtype):
    """At 0 and -0, on the border of the clamp, at infinity and NaN: value, slope and curvature."""
    row = [0.0, -0.0, INFINITY, -INFINITY, 1.0, -2.5, 1e-30, -1e-30]
    # The slope of elu at NaN is 1 or NaN in torch, by where in a tensor it is.
    row += [] if act in ("elu", "selu") else [NAN]
    row += [0.5, -0.5] if clamp is None or torch_stops_at_the_border() else []
    x = torch.tensor(row, dtype=dtype).repeat(5).view(1, 1, -1).requires_grad_()
    results = []
    for function in (bias_act, reference):
        output = function(x, act=act, gain=1.0, clamp=clamp)
        (slope,) = torch.autograd.grad(output, x, torch.ones_like(output), create_graph=True)
        curvature = torch.zeros_like(x)
        if act in CURVED:
            (curvature,) = torch.autograd.grad(slope, x, torch.ones_like(x))
        results.append([output, slope, curvature])
    # Where half a unit in the last place says whether 0.5 is on the border, or 0 is, torch is not asked.
    inside = (results[0][0].abs() - (clamp or 0)).abs() > 1e-12 if act in CURVED and clamp else torch.ones_like(x) > 0
    for actual, expected in zip(*results, strict=True):
        nan = actual.isnan()
        torch.testing.assert_close(actual[inside | nan], expected[inside | nan], equal_nan=True)
    if not torch_stops_at_the_border() or clamp is None:
        return
    x = torch.tensor([[clamp, -clamp]], dtype=dtype, requires_grad=True)
    assert not torch.autograd.grad(bias_act(x, clamp=clamp).sum(), x)[0].any()


def test_nan_is_never_hidden():
    x = torch.tensor([[NAN, 1.0]], requires_grad=True)
    for act in _ACTS:
        for clamp in (None, 0.5):
            output = bias_act(x, act=act, clamp=clamp)
            assert output.isnan().tolist() == [[True, False]]
    for act in ("tanh", "sigmoid", "elu", "selu", "softplus", "swish"):
        (grad,) = torch.autograd.grad(bias_act(x, act=act).sum(), x)
        assert grad.isnan().tolist() == [[True, False]]


def test_swish_at_infinity_is_the_limit():
    """torch's product has NaN there: 0 * inf."""
    x = torch.tensor([INFINITY, -INFINITY, NAN, -1e30], requires_grad=True)
    output = bias_act(x, act="swish", gain=1.0)
    (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    for actual, expected in (
        (output, [INFINITY, 0, NAN, 0]),
        (slope, [1, 0, NAN, 0]),
        (curvature, [0, 0, NAN, 0]),
    ):
        torch.testing.assert_close(actual.detach(), torch.tensor(expected), equal_nan=True, rtol=0, atol=0)
    x = torch.tensor([[INFINITY, -INFINITY, NAN]])
    found = bias_act_reference(x, None, _ACTS.index("swish"), 0.0, 1.0, -1.0)
    torch.testing.assert_close(found, torch.tensor([[INFINITY, 0, NAN]]), equal_nan=True, rtol=0, atol=0)


def test_what_is_cut_off_gets_nothing():
    """Not even of an infinite gradient: a selection, no product with 0."""
    x = torch.tensor([[-3.0, 3.0, 0.1]], requires_grad=True)
    for act in ("linear", "relu", "lrelu"):
        output = bias_act(x, act=act, gain=1.0, clamp=1.0)
        (grad,) = torch.autograd.grad(output, x, torch.full((1, 3), INFINITY))
        assert grad[0, 1] == 0
        assert grad[0, 2] == INFINITY


def test_small_numbers_keep_their_digits():
    """tanh, elu and selu near 0, softplus and swish far to the left: nothing is subtracted there."""
    near = torch.logspace(-20, -3, 60, dtype=torch.float64)
    far = -torch.linspace(20, 80, 61, dtype=torch.float64)
    for act, x in (("tanh", near), ("elu", -near), ("selu", -near), ("softplus", far), ("swish", far)):
        expected = reference(x.double(), act=act)
        expected = torch.log1p(torch.exp(x)) if act == "softplus" else expected
        torch.testing.assert_close(bias_act(x.float(), act=act).double(), expected, rtol=1e-5, atol=0)


# ---- what users reported of others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [-1.0, -math.sqrt(2)])
def test_a_negative_gain(gain):
    """open-mmlab/mmcv#2620: the sign of the output, where a backward looks at that, is not the sign of the input."""
    x, b = (tensor.requires_grad_() for tensor in tensors(2, 3, 5))
    for act in ("relu", "lrelu", "elu"):
        ours, theirs = (
            torch.autograd.grad(f(x, b, act=act, gain=gain, clamp=1.0).sum(), (x, b)) for f in (bias_act, reference)
        )
        torch.testing.assert_close(ours, theirs)


def test_a_negative_slope_below_zero():
    """pytorch/pytorch#31938: of a negative alpha the output does not tell the sign of its input either."""
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(bias_act(x, act="lrelu", alpha=-2.0, gain=1.0).sum(), x)
    assert grad.tolist() == [[1.0, -2.0]]


def test_a_bias_of_another_length_is_refused_at_once():
    """orpatashnik/StyleCLIP#128: accepted by the forward, refused by the backward."""
    with pytest.raises(RuntimeError, match=r"b must have shape \(channels,\)"):
        bias_act(torch.rand(2, 512), torch.rand(6), act="lrelu")


def test_the_bias_of_images_and_of_vectors():
    """rosinality/stylegan2-pytorch#70: beside (16, 512, 4, 4) a bias of 512 does not broadcast by itself."""
    b = torch.randn(512, generator=reseeded())
    for shape in ((16, 512, 4, 4), (16, 512)):
        x = torch.randn(shape, generator=reseeded(1))
        torch.testing.assert_close(bias_act(x, b, act="lrelu"), reference(x, b, act="lrelu"))


def test_nothing_is_compiled_and_nothing_warns():
    """NVlabs/stylegan2-ada-pytorch#142, #212, NVlabs/stylegan3#124: "Failed to build CUDA kernels for bias_act. Falling
    back to slow reference implementation"."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.rand(2, 3, requires_grad=True)
        bias_act(x, torch.zeros(3), act="lrelu", clamp=256).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_penalties_of_gradients(act):
    """R1 and the regularisation of path lengths: a loss of gradients, differentiated with respect to all weights
    (moono/stylegan2-tf-2.x#2: left out there because of the second derivative)."""
    x, b = tensors(4, 3, 6, 6)
    generator = reseeded(5)
    w = torch.randn(5, 3, 3, 3, dtype=torch.float64, generator=generator)
    c = torch.randn(5, dtype=torch.float64, generator=generator)
    results = []
    for function in (bias_act, reference):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, b, w, c)]
        first = function(leaves[0], leaves[1], act=act, clamp=256)
        score = function(F.conv2d(first, leaves[2]), leaves[3], act=act, clamp=256).square().sum()
        (grad,) = torch.autograd.grad(score, leaves[0], create_graph=True)
        r1 = grad.square().sum((1, 2, 3)).mean()
        path = (grad.square().sum((2, 3)).mean(1).sqrt() - 0.3).square().mean()
        results.append(torch.autograd.grad(r1 + path, leaves, materialize_grads=True))
    torch.testing.assert_close(*results)


def test_third_derivatives():
    x, b = (tensor.requires_grad_() for tensor in tensors(2, 3, 2))
    results = []
    for function in (bias_act, reference):
        value = function(x, b, act="tanh").pow(3).sum()
        for _ in range(3):
            grads = torch.autograd.grad(value, (x, b), create_graph=True)
            value = sum(grad.pow(2).sum() for grad in grads)
        results.append(grads)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_beside_a_wide_bias(dtype):
    """Computed in float32, rounded once; sums of the bias' gradient too, which 2,048 ones of float16 would stop."""
    x, b = tensors(2, 4, 64, 64, dtype=torch.float32)
    x = x.to(dtype).requires_grad_()
    b.requires_grad_()
    output = bias_act(x, b, act="lrelu", clamp=256)
    assert output.dtype is dtype
    torch.testing.assert_close(output, reference(x.float(), b, act="lrelu", clamp=256).to(dtype), rtol=0, atol=0)
    (grad,) = torch.autograd.grad(bias_act(x, b, gain=1.0), b, torch.ones(2, 4, 64, 64, dtype=dtype))
    assert grad.dtype is torch.float32
    assert grad.tolist() == [8192.0] * 4
    with torch.autocast("cpu", torch.bfloat16):
        assert bias_act(x, b, act="lrelu").dtype is dtype
    # A bias of the half type itself, as StyleGAN has it.
    own = b.detach().to(dtype)
    torch.testing.assert_close(bias_act(x, own), reference(x.float(), own.float()).to(dtype), rtol=0, atol=0)


def test_exploding_half_types_are_cut_off():
    """StyleGAN's conv_clamp of 256: float16 ends at 65,504, and z * gain is beyond it before it is cut off."""
    x = torch.full((1, 2, 3), 6e4, dtype=torch.float16)
    output = bias_act(x, torch.tensor([6e4, -1.3e5]), act="lrelu", clamp=256)
    assert output[0, 0].eq(256).all()
    assert output[0, 1].eq(-256).all()


@pytest.mark.tiers("whole")
def test_loads_the_state_dicts_of_others():
    """FusedLeakyReLU's, mmcv's FusedBiasLeakyReLU's: one parameter of that name."""
    ours = BiasAct(6)
    b = torch.randn(6, generator=reseeded())
    assert list(ours.state_dict()) == ["bias"]
    ours.load_state_dict({"bias": b})
    x = torch.randn(2, 6, 3, 3, generator=reseeded(1))
    torch.testing.assert_close(ours(x), 2**0.5 * F.leaky_relu(x + b.view(-1, 1, 1), 0.2))
    assert repr(ours) == "BiasAct(6, act='lrelu', dim=1, alpha=None, gain=None, clamp=None, bias=True)"
    assert BiasAct(6, bias=False).bias is None


@pytest.mark.tiers("whole")
def test_exports_along_any_dimension(tmp_path):
    """rosinality/stylegan2-pytorch#322, NVlabs/stylegan3#57: their ops are Python operators that ONNX does not have."""
    import handgrad.onnx

    x = torch.randn(2, 3, 4, generator=reseeded())
    for dim in (-1, 0):
        module = BiasAct(x.shape[dim], dim=dim, clamp=1.0)
        torch.nn.init.normal_(module.bias)
        if dim == 0:
            found = torch.export.export(module, (x,)).module()(x)
            torch.testing.assert_close(found, module(x))
        else:
            handgrad.onnx.export(module, (x,), tmp_path / "op.onnx", verify=True)
