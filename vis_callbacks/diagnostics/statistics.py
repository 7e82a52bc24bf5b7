"""Bounds of shares, and an exact test for pairs."""

import math
from collections.abc import Callable
from functools import cache


@cache
def lower_bound(successes: int, trials: int, confidence: float = 0.99) -> float:
    """Return the one-sided lower bound of a share after Clopper and Pearson, 1934.

    Example:
        >>> round(lower_bound(50, 50), 3), lower_bound(0, 50)
        (0.912, 0.0)
    """
    if successes <= 0 or trials <= 0:
        return 0.0
    return _solved(lambda share: _at_least(successes, trials, share) - (1 - confidence))


def upper_bound(successes: int, trials: int, confidence: float = 0.99) -> float:
    """Return the one-sided upper bound.

    Example:
        >>> round(upper_bound(0, 50), 3), upper_bound(50, 50)
        (0.088, 1.0)
    """
    return 1.0 - lower_bound(trials - successes, trials, confidence)


def surely_above(successes: int, trials: int, share: float, confidence: float = 0.99) -> bool:
    """Whether the lower bound of a share is above another share.

    Example:
        >>> surely_above(10, 10, 0.5), surely_above(6, 10, 0.5)
        (True, False)
    """
    return successes > share * trials and _at_least(successes, trials, share) < 1 - confidence


def surely_below(successes: int, trials: int, share: float, confidence: float = 0.99) -> bool:
    """Whether the upper bound of a share is below another share."""
    return surely_above(trials - successes, trials, 1 - share, confidence)


def mcnemar(better: int, worse: int) -> float:
    """Return the exact probability of so many changes for the better if both kinds were equally likely.

    Example:
        >>> mcnemar(5, 0), mcnemar(0, 0)
        (0.03125, 1.0)
    """
    return _at_least(better, better + worse, 0.5)


def _at_least(successes: int, trials: int, share: float) -> float:
    if successes <= 0:
        return 1.0
    if share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    logs = (
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(share)
        + (trials - count) * math.log1p(-share)
        for count in range(successes, trials + 1)
    )
    return min(1.0, math.fsum(math.exp(log) for log in logs))


def _solved(function: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) < 0:
            low = middle
        else:
            high = middle
    return low
