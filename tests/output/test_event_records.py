"""Checksums of TensorBoard's files are its own, and its own reader takes what is written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from tests.report.stores import photograph, record, squares
from vis_callbacks.output.encoding import encode
from vis_callbacks.output.event_records import FastRecordWriter, hasten
from vis_callbacks.output.loggers import TensorBoardSink


@pytest.mark.parametrize("length", [0, 1, 4, 511, 512, 1023, 1024, 1025, 2048, 50_001])
def test_what_is_written_is_what_tensorboard_writes(length: int) -> None:
    for data in (np.random.default_rng(length).bytes(length), bytes(length)):
        ours, theirs = io.BytesIO(), io.BytesIO()
        FastRecordWriter(ours).write(data)
        RecordWriter(theirs).write(data)
        assert ours.getvalue() == theirs.getvalue() != b""


def test_loggers_get_the_very_bytes_and_tensorboard_reads_them(tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    sink = TensorBoardSink(writer)
    pictures = [encode(squares(0), exact=True), encode(photograph(0), exact=False)]
    for step, picture in enumerate(pictures):
        sink.add(record("Saliency/a b", 1, step), picture, {"Saliency/a b/norm": 2.0})
    writer.add_text("note", "x" * 3000)
    assert type(writer.file_writer.event_writer._async_writer._writer) is FastRecordWriter
    writer.close()
    # A closed writer opens a file of its own.
    sink.add(record("Saliency/a b", 1, 2), pictures[0], {})
    writer.close()
    found = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0}).Reload()
    # Of two files of one second TensorBoard reads that with number 10 before that with number 9.
    images = sorted(found.Images("Saliency/a_b"), key=lambda image: image.step)
    assert [image.step for image in images] == [0, 1, 2]
    assert [image.encoded_image_string for image in images[:2]] == [picture.data for picture in pictures]
    assert [(image.height, image.width) for image in images] == [(112, 112), (224, 448), (112, 112)]
    assert [scalar.value for scalar in found.Scalars("Saliency/a_b/norm")] == [2.0, 2.0]
    assert found.Tensors("note/text_summary")[0].tensor_proto.string_val == [b"x" * 3000]


def test_a_writer_that_is_built_in_another_way_stays_as_it_is(tmp_path: Path) -> None:
    class Other:
        event_writer = None

    hasten(Other())
    writer = SummaryWriter(tmp_path)
    records = writer.file_writer.event_writer._async_writer._writer
    records.__class__ = type("Own", (type(records),), {})
    hasten(writer.file_writer)
    assert type(records).__name__ == "Own"
    writer.close()
