"""Labels of samples."""

from __future__ import annotations

NO_LABEL = -1
"""The label of a sample without a label."""
