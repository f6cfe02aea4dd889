"""Loads handgrad's own compiled libraries, as :mod:`handgrad.sdk.loading` loads everybody's; that module says which."""

from handgrad.sdk import load

LOADED = load("handgrad")
