"""What pictures may cost: a share of the training time, measured while training runs."""

from collections.abc import Mapping, Sequence

from vis_callbacks import checks


class Budget:
    """Decides which pictures the training time so far can pay for, from what they have cost so far.

    The cost is the time that training waits, and the CPU time of drawing and writing, which on few cores slows training
    as much. Pictures are paid for when they are made, from the share of the training up to then. A callback is expected
    to cost what it cost last, per pass if it knows its number of passes; the first time, that number times the seconds
    of one pass. Of several callbacks the cheap ones come first, and one that keeps to its equal part of the share does
    not pay for the others: the costly ones are made less often, and over a run all together keep to the share.

    Attributes:
        share: Share of the training time for all callbacks together, above 0 and up to 1. None: no bound.

    Example:
        >>> budget = Budget(0.1)
        >>> budget.record_start({"Dream": 100}, {})
        >>> costs = budget.costs({"Dream": 200}, {"Dream": 1.5}, pass_seconds=0.01)
        >>> costs
        {'Dream': 3.0}
        >>> spent = {"Dream": 1.5}
        >>> [budget.affordable({"Dream": None}, costs, spent, training=time, everything=1.5) for time in (40, 45)]
        [[], ['Dream']]
    """

    def __init__(self, share: float | None = None) -> None:
        self.share = share
        self._before: dict[str, float] = {}
        self._passes: dict[str, int] = {}

    def bounds(self, own: float | None) -> bool:
        """Whether a callback with this share of its own (None: without one) is bounded."""
        return self.share is not None or own is not None

    def record_start(self, passes: Mapping[str, int], spent: Mapping[str, float]) -> None:
        """Remember what was spent before the pictures that are made now, to know their cost afterwards.

        Args:
            passes: Passes that each callback's pictures take, by name; 0 if not known.
            spent: Seconds up to now, by callback.
        """
        self._before |= {name: spent.get(name, 0.0) for name in passes}
        self._passes |= passes

    def costs(self, passes: Mapping[str, int], spent: Mapping[str, float], *, pass_seconds: float) -> dict[str, float]:
        """Return the seconds that pictures are expected to take, by callback.

        Args:
            passes: Passes that each callback's pictures take, by name; 0 if not known.
            spent: Seconds up to now, by callback.
            pass_seconds: Seconds of one pass of one image.
        """
        costs = {}
        for name, count in passes.items():
            if name in self._before:
                last, before = spent.get(name, 0.0) - self._before[name], self._passes[name]
                costs[name] = last * count / before if count and before else last
            else:
                costs[name] = count * pass_seconds
        return costs

    def affordable(
        self,
        due: Mapping[str, float | None],
        costs: Mapping[str, float],
        spent: Mapping[str, float],
        *,
        training: float,
        everything: float,
    ) -> list[str]:
        """Return the names of the callbacks whose pictures can be paid for now, the cheapest first.

        Args:
            due: The callbacks that are due, each with its own share of the training time. None: no bound of its own.
            costs: Seconds that their pictures are expected to take, see `costs`.
            spent: Seconds up to now, of every callback of the run.
            training: Seconds of training up to now.
            everything: Seconds of all pictures up to now.
        """
        chosen = []
        for name in sorted(due, key=costs.__getitem__):
            own = due[name]
            if own is not None and spent.get(name, 0.0) + costs[name] > own * training:
                continue
            if self.share is not None:
                left = self.share * training - everything
                part = self.share * training / max(len(spent), 1) - spent.get(name, 0.0)
                if costs[name] > max(left, part):
                    continue
            everything += costs[name]
            chosen.append(name)
        return chosen


def check_share(budget: float | None) -> float | None:
    """Return a share of the training time, or raise a `ConfigurationError` if it is none.

    Example:
        >>> check_share(0.05)
        0.05
    """
    what = "a share of the training time"
    return checks.optional(checks.number, "budget", budget, 0, 1, above=True, what=what)


def left_out(name: str, epochs: Sequence[int], share: float) -> str:
    """Return the sentence that names the epochs in which a callback was left out, and why.

    Example:
        >>> left_out("DeepDream", [2, 3, 4, 7], 0.05)
        'DeepDream was left out in epochs 2–4, 7 to keep within 5 % of the training time.'
    """
    runs: list[list[int]] = []
    for epoch in epochs:
        if runs and epoch == runs[-1][-1] + 1:
            runs[-1].append(epoch)
        else:
            runs.append([epoch])
    when = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    epochs_ = "epoch" if len(epochs) == 1 else "epochs"
    return f"{name} was left out in {epochs_} {when} to keep within {100 * share:.3g} % of the training time."
