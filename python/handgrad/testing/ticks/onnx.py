"""Tick 11: ONNX, equal in onnxruntime, with a dynamic batch."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from handgrad.testing.calls import Checks
from handgrad.testing.exporters import reuse_registries
from handgrad.testing.spec import OpSpec, Sample


def cases(spec: OpSpec, root: Path) -> Checks:
    for sample in spec.samples:
        if spec.onnx is None or sample.name in spec.onnx:
            yield sample.name, functools.partial(_exported, spec, sample)


def _exported(spec: OpSpec, sample: Sample) -> None:
    import handgrad.onnx

    reuse_registries()
    sample = sample.to(torch.float32)
    module, indices = spec.as_module(sample)
    tensors = tuple(sample.tensors[index] for index in indices)
    with tempfile.TemporaryDirectory() as folder:
        # verify runs onnxruntime at the exported batch size and at another one
        handgrad.onnx.export(module, tensors, Path(folder) / "op.onnx", verify=True)
