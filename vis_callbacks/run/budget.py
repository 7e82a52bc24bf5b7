"""What pictures may cost: a share of the training time, measured as it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vis_callbacks import checks


class Budget:
    """Decides whose pictures can be paid for now, from what they have cost so far.

    What counts is the time that training waits, and the CPU time of drawing and writing, which on few cores slow it as
    much. Pictures are paid for when they are made, from the share of the training up to then. What a
    callback will cost is what it cost last, by the pass if it knows how many it takes; the first time, what so many
    take by themselves. Of several callbacks the cheap ones come first, and one that keeps to its equal part of the
    share does not pay for the others: the costly ones are made less often, and over a run all keep to the share.

    Attributes:
        share: Of the training time, for all callbacks together. None: as much as they take.

    Example:
        >>> budget = Budget(0.1)
        >>> budget.begin({"Dream": 100}, {})
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
        """Whether there is a bound for a callback with this share of its own, or with none."""
        return self.share is not None or own is not None

    def begin(self, passes: Mapping[str, int], spent: Mapping[str, float]) -> None:
        """Pictures are made now.

        Args:
            passes: The callbacks that make them, each with the passes that it takes; 0 where it does not know.
            spent: Seconds up to now, by callback.
        """
        self._before |= {name: spent.get(name, 0.0) for name in passes}
        self._passes |= passes

    def costs(self, passes: Mapping[str, int], spent: Mapping[str, float], *, pass_seconds: float) -> dict[str, float]:
        """Return the seconds that pictures would take now.

        Args:
            passes: The callbacks that would make them, each with the passes that it takes; 0 where it does not know.
            spent: Seconds up to now, by callback.
            pass_seconds: What a pass of one image takes by itself.
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
        """Return whose pictures can be paid for now.

        Args:
            due: The callbacks whose time it is, each with the share of the training time that it may take by itself.
            costs: The seconds that their pictures would take, see `costs`.
            spent: Seconds up to now, by callback, of all callbacks.
            training: Seconds of training up to now.
            everything: Seconds that all pictures took up to now.
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
    """Say when a callback's pictures were not made, and why.

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
