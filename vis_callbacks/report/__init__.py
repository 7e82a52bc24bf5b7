"""The HTML report: a function of the picture store alone."""

from typing import TYPE_CHECKING

from vis_callbacks._lazy import lazy_names

if TYPE_CHECKING:
    from vis_callbacks.report.history import History as History
    from vis_callbacks.report.html import write_report as write_report
    from vis_callbacks.report.reading import read_history as read_history
else:
    # TensorBoard loads the tab when it starts, and needs neither Jinja2 nor NumPy for that.
    __getattr__, __dir__, __all__ = lazy_names(__name__)
