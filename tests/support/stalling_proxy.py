"""A TCP proxy that can freeze (it keeps its connections and takes new ones, and passes nothing on), be slow, or be cut
off (it ends its connections, and new ones at once)."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

CHUNK_BYTES = 1 << 16


class StallingProxy:
    """Passes bytes between its own port and a server's until it is told to stall."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._flowing, self._ended = threading.Event(), threading.Event()
        self._flowing.set()
        self._is_cut, self._delay_seconds = False, 0.0
        self.port: int = self._listener.getsockname()[1]

    @contextmanager
    def stalled(self) -> Iterator[None]:
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Each piece of data takes so long in each direction."""
        self._delay_seconds = seconds
        try:
            yield
        finally:
            self._delay_seconds = 0.0

    @contextmanager
    def cut(self) -> Iterator[None]:
        """As a server that restarts looks to its clients."""
        self._is_cut = True
        try:
            yield
        finally:
            self._is_cut = False

    def serve(self) -> None:
        while not self._ended.is_set():
            with suppress(OSError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._flowing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pass_on(self, client: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            stack.enter_context(client)
            self._flowing.wait()
            if self._is_cut:
                return
            server = stack.enter_context(socket.create_connection(self._server))
            other = {client: server, server: client}
            while not (self._ended.is_set() or self._is_cut):
                ready, _, _ = select.select(list(other), [], [], 0.1)
                self._flowing.wait()
                for one in ready:
                    if not (chunk := one.recv(CHUNK_BYTES)):
                        return
                    time.sleep(self._delay_seconds)
                    other[one].sendall(chunk)


@contextmanager
def stalling_proxy(host: str, port: int) -> Iterator[StallingProxy]:
    proxy = StallingProxy((host, port))
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
