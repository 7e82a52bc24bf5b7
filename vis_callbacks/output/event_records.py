"""A fast checksum for the files of TensorBoard.

TensorBoard computes the checksum of each record in a Python loop, 0.1 µs for each byte: 5 ms for a small photograph,
during which training waits for the interpreter lock.
"""

import struct
from typing import Any

import google_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter


class FastRecordWriter(RecordWriter):  # type: ignore[misc]  # TensorBoard has no types
    """Writes the same bytes as TensorBoard's own class."""

    def write(self, data: bytes) -> None:
        """Write one record."""
        header = struct.pack("<Q", len(data))
        self._writer.write(header + _checksum(header) + data + _checksum(data))


def hasten(writer: FileWriter) -> None:
    """Let a file writer compute its checksums fast; one that is built in another way stays as it is."""
    queue: Any = getattr(writer.event_writer, "_async_writer", None)
    records = getattr(queue, "_writer", None)
    if type(records) is RecordWriter:
        records.__class__ = FastRecordWriter  # its thread holds it, so it cannot be replaced


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    # Masked, as records are: a checksum of data with a checksum in it would mean little.
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
