"""The tab "Visualizations" of TensorBoard.

TensorBoard imports this file when it starts, and ends if that fails: at the top stand only the standard library and
what TensorBoard has loaded already.
"""

from collections.abc import Callable, Iterable
from typing import Any

from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin

Start = Callable[..., Any]


class VisualizationsPlugin(TBPlugin):  # type: ignore[misc]
    """Shows the picture stores below TensorBoard's log directory.

    Whatever fails is said in the tab, and TensorBoard goes on.

    Args:
        context: What TensorBoard was started with.
    """

    plugin_name = "visualizations"

    def __init__(self, context: TBContext) -> None:
        self._application: Any = None
        self._problem = ""
        try:
            from vis_callbacks.live.app import Application
            from vis_callbacks.live.runs import Runs, folders_of

            spec = getattr(getattr(context, "flags", None), "logdir_spec", "") or ""
            self._application = Application(Runs(folders_of(context.logdir or "", spec)))
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"

    def get_plugin_apps(self) -> dict[str, Any]:
        """Return the application for each of its routes."""
        if self._application is None:
            return {"/index.js": self._say_why}
        return dict.fromkeys(self._application.routes, self._application)

    def is_active(self) -> bool:
        """Whether there is a picture store, or something to say."""
        return self._application is None or self._application.runs.any()

    def frontend_metadata(self) -> FrontendMetadata:
        """Return the name of the tab and its script."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="Visualizations", disable_reload=True)

    def _say_why(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        import json

        text = json.dumps(f"vis_callbacks could not be loaded: {self._problem}")
        script = f"export function render() {{ document.body.append({text}); }}"
        start_response("200 OK", [("Content-Type", "text/javascript; charset=utf-8")])
        return [script.encode("ascii")]
