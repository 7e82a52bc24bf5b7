"""The HTML report: a function of the picture store alone."""

from vis_callbacks.report.history import History
from vis_callbacks.report.html import write_report
from vis_callbacks.report.reading import read_history

__all__ = ["History", "read_history", "write_report"]
