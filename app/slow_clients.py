"""Connections whose clients stall are closed: half a head, half a body, an answer that nobody reads.

uvicorn itself closes idle connections between two requests, and waits for ever in the middle of one. The server of the
API and that of the engine both speak HTTP through the protocol of this module.
"""

import asyncio
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # both have the same parts
    from uvicorn.protocols.http.h11_impl import H11Protocol as HttpProtocol
else:  # by httptools, or by h11 where that is not installed
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as HttpProtocol

# A client that stalls is seen after one such time, and closed after two at most.
STALL_SECONDS = 15.0
# A body that comes more slowly than this is no honest upload on a slow line.
LEAST_BYTES_A_SECOND = 100


class TimedProtocol(HttpProtocol):
    """HTTP/1.1 on one connection, which is closed when its client stalls.

    The head of a request has to be complete within two `stall_seconds`; of a body some bytes have to come in each of
    them, as long as the application takes them; of an answer the client has to take some bytes in two of them. How
    long the application works on a request, or is silent in the middle of an answer, is not bounded.
    """

    stall_seconds = STALL_SECONDS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._received = 0
        self._owed: tuple[object, int] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _let_the_kernel_watch(transport, 2 * self.stall_seconds)
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def _look_again(self) -> None:
        self._timer = self.loop.call_later(self.stall_seconds, self._look)

    def _look(self) -> None:
        """Close the connection if what its client owed at the last look is still owed."""
        before, self._owed = self._owed, self._debt()
        if before is not None and self._owed is not None and before[0] is self._owed[0]:
            least = 1 + LEAST_BYTES_A_SECOND * self.stall_seconds
            if self._is_at_a_head() or self._owed[1] - before[1] < least:
                self.transport.close()
                return
        self._look_again()

    def _debt(self) -> tuple[object, int] | None:
        """The request before the head that is awaited, or the one whose body is; and the bytes until now.

        None where the client owes nothing: the application has the request, or does not take more of its body.
        """
        if self._is_at_a_head():
            return self.cycle, self._received
        if self.cycle.more_body and not (self.flow.read_paused or self.cycle.waiting_for_100_continue):
            return self.cycle, self._received
        return None

    def _is_at_a_head(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)


def _let_the_kernel_watch(transport: asyncio.Transport, seconds: float) -> None:
    """An answer of which the client takes nothing for so long is cut by the kernel (`man 7 tcp`, TCP_USER_TIMEOUT)."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
