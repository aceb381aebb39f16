"""The server of `mdssl dashboard`, which answers GET and HEAD requests for the pages of the report.

Without a token, it answers only requests to a loopback address by one of its names. This prevents DNS rebinding, where
a website resolves its domain to 127.0.0.1 and so sends that domain in the Host header. Any other address requires the
token, which the first visit exchanges for a cookie.
"""

from __future__ import annotations

import gzip
import ipaddress
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from mdssl.errors import InputError, check_number
from mdssl.report.build import open_results
from mdssl.report.dashboard import Dashboard
from mdssl.report.folder import Folder
from mdssl.storage.location import Location

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".csv": "text/csv; charset=utf-8",
}
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def serve(
    storage: str | Location,
    *,
    host: str = "127.0.0.1",
    port: int = 8099,
    token: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the report of ``storage`` until KeyboardInterrupt.

    Args:
        storage: folder or bucket of results.
        host: address to listen on. Any but a loopback address needs a token.
        port: to listen on; 0 chooses one.
        token: whether requests from this machine require the token, too.
        say: prints the address, and problems with the storage.

    Raises:
        ValueError: there are no results in ``storage``, a file of the leaderboard is invalid, or the address cannot be
            listened on.
    """
    check_number("port", port, low=0, high=65535)
    storage = open_results(storage)
    server = _listen(host, port)
    needed = secrets.token_urlsafe(24) if token or not _is_loopback(host) else ""
    try:
        with tempfile.TemporaryDirectory(prefix="mdssl-dashboard-", ignore_cleanup_errors=True) as place:
            server.dashboard = Dashboard(storage, Folder(place, storage=storage.uri))
            server.token, server.names = needed, _names_of(host)
            shown = host if host not in ("", "0.0.0.0", "::") else socket.gethostname()
            shown = f"[{shown}]" if ":" in shown else shown
            query = f"/?token={needed}" if needed else "/"
            say(f"{storage.uri} at http://{shown}:{server.server_address[1]}{query} until Ctrl-C")
            threading.Thread(target=server.dashboard.follow, args=(say,), daemon=True).start()
            server.serve_forever(poll_interval=0.2)
    finally:
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    dashboard: Dashboard
    token: str
    names: frozenset[str]

    def server_bind(self) -> None:
        # HTTPServer.server_bind looks up the name of the host, which may take long.
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print errors, except those of connections that the visitor has closed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _listen(host: str, port: int) -> _Server:
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        server_class = type("Server", (_Server,), {"address_family": family})
        return server_class((host, port), _Handler)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(
            f"cannot listen on host {host!r}, port {port}: {why}. Give another --port (0 takes a free one), or the "
            "--host of an address of this machine."
        ) from error


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _names_of(host: str) -> frozenset[str]:
    """Return the names that the Host header of a request may have."""
    names = {*_LOCAL_NAMES, host}
    if not _is_loopback(host):
        names |= {socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower() for name in names if name)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "mdssl", ""
    protocol_version = "HTTP/1.1"
    # An idle connection occupies a thread.
    timeout = 60

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not printed: their addresses may have the token."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        if not self._is_own_name():
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"This dashboard is not served under this name.\n")
            return
        given = parse_qs(url.query).get("token", [""])[0]
        if self._is_token(given):
            cookie = f"{self._cookie_name}={given}; Path=/; HttpOnly; SameSite=Strict"
            # Without the token, which would otherwise stay in the address bar and the history.
            place = f"/{url.path.lstrip('/')}"
            self._send(HTTPStatus.SEE_OTHER, b"", headers={"Set-Cookie": cookie, "Location": place})
        elif self.server.token and not self._is_token(self._cookie()):
            self._send(HTTPStatus.FORBIDDEN, b"Open the address with ?token=... that `mdssl dashboard` printed.\n")
        elif url.path == "/version":
            self._send(HTTPStatus.OK, self.server.dashboard.version.encode())
        else:
            path = unquote(url.path).lstrip("/") or "index.html"
            page = self.server.dashboard.page(path)
            if page is None:
                self._send(HTTPStatus.NOT_FOUND, b"The report has no such page.\n")
            else:
                self._send(HTTPStatus.OK, page, _TYPES[PurePosixPath(path).suffix])

    def _is_own_name(self) -> bool:
        """Whether the Host header names this server: see the docstring of the module."""
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            return False
        # A numeric address is not resolved, so it cannot be rebound.
        return name in self.server.names or (bool(self.server.token) and _is_address(name))

    def _is_token(self, given: str) -> bool:
        return bool(self.server.token) and secrets.compare_digest(given.encode(), self.server.token.encode())

    @property
    def _cookie_name(self) -> str:
        # Browsers share cookies between the ports of a host.
        return f"mdssl-dashboard-{self.server.server_address[1]}"

    def _cookie(self) -> str:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self._cookie_name)
        except CookieError:
            return ""
        return found.value if found else ""

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        kind: str = "text/plain; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        headers = dict(headers or {})
        if len(body) > 10_000 and "gzip" in self.headers.get("Accept-Encoding", "") and kind != _TYPES[".png"]:
            body = gzip.compress(body, 5)
            headers["Content-Encoding"] = "gzip"
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
