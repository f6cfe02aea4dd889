"""What the tests of normalisations by sums over positions share."""

import torch

import channel_norms as norms
from handgrad.testing import Sample, reseeded


def samples(of_channels, fewest=0):
    """With all tensors of channels, and with fewer of them, ``fewest`` at least."""
    given = {"of_channels": of_channels}
    last, *others = norms.tensors(2, 9, 2, 3, seed=2, **given)
    return [
        Sample("images", norms.tensors(2, 5, 3, 2, **given), {"eps": 0.1}),
        Sample("rows", norms.tensors(3, 5, of_channels=fewest, seed=1), {"eps": 0.2}),
        Sample("channels_last", (norms.channels_innermost(last), *others), {"eps": 1e-3}),
        Sample("volumes", norms.tensors(2, 3, 2, 1, 2, seed=3, **given)[:2], {"eps": 0.01}),
    ]


def derivatives(function, leaves, seed=5):
    """The output, the gradients of all leaves, and the second derivatives of a sum of these."""
    output = function(*leaves)
    generator = reseeded(seed)
    direction = torch.randn(output.shape, dtype=output.dtype, generator=generator).requires_grad_()
    first = torch.autograd.grad(output, leaves, direction, create_graph=True)
    weighed = sum((grad * torch.randn(grad.shape, dtype=grad.dtype, generator=generator)).sum() for grad in first)
    second = torch.autograd.grad(weighed, (direction, *leaves), materialize_grads=True)
    return [output, *first, *second]


def in_any_layout(function, reference, of_channels):
    """Sizes around those at which work is cut, a crop, a slice, an expanded map; the gradient in another layout."""
    shapes = [(1, 8, 70, 60), (2, 3, 45, 50), (40, 6, 3), (1, 300, 9), (2, 9, 1), (3, 33), (1, 1, 2100)]
    inputs = []
    for shape in shapes:
        x = norms.tensors(*shape, of_channels=0)[0]
        inputs += [x, norms.channels_innermost(x)]
    whole = norms.tensors(2, 12, 6, 7, of_channels=0)[0]
    inputs += [whole[:, ::2], whole[..., 1:5], whole[:, :, ::2], whole[:, :1].expand(2, 12, 6, 7)]
    for x in inputs:
        others = norms.tensors(1, x.shape[1], of_channels=of_channels, seed=1)[1:]
        leaves = [tensor.detach().requires_grad_() for tensor in (x, *others)]
        torch.testing.assert_close(derivatives(function, leaves), derivatives(reference, leaves))
        g = norms.channels_innermost(torch.ones(x.shape, dtype=torch.float64))
        ours, theirs = (torch.autograd.grad(f(*leaves), leaves, g) for f in (function, reference))
        torch.testing.assert_close(ours, theirs)


def numel_beyond_int32(function):
    # One number for all: nothing but the output is in memory, 4 GiB of it.
    positions = 2**30 + 8
    input = torch.ones((), dtype=torch.bfloat16).expand(1, 2, positions)
    output = function(input)
    assert output[0, 0, 0] == output[0, 1, -1]
    assert output[0, :, :: 2**20].eq(output[0, 0, 0]).all()
    return output[0, 1, -1]


def finite_beyond_the_squares(function, reference, of_channels):
    """Of float32 and bfloat16 near 1e30, and of float16 near 6e4, squares overflow the type; the norm does not."""
    for dtype, scale in ((torch.float32, 1e30), (torch.bfloat16, 1e30), (torch.float16, 1e4)):
        input, *others = norms.tensors(2, 9, 5, 7, of_channels=of_channels, dtype=torch.float32)
        for x in (input, norms.channels_innermost(input)):
            stored = (x * scale).to(dtype)
            expected = reference(stored.double(), *(tensor.double() for tensor in others))
            actual = function(stored, *others)
            assert actual.isfinite().all()
            rtol = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
            atol = rtol * float(expected.abs().max())
            torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)
