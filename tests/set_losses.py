"""What tests of losses of sets share: embeddings with labels, and derivatives of both sides."""

import torch

from handgrad.reductions import MEAN, NONE, reduction_code
from handgrad.testing import reseeded


def labelled(count, width, classes, dtype=torch.float64, spread=1.0):
    """Embeddings, and labels that go round the classes."""
    generator = reseeded(count + width)
    embeddings = spread * torch.randn(count, width, dtype=torch.float64, generator=generator)
    return embeddings.to(dtype), torch.arange(count) % max(1, classes)


def reduced(results, reduction):
    """As the public functions do, of each anchor's loss and number of terms, (N, 2)."""
    losses, terms = results[:, 0], results[:, 1]
    code = reduction_code("set_loss", reduction)
    if code == NONE:
        return losses / terms.clamp(min=1)
    return losses.sum() / terms.sum().clamp(min=1) if code == MEAN else losses.sum()


def results(function, embeddings, labels, **kwargs):
    """Losses, their gradient, and the gradients of that along a direction."""
    leaf = embeddings.detach().clone().requires_grad_()
    losses = function(leaf, labels, reduction="none", **kwargs)
    along = torch.linspace(-1, 2, losses.numel(), dtype=losses.dtype).requires_grad_()
    (grad,) = torch.autograd.grad(losses, leaf, along, create_graph=True)
    direction = torch.linspace(1, -2, grad.numel(), dtype=grad.dtype).view_as(grad)
    return losses, grad, *torch.autograd.grad(grad, (along, leaf), direction)


def two_among(count):
    """Embeddings that are all (1, 0) but for the last, (0, 1), which alone has the label of the first."""
    embeddings = torch.tensor([[1.0, 0.0]]).repeat(count, 1)
    embeddings[-1] = torch.tensor([0.0, 1.0])
    labels = torch.arange(count)
    labels[-1] = 0
    return embeddings, labels


def floor(sample):
    """The embeddings, and every product that torch's matmul has made: read once in the forward, read and replaced by a
    derivative in the backward; with what they move by in the double backward."""
    table, pairs = 4 * sample.tensors[0].numel(), 4 * len(sample.tensors[0]) ** 2
    return {"forward": table + pairs, "backward": 2 * table + 2 * pairs, "double_backward": 3 * table + 4 * pairs}


def set_of_everything(spec):
    """What all losses of sets have in common, for :class:`handgrad.testing.OpSpec`."""
    return {
        # Every pair belongs to two samples: the embeddings are gathered.
        "shards": [((0, 0), None)],
        "channels_last": False,
        "autocast": torch.float32,
        "widens": True,
        # Of each anchor the number of terms, by which its mean is divided, and the gradient with that in it.
        "saves": 8 * 397,
        # A chunk of pairs, for the large sample all of them, and their derivatives; the vectors.
        "device_scratch": 1_400_000,
        "floor": floor,
        **spec,
    }
