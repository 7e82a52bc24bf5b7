from __future__ import annotations

from truth import planted

__all__ = ["planted"]
