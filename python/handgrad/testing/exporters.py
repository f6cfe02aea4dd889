"""torch's ONNX exporter, without what it does anew for each of a thousand exports."""

from __future__ import annotations

import copy
import functools
from typing import Any


@functools.cache
def reuse_registries() -> None:
    """From now on this process makes torch.onnx's table of translations once for each version of the operators.

    For each export torch reads the sources of five hundred functions of onnxscript, parses them and derives their
    signatures: half of the time that an op's export takes. The table that an export gets is a copy, to which it may add
    translations of its own.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = functools.cache(ONNXRegistry.from_torchlib)

    def from_torchlib(cls: type[ONNXRegistry], *args: Any, **kwargs: Any) -> ONNXRegistry:
        registry = copy.copy(made(*args, **kwargs))
        registry.functions = {target: list(decompositions) for target, decompositions in registry.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = classmethod(from_torchlib)  # type: ignore[assignment,method-assign]
