"""Closes connections whose clients stall: within the headers, within a body, or while they should read a response.

uvicorn itself closes idle connections between two requests, but waits without limit in the middle of one. The servers
of the API and of the engine both use the protocol of this module.
"""

import asyncio
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # both implementations have the same attributes
    from uvicorn.protocols.http.h11_impl import H11Protocol as HttpProtocol
else:  # with httptools, or with h11 if that is not installed
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as HttpProtocol

# Connections are checked at this interval. A stalled one is closed after at most two of them.
STALL_SECONDS = 15.0
# A body that arrives more slowly than this is not a real upload on a slow line.
LEAST_BYTES_A_SECOND = 100


class TimedProtocol(HttpProtocol):
    """HTTP/1.1 on one connection, which is closed when its client stalls.

    The headers of a request must be complete within two intervals of `stall_seconds`. Some bytes of a body must arrive
    in each interval, while the application reads them. The client must read some bytes of a response within two
    intervals. The application's own time, before or within a response, is not limited.
    """

    stall_seconds = STALL_SECONDS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._received = 0
        self._expected: tuple[object, int] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _limit_unread_time(transport, 2 * self.stall_seconds)
        self._schedule_check()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def _schedule_check(self) -> None:
        self._timer = self.loop.call_later(self.stall_seconds, self._check)

    def _check(self) -> None:
        """Close the connection if its client must still send what it had to send at the last check."""
        before, self._expected = self._expected, self._find_expected()
        if before is not None and self._expected is not None and before[0] is self._expected[0]:
            least = 1 + LEAST_BYTES_A_SECOND * self.stall_seconds
            if self._awaits_headers() or self._expected[1] - before[1] < least:
                self.transport.close()
                return
        self._schedule_check()

    def _find_expected(self) -> tuple[object, int] | None:
        """Return the request whose body the client must send (for headers: the request before), and the bytes so far.

        Returns None if the client has to send nothing: the application has the request, or reads no more of its body.
        """
        if self._awaits_headers():
            return self.cycle, self._received
        if self.cycle.more_body and not (self.flow.read_paused or self.cycle.waiting_for_100_continue):
            return self.cycle, self._received
        return None

    def _awaits_headers(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)


def _limit_unread_time(transport: asyncio.Transport, seconds: float) -> None:
    """Make the kernel close a connection whose client reads nothing for this time (`man 7 tcp`, TCP_USER_TIMEOUT)."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
