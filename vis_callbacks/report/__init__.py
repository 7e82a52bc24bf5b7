"""The HTML report: a function of the picture store alone."""

from vis_callbacks.report.history import History, read_history
from vis_callbacks.report.html import write_report

__all__ = ["History", "read_history", "write_report"]
