"""What pictures may cost: twenty seconds, or a share of the training time, measured while training runs."""

from collections.abc import Mapping, Sequence

from vis_callbacks import checks

FREE = 20.0
"""Seconds of pictures that any training pays for."""

MARGIN = FREE / 2
"""Seconds of the share that are not spent: 5 % are not more than the free seconds before ten minutes of training."""


class Budget:
    """Decides which pictures the training time so far can pay for, from what they have cost so far.

    The cost is the time that training waits, and the CPU time of drawing and writing, which on few cores slows training
    as much. The first twenty seconds of pictures are free; after that, pictures are paid for from the share of the
    training up to now. With a share of 5 %, they take at most twenty seconds of a training below ten minutes, and at
    most 5 % of a longer one.

    What the last event of the run will take is set aside, so that all techniques can be made there: at most half of
    what is allowed. Of the rest, the technique whose last pictures are the oldest is served first, and of equally old
    ones the cheapest. One that cannot be paid for yet saves its equal part of what comes in, which those behind it may
    not spend.

    A technique is expected to cost the smaller of its last two measured costs, per pass if it knows its number of
    passes: the first one holds the warm-up. Before there are two, its passes times the seconds of one pass count too.

    Attributes:
        share: Share of the training time for all callbacks together, above 0 and up to 1. None: no bound.

    Example:
        >>> budget = Budget(0.1)
        >>> costs = budget.costs({"Dream": 200}, {}, pass_seconds=0.1)
        >>> costs
        {'Dream': 20.0}
        >>> [budget.affordable({"Dream": None}, costs, {}, training=time, everything=0) for time in (390, 600)]
        [[], ['Dream']]
    """

    def __init__(self, share: float | None = None) -> None:
        self.share = share
        self._events = 0
        # Of the last pictures of each technique: the seconds spent before them, their passes, and the training time.
        self._starts: dict[str, tuple[float, int, float]] = {}
        # Of the pictures before those: their seconds and passes.
        self._measured: dict[str, tuple[float, int]] = {}

    def bounds(self, own: float | None) -> bool:
        """Whether a callback with this share of its own (None: without one) is bounded."""
        return self.share is not None or own is not None

    def record_start(self, passes: Mapping[str, int], spent: Mapping[str, float], training: float) -> None:
        """Remember what was spent before the pictures that are made now, to know their cost afterwards.

        Args:
            passes: Passes that each callback's pictures take, by name; 0 if not known.
            spent: Seconds up to now, by callback.
            training: Seconds of training up to now.
        """
        self._events += 1
        for name, count in passes.items():
            now = spent.get(name, 0.0)
            if name in self._starts:
                before, count_before, _ = self._starts[name]
                self._measured[name] = now - before, count_before
            self._starts[name] = now, count, training

    def costs(self, passes: Mapping[str, int], spent: Mapping[str, float], *, pass_seconds: float) -> dict[str, float]:
        """Return the seconds that pictures are expected to take, by callback.

        Args:
            passes: Passes that each callback's pictures take, by name; 0 if not known.
            spent: Seconds up to now, by callback.
            pass_seconds: Seconds of one pass of one image; 0 if not known.
        """
        costs = {}
        for name, count in passes.items():
            measured = [self._measured[name]] if name in self._measured else []
            if name in self._starts:
                before, count_before, _ = self._starts[name]
                measured.append((spent.get(name, 0.0) - before, count_before))
            expected = [seconds * (count / then if count and then else 1) for seconds, then in measured]
            if not expected or (len(expected) == 1 and count * pass_seconds > 0):
                expected.append(count * pass_seconds)
            costs[name] = min(expected)
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
        """Return the names of the callbacks whose pictures can be paid for now, in the order in which they are served.

        Args:
            due: The callbacks that are due, each with its own share of the training time. None: no bound of its own.
            costs: Seconds that pictures are expected to take, see `costs`: of those that are due and of all others that
                the last event will show.
            spent: Seconds up to now, of every callback of the run.
            training: Seconds of training up to now.
            everything: Seconds of all pictures up to now, with what they share.
        """
        left, allowed, kept = 0.0, 0.0, 0.0
        if self.share is not None:
            # What pictures share, such as the guard around training, is nobody's own cost.
            shared = max(everything - sum(spent.values()), 0.0) / max(self._events, 1)
            allowed = allowance(self.share, training)
            kept = min(sum(costs.values()) + shared, allowed / 2)
            left = allowed - kept - everything - shared
        chosen = []
        for name in sorted(due, key=lambda name: (self._last_made(name), costs[name])):
            own = due[name]
            if own is not None:
                its = allowance(own, training)
                if spent.get(name, 0.0) + costs[name] + min(costs[name], its / 2) > its:
                    continue
            if self.share is not None:
                if costs[name] > left:
                    since = self._last_made(name)
                    income = allowed - (allowance(self.share, since) if since else 0.0)
                    part = income * (1 - kept / allowed) / max(len(spent), 1) if allowed else 0.0
                    left -= min(max(left, 0.0), part)
                    continue
                left -= costs[name]
            chosen.append(name)
        return chosen

    def _last_made(self, name: str) -> float:
        """Return after how many seconds of training the last pictures were made; 0 for none."""
        return self._starts[name][2] if name in self._starts else 0.0


def allowance(share: float, training: float) -> float:
    """Return the seconds that pictures may take up to now.

    Args:
        share: Share of the training time.
        training: Seconds of training up to now.

    Example:
        >>> allowance(0.05, 60), allowance(0.05, 600), allowance(0.05, 3600)
        (20.0, 20.0, 170.0)
    """
    return max(FREE, share * training - MARGIN)


def check_share(budget: float | None) -> float | None:
    """Return a share of the training time, or raise a `ConfigurationError` if it is none.

    Example:
        >>> check_share(0.05)
        0.05
    """
    what = "a share of the training time"
    return checks.optional(checks.number, "budget", budget, 0, 1, above=True, what=what)


def left_out(name: str, epochs: Sequence[int], share: float) -> str:
    """Return the sentence that names the epochs in which a callback was left out, why, and what to set.

    Example:
        >>> left_out("DeepDream", [2, 3, 4, 7], 0.05)
        'DeepDream was left out in epochs 2–4, 7 to keep to 20 s or 5 % of the training time; budget=None makes all.'
    """
    runs: list[list[int]] = []
    for epoch in epochs:
        if runs and epoch == runs[-1][-1] + 1:
            runs[-1].append(epoch)
        else:
            runs.append([epoch])
    when = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    epochs_ = "epoch" if len(epochs) == 1 else "epochs"
    limit = f"{FREE:.0f} s or {100 * share:.3g} % of the training time"
    return f"{name} was left out in {epochs_} {when} to keep to {limit}; budget=None makes all."
