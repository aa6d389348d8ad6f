"""Labels of samples."""

from __future__ import annotations

NO_LABEL = -1
"""Stands for the label of a sample that has none."""
