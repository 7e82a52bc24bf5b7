"""The loggers of a Trainer that accept pictures, recognised by their methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from PIL import Image

from vis_callbacks.output.encoding import Encoded
from vis_callbacks.output.names import TagCleaner
from vis_callbacks.output.record import Record


class LoggerSink(Protocol):
    """Writes pictures under their tag, and numbers under theirs, to one logger."""

    def add(self, record: Record, picture: Encoded, numbers: Mapping[str, float]) -> None:
        """Log a picture, and numbers of the same event by tag."""

    def add_text(self, tag: str, text: str) -> None:
        """Log a text in Markdown, where the logger shows texts."""

    def alert(self, title: str, text: str) -> None:
        """Tell the user of a finding, where the logger has a way of its own."""

    def flush(self) -> None:
        """Write everything to disk."""


def logger_sinks(loggers: Sequence[Any]) -> list[LoggerSink]:
    """Return a sink for every logger that accepts pictures; a logger of numbers only, such as CSV, has none.

    Call it on the training thread: a logger creates its experiment on first access.
    """
    return [sink for logger in loggers if (sink := _sink(logger)) is not None]


def _sink(logger: Any) -> LoggerSink | None:
    if hasattr(logger, "log_image"):
        return WandbSink(logger)
    experiment = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image") and hasattr(experiment, "flush"):
        return TensorBoardSink(experiment)
    if hasattr(experiment, "log_image") and getattr(logger, "run_id", None) is not None:
        return MlflowSink(logger)
    return None


class TensorBoardSink:
    """Writes to a TensorBoard summary writer.

    Args:
        writer: A ``SummaryWriter``, or anything with its ``add_image``, ``add_scalar`` and ``flush``.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        # TensorBoard replaces other characters itself, and prints a line for each tag.
        self._clean = TagCleaner(r"-/\w.")

    def add(self, record: Record, picture: Encoded, numbers: Mapping[str, float]) -> None:
        """Log a picture, and numbers of the same event by tag."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import FileWriter

        from vis_callbacks.output.event_records import hasten

        tag = self._clean(record.tag)
        file_writer = getattr(self._writer, "file_writer", None)
        if isinstance(file_writer, FileWriter):
            hasten(file_writer)
            height, width, _ = picture.picture.shape
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=picture.data)
            file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), record.step)
        else:
            # Of another package, or closed: `add_image` opens it anew.
            self._writer.add_image(tag, picture.picture, record.step, dataformats="HWC")
        for name, value in numbers.items():
            self._writer.add_scalar(self._clean(name), value, record.step)

    def add_text(self, tag: str, text: str) -> None:
        """Log a text in Markdown."""
        if hasattr(self._writer, "add_text"):
            self._writer.add_text(tag, text)

    def alert(self, title: str, text: str) -> None:
        """Do nothing: TensorBoard has no alerts."""

    def flush(self) -> None:
        """Write everything to disk."""
        self._writer.flush()


class WandbSink:
    """Writes through a logger that has ``log_image``, with ``trainer/global_step`` as the x-axis, like its metrics.

    Args:
        logger: Lightning's ``WandbLogger``, or anything with its ``log_image`` and ``log_metrics``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        # Tags become file names.
        self._clean = TagCleaner(r"-/\w. ")

    def add(self, record: Record, picture: Encoded, numbers: Mapping[str, float]) -> None:
        """Log a picture, and numbers of the same event by tag."""
        tag = self._clean(record.tag)
        with TemporaryDirectory() as folder:
            # The logger copies a file, and would encode anything else once more.
            file = Path(folder, f"picture{picture.suffix}")
            file.write_bytes(picture.data)
            self._logger.log_image(tag, [str(file)], step=record.step)
        if numbers:
            cleaned = {self._clean(name): value for name, value in numbers.items()}
            self._logger.log_metrics(cleaned, step=record.step)

    def add_text(self, tag: str, text: str) -> None:
        """Do nothing: its texts are tables."""

    def alert(self, title: str, text: str) -> None:
        """Send an alert."""
        if hasattr(self._logger.experiment, "alert"):
            self._logger.experiment.alert(title=title, text=text)

    def flush(self) -> None:
        """Do nothing: the logger's own process writes."""


class MlflowSink:
    """Writes through the MLflow client of a logger, to the run that the logger writes to.

    Args:
        logger: Lightning's ``MLFlowLogger``, or anything with an MLflow client as ``experiment`` and its ``run_id``.
    """

    def __init__(self, logger: Any) -> None:
        self._client = logger.experiment
        self._run_id = logger.run_id
        # MLflow refuses a key with any other character.
        self._clean = TagCleaner(r"-/a-zA-Z0-9_. ")

    def add(self, record: Record, picture: Encoded, numbers: Mapping[str, float]) -> None:
        """Log a picture, and numbers of the same event by tag."""
        key = self._clean(record.tag)
        # MLflow takes no files under a key, and writes PNG.
        image = Image.fromarray(picture.picture)
        image.encoderinfo = {"compress_level": 1}
        self._client.log_image(self._run_id, image, key=key, step=record.step, synchronous=True)
        for name, value in numbers.items():
            self._client.log_metric(self._run_id, self._clean(name), value, step=record.step, synchronous=True)

    def add_text(self, tag: str, text: str) -> None:
        """Do nothing: its texts are files."""

    def alert(self, title: str, text: str) -> None:
        """Do nothing: MLflow has no alerts."""

    def flush(self) -> None:
        """Do nothing: `add` writes synchronously."""
