"""The review page, on this machine alone: 127.0.0.1, a random token in the address, one reviewer, one queue.

Pictures of patients are shown here, so there is no option to listen elsewhere. A request under another host
name (DNS rebinding), of another site, or without the token is refused; nothing but the page, the queue's
items and their pictures can be read, nothing but decisions can be written. The page loads nothing from
outside.
"""

import json
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from surgr1.corpora.schema import Sample
from surgr1.ontology.errors import SurgR1Error
from surgr1.synthesis.review import (
    LONGEST_COMMENT,
    Queue,
    Review,
    ReviewError,
    now,
    read_reviews,
    reviewer_name,
    write_review,
)
from surgr1.synthesis.review_item import Rows, page_data, picture_of

HOST = "127.0.0.1"
_LARGEST_BODY = 64 * 1024
_IDLE_S = 60
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_NUMBERED = re.compile(r"(item|picture)/(0|[1-9][0-9]{0,8})")


class _Refused(Exception):
    """A request that gets no answer but its status and a sentence."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class ReviewServer:
    """Serves the review of a queue until it is closed. `samples`: sample_id -> the sample with its labels;
    decisions go to `reviews`/<reviewer>.jsonl. `port` 0 takes a free one.

    Raises ReviewError: an empty queue, an unreadable file, a port that is taken.
    """

    def __init__(self, queue: Queue, samples: Mapping[str, Sample], reviews: Path, *, port: int = 0) -> None:
        if not queue.ids:
            raise ReviewError(
                f"{queue.path}: nothing in it falls to {queue.reviewer}; raise the limit or the share of"
                " double review"
            )
        self.queue, self._samples, self._reviews = queue, samples, reviews
        self._rows, self._lock = Rows(queue), threading.Lock()
        mine = (d for d in read_reviews(reviews) if d.reviewer == reviewer_name(queue.reviewer))
        self._known = frozenset(queue.ids)
        self._decided = {d.sample_id: d for d in mine if d.sample_id in self._known}
        self._serving = False
        self._token, self.nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(16)
        try:
            self._server = _Server((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            self._rows.close()
            raise ReviewError(
                f"{HOST}:{port} cannot be listened on ({error}); choose another port"
            ) from error
        self._server.review = self
        self.origins = tuple(f"http://{h}:{self._server.server_port}" for h in (HOST, "localhost"))

    @property
    def url(self) -> str:
        """The address of the page; whoever has it can review."""
        return f"{self.origins[0]}/{self._token}/"

    def serve_forever(self) -> None:
        """Answer requests until `close` is called from another thread, or Ctrl-C."""
        self._serving = True
        self._server.serve_forever(poll_interval=0.2)

    def start(self) -> Self:
        """Answer requests in a thread."""
        self._serving = True
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def close(self) -> None:
        """Stop serving. What was decided is on the disk already."""
        if self._serving:
            self._server.shutdown()
        self._server.server_close()
        self._rows.close()

    def path_in(self, target: str) -> str:
        """What stands behind the token in a request's target. Raises _Refused."""
        _, token, *rest = target.split("/", 2) if target.count("/") > 1 else ("", "", "")
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            raise _Refused(HTTPStatus.NOT_FOUND, "no such page; use the address that the program printed")
        return "/".join(rest)

    def page(self) -> bytes:
        """The page itself; its data comes item by item."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("surgr1.synthesis"), autoescape=True, trim_blocks=True
        )
        with self._lock:
            first = next((k for k, i in enumerate(self.queue.ids) if i not in self._decided), 0)
        facts = {"reviewer": self.queue.reviewer, "total": len(self.queue.ids), "first": first}
        return (
            environment.get_template("review.html.j2")
            .render(nonce=self.nonce, facts=facts, longest=LONGEST_COMMENT, file=self.queue.path.name)
            .encode()
        )

    def item(self, k: int) -> dict[str, Any]:
        """Trace number k with this reviewer's decision on it, and the counts."""
        with self._lock:
            row = self._rows[k]
            sample = self._samples.get(row["sample_id"])
        data = page_data(row, sample)
        with self._lock:
            decision = self._decided.get(row["sample_id"])
            stale = decision is not None and decision.trace != data["trace"]
            if stale:
                data["notices"].append("The text has changed since you decided: please decide again.")
            kept = decision.model_dump() if decision else None
            return data | {"decision": kept, "stale": stale, "progress": self._progress()}

    def _progress(self) -> dict[str, int | None]:
        rejected = sum(d.verdict == "reject" for d in self._decided.values())
        open_ = next((k for k, i in enumerate(self.queue.ids) if i not in self._decided), None)
        return {"decided": len(self._decided), "rejected": rejected, "next": open_}

    def picture(self, k: int) -> tuple[str, bytes]:
        """MIME type and bytes of trace k's picture."""
        with self._lock:
            path = picture_of(self._rows[k])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _Refused(HTTPStatus.NOT_FOUND, f"the picture cannot be read: {error}") from error
        kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
        if kind is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"{path} is no PNG or JPEG")
        return kind, data

    def decide(self, body: bytes) -> dict[str, Any]:
        """Write a decision; it is on the disk when this returns."""
        try:
            given = json.loads(body)
            decision = Review.model_validate(given | {"reviewer": self.queue.reviewer, "at": now()})
        except (ValueError, TypeError, RecursionError, ValidationError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"not a decision: {error}") from error
        if decision.sample_id not in self._known:
            raise _Refused(HTTPStatus.NOT_FOUND, f"{decision.sample_id} is not in this queue")
        if len(decision.comment) > LONGEST_COMMENT:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"a comment holds at most {LONGEST_COMMENT} characters")
        with self._lock:
            write_review(self._reviews, decision)
            self._decided[decision.sample_id] = decision
            return {"decision": decision.model_dump(), "progress": self._progress()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    review: ReviewServer


class _Handler(BaseHTTPRequestHandler):
    # HTTP/1.0 of the base class: one request a connection, so that none outlives the server.
    timeout = _IDLE_S
    server: _Server

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, what: Callable[[str, bytes], tuple[str, bytes]]) -> None:
        try:
            # Read even if refused: an answer before the request's end may never be seen.
            body = self._body() if self.command == "POST" else b""
            self._guard()
            self._send(HTTPStatus.OK, *what(self.server.review.path_in(self.path), body))
        except _Refused as refusal:
            self._json(refusal.status, {"error": str(refusal)})
        except (SurgR1Error, OSError) as error:
            if not isinstance(error, ConnectionError):
                self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)})

    def _guard(self) -> None:
        """Refuse what does not come from our own page on this machine."""
        origins = self.server.review.origins
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or f"http://{hosts[0]}" not in origins:
            raise _Refused(HTTPStatus.FORBIDDEN, "this server answers under its own address alone")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise _Refused(HTTPStatus.FORBIDDEN, "requests of other sites are refused")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            raise _Refused(HTTPStatus.FORBIDDEN, "requests of other sites are refused")

    def _get(self, path: str, _: bytes) -> tuple[str, bytes]:
        review = self.server.review
        if path == "":
            return "text/html; charset=utf-8", review.page()
        found = _NUMBERED.fullmatch(path)
        if not found or int(found.group(2)) >= len(review.queue.ids):
            raise _Refused(HTTPStatus.NOT_FOUND, "no such page")
        k = int(found.group(2))
        if found.group(1) == "picture":
            return review.picture(k)
        return "application/json", json.dumps(review.item(k)).encode()

    def _post(self, path: str, body: bytes) -> tuple[str, bytes]:
        if path != "decision":
            raise _Refused(HTTPStatus.NOT_FOUND, "no such page")
        # A form of another site cannot send this type, and a script there has to ask first.
        if self.headers.get_content_type() != "application/json" or self.headers.get("Origin") is None:
            raise _Refused(HTTPStatus.FORBIDDEN, "decisions come as JSON from the page itself")
        return "application/json", json.dumps(self.server.review.decide(body)).encode()

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,7}", length) or int(length) > _LARGEST_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {_LARGEST_BODY} bytes")
        return self.rfile.read(int(length))

    def _json(self, status: HTTPStatus, value: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        nonce = self.server.review.nonce
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self';"
            " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
        # Nothing of a patient stays in the browser's cache.
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "same-origin")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(data)

    def version_string(self) -> str:
        return "surgr1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address holds the token."""
