"""Layers."""

from handgrad.layers.local_response_norm import LocalResponseNorm, local_response_norm

__all__ = ["LocalResponseNorm", "local_response_norm"]
