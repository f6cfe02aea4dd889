"""What the tests of normalisations over channels share: samples, bad calls, and the cases in which they differ from a
formula on paper."""

import torch

from handgrad.testing import Bad, Sample, reseeded


def tensors(*shape, of_channels=2, dtype=torch.float64, seed=0):
    """An input of ``shape``, and so many tensors of its channels."""
    generator = reseeded(seed)
    made = [torch.randn(shape, dtype=torch.float64, generator=generator)]
    made += [torch.randn(shape[1], dtype=torch.float64, generator=generator) for _ in range(of_channels)]
    return tuple(tensor.to(dtype) for tensor in made)


def channels_innermost(tensor):
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def samples(of_channels):
    given = {"of_channels": of_channels}
    last, *others = tensors(2, 9, 2, 1, seed=2, **given)
    return [
        Sample("images", tensors(2, 5, 3, 2, **given), {}),
        Sample("rows", tensors(3, 5, of_channels=0, seed=1), {"eps": 0.1}),
        Sample("channels_last", (channels_innermost(last), *others), {"eps": 1e-3}),
        Sample("volumes", tensors(2, 3, 2, 1, 2, seed=3, **given)[:2], {"eps": 0.01}),
    ]


def large(of_channels):
    return Sample("large", tensors(3, 37, 41, 23, of_channels=of_channels, dtype=torch.float32), {})


def empty(of_channels):
    given = {"of_channels": of_channels}
    return [
        Sample("no_batch", tensors(0, 3, 4, **given), {}),
        Sample("no_channels", tensors(2, 0, 4, **given), {}),
        Sample("no_positions", tensors(2, 3, 0, 5, **given), {}),
    ]


def is_an_input(value):
    """Of an input with fewer or more positions nobody can say that it is a mistake."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.device.type == "meta":
        return False
    return value.is_floating_point() and 2 <= value.dim() <= 5


def bad(function, module):
    """What a module and a function with an input and a weight refuse."""
    input, weight = tensors(2, 4, 3, of_channels=1)
    return [
        Bad(
            "eps", lambda: function(input, eps=-1e-6), ValueError, "eps must be a finite number, at least 0; got -1e-06"
        ),
        Bad(
            "eps_nan",
            lambda: module(4, eps=float("nan")),
            ValueError,
            "eps must be a finite number, at least 0; got nan",
        ),
        Bad(
            "rank",
            lambda: function(weight),
            RuntimeError,
            r"input must have 2 to 5 dimensions \(batch, channels, positions...\); got \(4,\)",
        ),
        Bad(
            "weight_shape", lambda: function(input, weight[:3]), RuntimeError, r"weight must have shape .* \(4,\); got"
        ),
        Bad(
            "weight_dtype",
            lambda: function(input.float(), weight),
            TypeError,
            "weight must be of float32, bfloat16 or float16 beside an input that is computed in float32; got float64",
        ),
        Bad("channels", lambda: module(0), ValueError, "num_channels must be a whole number, at least 1; got 0"),
        Bad("affine", lambda: module(4, affine=1), TypeError, "affine must be True or False; got 1"),
    ]


def per_sample(function, count):
    """Gradients of a weight for each sample (vmap of grad) are those of the samples one by one."""
    input, *of_channels = tensors(3, 5, 4, of_channels=count)
    several = tuple(torch.stack([tensor, 2 * tensor, tensor - 1]) for tensor in of_channels)

    def loss(x, *others):
        return function(x.unsqueeze(0), *others).sin().sum()

    argnums = tuple(range(count + 1))
    for given, in_dims in ((tuple(of_channels), (0, *[None] * count)), (several, (0, *[0] * count))):
        together = torch.vmap(torch.func.grad(loss, argnums), in_dims)(input, *given)
        for index in range(3):
            own = given if in_dims[-1] is None else [tensor[index] for tensor in given]
            alone = torch.func.grad(loss, argnums)(input[index], *own)
            torch.testing.assert_close([grad[index] for grad in together], list(alone))
        curved = torch.vmap(torch.func.jacfwd(torch.func.grad(loss, argnums), argnums), in_dims)(input, *given)
        own = given if in_dims[-1] is None else [tensor[1] for tensor in given]
        alone = torch.func.jacfwd(torch.func.grad(loss, argnums), argnums)(input[1], *own)
        for row, expected in zip(curved, alone, strict=True):
            torch.testing.assert_close([block[1] for block in row], list(expected))


def gradients_of_many_rows(function, count):
    """Gradients of what all rows share are sums of double: equal rows give so many times the one."""
    row, *of_channels = tensors(1, 4, 1, of_channels=count, dtype=torch.float32)
    rows = 2**20
    leaves = [tensor.requires_grad_() for tensor in of_channels]
    expected = torch.autograd.grad(function(row, *leaves).sum(), leaves)
    actual = torch.autograd.grad(function(row.expand(1, 4, rows), *leaves), leaves, torch.ones(()).expand(1, 4, rows))
    for many, one in zip(actual, expected, strict=True):
        torch.testing.assert_close(many / rows, one, rtol=2.5e-7, atol=0)
