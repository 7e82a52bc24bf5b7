"""The live page without TensorBoard, for users of other loggers."""

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from vis_callbacks.live.app import Application
from vis_callbacks.live.runs import Runs

HOST = "127.0.0.1"

_SHELL = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<title>Visualizations</title>
</head>
<body>
<script type="module" src="alone.js"></script>
</body>
</html>
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'"
)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: each picture is a request."""

    def address_string(self) -> str:
        """Return the address as it is: to look up a name may take seconds."""
        return str(self.client_address[0])


def make(runs: Runs, port: int = 0) -> WSGIServer:
    """Return a server of the page on this machine alone.

    Args:
        runs: The runs.
        port: Its port; 0 for a free one.

    Raises:
        OSError: If the port is taken.
    """
    return make_server(HOST, port, _alone(Application(runs)), server_class=_Server, handler_class=_Quiet)


def _alone(application: Application) -> Callable[..., Iterable[bytes]]:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", "")).rsplit(":", 1)[0]
        if host not in (HOST, "localhost"):
            # A foreign page may have its own name lead here.
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"open this page by 127.0.0.1 or localhost"]
        if environ.get("PATH_INFO") in ("", "/"):
            headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", _POLICY)]
            start_response("200 OK", headers)
            return [_SHELL]
        return application(environ, start_response)

    return answer
