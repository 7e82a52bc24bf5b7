"""The callback that writes the report when a run ends."""

import logging
from pathlib import Path

from vis_callbacks import checks
from vis_callbacks._lightning import LightningModule, Trainer, logger_of
from vis_callbacks.model.subject import Forward, check_forward
from vis_callbacks.output.writer import Output
from vis_callbacks.report.html import write_report
from vis_callbacks.run.budget import check_share
from vis_callbacks.run.hooks import RunHooks
from vis_callbacks.run.run import Run


class Report(RunHooks):
    """Writes one self-contained HTML page with all pictures and metrics of the run when it ends, however it ends.

    The page is ``<log_dir>/visualizations/report.html``, as Lightning's logger reports. It needs no network. After a
    killed process, ``vis-callbacks report <log_dir>`` writes it from the picture store.

    Args:
        budget: Share of the training time that all pictures together may take. With 0.05 they take at most 5 % of
            trainings of ten minutes and more, and at most twenty seconds below. If need be they are made less often,
            in turn, and the report lists when. The last event of a training shows everything, even if that alone takes
            more. None: no bound.
        forward: What the pictures of all callbacks show that say nothing else, see `VisualizationCallback`.
        chunk_size: Images that go through the model at once in the pass that the callbacks share. None: in a fit as
            many as in a training batch, whose step takes more memory; else up to eight of 224x224. When memory runs
            out there are fewer.

    Attributes:
        path: Where the last report was written. None before, in all processes but the first, and in a process that
            spawned or forked them.

    Example:
        >>> Report().path is None
        True
    """

    def __init__(self, *, budget: float | None = None, forward: Forward = None, chunk_size: int | None = None) -> None:
        super().__init__()
        self.forward_for_all = check_forward(forward)
        self.budget = check_share(budget)
        self.chunk_size = checks.optional(checks.whole, "chunk_size", chunk_size)
        self.path: Path | None = None
        self._logger: logging.Logger | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the run."""
        self._logger = logger_of(trainer)
        super().setup(trainer, pl_module, stage)
        run = Run.of(trainer)
        run.recorder.call_at_end(self._write)
        run.budget.share, run.events.chunk_size = self.budget, self.chunk_size

    def _write(self, output: Output) -> None:
        self.path = write_report(output.directory)
        if self._logger is not None:
            self._logger.info("The report with all pictures of this run: %s", self.path)
