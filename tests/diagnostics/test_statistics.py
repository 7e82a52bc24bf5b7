from __future__ import annotations

import pytest
from scipy.stats import binomtest

from vis_callbacks.diagnostics.statistics import lower_bound, mcnemar, surely_above, surely_below, upper_bound


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (9, 10), (10, 10), (37, 160), (490, 500)])
def test_bounds_are_those_of_scipy(successes: int, trials: int) -> None:
    theirs = binomtest(successes, trials, alternative="greater").proportion_ci(0.99, "exact")
    assert lower_bound(successes, trials) == pytest.approx(theirs.low, abs=1e-9)
    theirs = binomtest(successes, trials, alternative="less").proportion_ci(0.99, "exact")
    assert upper_bound(successes, trials) == pytest.approx(theirs.high, abs=1e-9)
    for share in (0.05, 0.3, 0.5, 0.9):
        assert surely_above(successes, trials, share) == (lower_bound(successes, trials) > share)
        assert surely_below(successes, trials, share) == (upper_bound(successes, trials) < share)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (5, 0), (61, 10), (3, 20)])
def test_mcnemar_is_the_binomial_test(better: int, worse: int) -> None:
    if better + worse:
        theirs = binomtest(better, better + worse, alternative="greater").pvalue
        assert mcnemar(better, worse) == pytest.approx(theirs)
    else:
        assert mcnemar(better, worse) == 1
