"""Exit codes of a run."""

from __future__ import annotations

PRECEDENCE = (2, 4, 130, 143, 129, 3, 6, 5, 1)
"""Exit codes, the first that applies."""
