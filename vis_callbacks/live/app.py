"""The WSGI application behind the live page: its modules, what stands in the stores, and their pictures."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from vis_callbacks.live.runs import Run, Runs
from vis_callbacks.report.script import PAGE

Environ = dict[str, Any]
Start = Callable[..., Any]

_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_PICTURES = {".png": "image/png", ".jpg": "image/jpeg"}
_FOR_EVER = "private, max-age=31536000, immutable"


class RefusedError(Exception):
    """A request that cannot be answered.

    Args:
        status: The HTTP status.
        reason: What was found, and what to do.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Application:
    """Serves the page of some runs.

    Args:
        runs: The runs.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._answers: dict[str, Callable[[dict[str, list[str]]], Answer]] = {
            "/changes": self._changes,
            "/content": self._content,
            "/picture": self._picture,
            "/strip": self._strip,
        }
        self._files = {f"/{path.name}": path for path in sorted(PAGE.iterdir()) if path.suffix in _KINDS}

    @property
    def routes(self) -> list[str]:
        """The paths that it answers."""
        return [*self._answers, *self._files]

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Answer a request; whatever fails is an answer too."""
        path = "/" + str(environ.get("PATH_INFO", "")).rsplit("/", 1)[-1]
        try:
            answer = self._answer(path, parse_qs(str(environ.get("QUERY_STRING", ""))))
        except RefusedError as refusal:
            answer = _json({"error": str(refusal)}, status=refusal.status)
        except Exception as error:
            answer = _json({"error": f"{type(error).__name__}: {error}"}, status="500 Internal Server Error")
        status, kind, body, cache = answer
        start_response(
            status,
            [
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", cache),
                ("X-Content-Type-Options", "nosniff"),
            ],
        )
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def _answer(self, path: str, query: dict[str, list[str]]) -> "Answer":
        if path in self._files:
            file = self._files[path]
            return "200 OK", _KINDS[file.suffix], file.read_bytes(), "no-cache"
        if path in self._answers:
            return self._answers[path](query)
        raise RefusedError("404 Not Found", "there is nothing at this address")

    def _changes(self, query: dict[str, list[str]]) -> "Answer":
        """Whether anything was written since a token, and the runs that there are now."""
        known = self.runs.all()
        asked = query.get("run", [])
        token = _token([known[name] for name in asked if name in known])
        return _json({"runs": list(known), "token": token, "gone": [name for name in asked if name not in known]})

    def _content(self, query: dict[str, list[str]]) -> "Answer":
        """The page of one run, or of several side by side."""
        from vis_callbacks.live.content import live_content  # here: TensorBoard starts without Jinja2 and NumPy

        chosen = self._chosen(query)
        token = _token(chosen)
        return _json({**live_content(chosen, query.get("axis", ["epoch"])[0]), "token": token})

    def _picture(self, query: dict[str, list[str]]) -> "Answer":
        (run,) = self._chosen(query)[:1]
        file = _inside(run.store, query.get("file", [""])[0])
        try:
            return "200 OK", _PICTURES[file.suffix], file.read_bytes(), _FOR_EVER
        except OSError as error:
            raise RefusedError("404 Not Found", f"the picture could not be read: {error.strerror or error}") from None

    def _strip(self, query: dict[str, list[str]]) -> "Answer":
        from vis_callbacks.live.strip import KINDS, strip

        (run,) = self._chosen(query)[:1]
        kind = query.get("kind", ["webp"])[0]
        if f".{kind}" not in KINDS:
            raise RefusedError("404 Not Found", f"found kind={kind}, expected one of {', '.join(KINDS)}")
        try:
            return "200 OK", f"image/{kind}", strip(run.store, query.get("row", [""])[0], f".{kind}"), "no-store"
        except ValueError as error:
            raise RefusedError("404 Not Found", str(error)) from None

    def _chosen(self, query: dict[str, list[str]]) -> list[Run]:
        known = self.runs.all()
        names = query.get("run", [])
        missing = [name for name in names if name not in known]
        if not names or missing:
            raise RefusedError(
                "404 Not Found", f"no run {', '.join(missing)}: it was deleted, or is below another folder"
            )
        return [known[name] for name in names]


Answer = tuple[str, str, bytes, str]
"""Status, content type, body and how it may be cached."""


def _inside(store: Path, name: str) -> Path:
    """Return the path of a picture of a store.

    Raises:
        RefusedError: If it is no picture, or leads out of the store.
    """
    try:
        root = store.resolve()
        file = (root / name).resolve()
        if file.suffix in _PICTURES and file.is_relative_to(root) and file.is_file():
            return file
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a loop of links
        pass
    raise RefusedError("404 Not Found", "no such picture in this store")


def _token(runs: Sequence[Run]) -> str:
    return "|".join(run.token() for run in runs)


def _json(value: object, status: str = "200 OK") -> Answer:
    return status, "application/json; charset=utf-8", json.dumps(value).encode("ascii"), "no-store"
