"""A receiver of webhooks on loopback: a real HTTP server that remembers what it was sent and answers by a script."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HANG, DRIP = -1, -2


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers`: the statuses of the next answers, then 204. HANG: none before the end, DRIP: endless small headers."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)
    connections: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def setup(self) -> None:
        self.receiver.connections += 1
        super().setup()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.receiver.received.append(Received(self.path, headers, body))
        status = self.receiver.answers.pop(0) if self.receiver.answers else 204
        if status in (HANG, DRIP):
            self._stay(status)
            return
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", self.receiver.url + "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def _stay(self, status: int) -> None:
        with suppress(OSError):  # the client has gone
            if status == DRIP:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.receiver.is_over.wait(0.05):
                if status == DRIP:
                    self.wfile.write(b"x: y\r\n")

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that refuses the certificate is what a test wants."""


@contextmanager
def receiving(certificate: Path | None = None) -> Iterator[Receiver]:
    """A receiver, with TLS if there is a file with a certificate and its key."""
    receiver = Receiver()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"receiver": receiver}))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _socket, name, _context: receiver.server_names.append(name)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()
