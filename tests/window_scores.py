"""What tests of window scores share: pairs of images, and all derivatives of a function of them."""

import torch

from handgrad.testing import reseeded


def images(*shape, dtype=torch.float64, high=1.0):
    """Two images in [0, high], the second the first with noise on it."""
    generator = reseeded(sum(shape))
    first, noise = (high * torch.rand(*shape, dtype=dtype, generator=generator) for _ in range(2))
    return first, 0.7 * first + 0.3 * noise


def all_derivatives(function, first, second):
    """Values, gradients, and the gradients of these along a direction."""
    leaves = [tensor.detach().requires_grad_() for tensor in (first, second)]
    scores = function(*leaves)
    along = torch.linspace(-1, 1, scores.numel(), dtype=scores.dtype).view_as(scores).requires_grad_()
    grads = torch.autograd.grad(scores, leaves, along, create_graph=True)
    directions = [torch.linspace(1, -2, grad.numel(), dtype=grad.dtype).view_as(grad) for grad in grads]
    return scores, *grads, *torch.autograd.grad(grads, [*leaves, along], directions)
