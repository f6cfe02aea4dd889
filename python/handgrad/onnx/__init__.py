"""ONNX: models with handgrad's ops, and any op registered by :func:`handgrad.registration.register`, as ONNX files.

:func:`export` is the front door. Behind it each op becomes standard ONNX operators in one of two ways, both given when
the op is registered: its ``onnx`` function, where ONNX has an operator that means the same, and its ``reference`` in
plain PyTorch otherwise. Importing this package also teaches both to ``torch.onnx.export(..., dynamo=False)``.

What is exported how: docs/onnx.md.
"""

from handgrad.onnx import classic
from handgrad.onnx.exporting import Exported, export
from handgrad.onnx.operators import ExportError, decompositions, operator, unknown_size, without
from handgrad.onnx.verification import VerificationError, verify

__all__ = [
    "ExportError",
    "Exported",
    "VerificationError",
    "decompositions",
    "export",
    "operator",
    "unknown_size",
    "verify",
    "without",
]

classic.register_all()
