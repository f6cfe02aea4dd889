"""Losses of all pairs with ``group=``: two processes over gloo, and one with the whole batch."""

import pytest
import torch

from handgrad.losses import clip_loss, info_nce_loss, nt_xent_loss, siglip_loss, supervised_contrastive_loss
from handgrad.testing import distributed
from pairwise_losses import as_one_process, embeddings, numbers, second_as_one_process

pytestmark = pytest.mark.tiers("whole")

SIDES = embeddings((6, 3), (6, 3))
NUMBER, BIAS = numbers(0.7)[0], numbers(-0.4)[0]


def of_info_nce(_, rank):
    """And open_clip#616's and transformers#22252's: keys of other processes have gradients too."""

    def loss(queries, keys, temperature, group):
        return info_nce_loss(queries, keys, temperature, group=group)

    as_one_process(loss, (*SIDES, NUMBER), shared=1)
    second_as_one_process(lambda queries, keys, group: info_nce_loss(queries, keys, 0.7, group=group), SIDES)


def of_nt_xent(_, rank):
    """Each process has both views of its images."""

    def loss(views, temperature, group):
        return nt_xent_loss(views.flatten(0, 1), temperature, group=group)

    as_one_process(loss, (torch.stack(SIDES), NUMBER), dim=1, shared=1)


def of_clip(_, rank):
    as_one_process(lambda a, b, scale, group: clip_loss(a, b, scale, group=group), (*SIDES, NUMBER), shared=1)
    second_as_one_process(lambda a, b, group: clip_loss(a, b, 3.0, group=group), SIDES)


def of_siglip(_, rank):
    def loss(images, texts, scale, bias, group):
        return siglip_loss(images, texts, scale, bias, group=group)

    as_one_process(loss, (*SIDES, NUMBER, BIAS), shared=2)


def of_supervised(_, rank):
    """Positives of other processes, and labels that one process alone has."""

    def loss(rows, labels, temperature, group):
        return supervised_contrastive_loss(rows, labels, temperature, group=group)

    labels = torch.tensor([0, 1, 2, 0, 1, 1])
    as_one_process(loss, (SIDES[0], labels, NUMBER), shared=1)


@pytest.mark.parametrize("check", [of_info_nce, of_nt_xent, of_clip, of_siglip, of_supervised])
def test_two_processes_are_one(check):
    distributed.run(check, None)
