from __future__ import annotations

from tests.attribution.truth import planted

__all__ = ["planted"]
