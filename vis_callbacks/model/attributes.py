"""Read what an object of the user's may state, whatever else it is."""

from collections.abc import Mapping
from typing import Any


def stated(holder: Any, name: str) -> Any:
    """Return the value of an attribute, or of a key of a mapping; None if there is none, or it is a function.

    Example:
        >>> stated({"num_classes": 10}, "num_classes"), stated(3, "num_classes"), stated([], "append")
        (10, None, None)
    """
    if isinstance(holder, Mapping):
        return holder.get(name)
    try:
        found = getattr(holder, name, None)
    except Exception:
        # A property that needs what is not there: nobody has asked for it, so nothing is missing.
        return None
    return None if callable(found) else found
