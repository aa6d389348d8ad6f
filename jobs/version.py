"""The version of this service."""

from __future__ import annotations

from importlib.metadata import version

VERSION = version("lit-compress")
"""Looked up once, because importlib.metadata reads the whole README for it."""
