"""Many clients in one process, on raw sockets, so that they cost less than the service that they measure.

usage: python -m bench.load_generator HOST PORT < plan.json      prints one JSON object; `bench.api` starts it

Latencies count from the moment at which a request was due, not from when it was sent: a service that is late does not
hide it by being asked later.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

# For the answers to the last questions.
PATIENCE_SECONDS = 5.0
ID = re.compile(rb"^id: (\d+)\r?$", re.MULTILINE)
AT = re.compile(rb'"at": ?"([^"]+)"')
ETAG = re.compile(rb"^etag: ([^\r]+)\r$", re.MULTILINE | re.IGNORECASE)
LENGTH = re.compile(rb"^content-length: (\d+)\r$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """What is asked: every poller polls a job once a second, every follower reads the stream of the followed one.

    `events`: how many that one has at the beginning. `keys`: clients share them evenly; none: they send none.
    """

    jobs: list[str]
    followed: str
    events: int
    pollers: int
    followers: int
    seconds: float
    is_conditional: bool
    keys: list[str]

    def authorization(self, number: int) -> bytes:
        """The header line of a client, by its number."""
        return b"authorization: Bearer %b\r\n" % self.keys[number % len(self.keys)].encode() if self.keys else b""


@dataclass
class Seen:
    """What all clients saw."""

    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    events: int = 0
    has_begun: bool = False

    def count(self, status: str) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1


class Poller(asyncio.Protocol):
    """One connection that asks for one job once a second."""

    def __init__(self, path: str, seen: Seen, plan: Plan, authorization: bytes) -> None:
        self._path, self._seen, self._plan, self._authorization = path, seen, plan, authorization
        self._answer = b""
        self._etag = b""
        self._due = 0.0
        self._is_waiting = self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, due: float) -> None:
        """At a moment of the loop's clock; the next request is due a second after this one."""
        self._due, self._is_waiting, self._answer = due, True, b""
        condition = b"if-none-match: " + self._etag + b"\r\n" if self._etag and self._plan.is_conditional else b""
        head = b"GET " + self._path.encode() + b" HTTP/1.1\r\nhost: localhost\r\n"
        self._transport.write(head + self._authorization + condition + b"\r\n")

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        length = LENGTH.search(head + b"\r\n")
        if length is None or len(body) >= int(length[1]):
            self._note(head)

    def _note(self, head: bytes) -> None:
        loop = asyncio.get_running_loop()
        status, tag = head[9:12].decode(), ETAG.search(head + b"\r\n")
        self._is_waiting, self._etag = False, tag[1] if tag else b""
        self._seen.count(status)
        self._seen.latencies.append(loop.time() - self._due)
        if status not in ("200", "304"):
            self._seen.errors.append(f"a poll was answered {status}")
        if not self._is_over:
            loop.call_at(max(self._due + 1, loop.time()), self._ask_again, self._due + 1)

    def _ask_again(self, due: float) -> None:
        if not self._is_over:
            self.ask(due)

    def connection_lost(self, _: Exception | None) -> None:
        if self._is_waiting or not self._is_over:
            self._seen.errors.append("a poll lost its connection")

    def ask_no_more(self) -> None:
        self._is_over = True

    def end(self) -> None:
        if self._is_waiting:
            self._seen.errors.append(f"a poll was not answered within {PATIENCE_SECONDS} seconds")
            self._is_waiting = False
        self._transport.close()


class Follower(asyncio.Protocol):
    """One connection that reads the events of one job; one of them notes how late each comes."""

    def __init__(self, plan: Plan, seen: Seen, authorization: bytes, *, notes_delays: bool) -> None:
        self._path, self._seen, self._notes_delays = f"/jobs/{plan.followed}/stream", seen, notes_delays
        self._authorization = authorization
        self._rest = b""
        self.newest = 0
        self.is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        head = b"GET " + self._path.encode() + b" HTTP/1.1\r\nhost: localhost\r\n"
        transport.write(head + self._authorization + b"\r\n")

    def data_received(self, data: bytes) -> None:
        whole, _, self._rest = (self._rest + data).rpartition(b"\n")
        for number in ID.findall(whole + b"\n"):
            if int(number) != self.newest + 1:
                self._seen.errors.append(f"event {int(number)} came behind event {self.newest}")
            self.newest = int(number)
            self._seen.events += 1
        if self._notes_delays and self._seen.has_begun:
            now = datetime.now(UTC)
            ages = [(now - datetime.fromisoformat(at.decode())).total_seconds() for at in AT.findall(whole)]
            self._seen.delays += ages

    def connection_lost(self, _: Exception | None) -> None:
        if not self.is_over:
            self._seen.errors.append("a stream was cut")

    def end(self) -> None:
        self.is_over = True
        self._transport.close()


async def load(host: str, port: int, plan: Plan) -> dict[str, Any]:
    """Followers first, until each has what was there before; then the pollers, for so many seconds."""
    loop, seen = asyncio.get_running_loop(), Seen()
    began = loop.time()
    followers = [Follower(plan, seen, plan.authorization(n), notes_delays=n == 0) for n in range(plan.followers)]
    await connect(host, port, followers)
    while any(follower.newest < plan.events for follower in followers) and not seen.errors:
        await asyncio.sleep(0.05)
    caught_up = loop.time() - began
    pollers = [
        Poller(f"/jobs/{plan.jobs[n % len(plan.jobs)]}", seen, plan, plan.authorization(n)) for n in range(plan.pollers)
    ]
    await connect(host, port, pollers)
    seen.has_begun = True
    print("begin", file=sys.stderr, flush=True)
    began, used = loop.time(), time.process_time()
    for number, poller in enumerate(pollers):
        due = began + number / len(pollers)
        loop.call_at(due, poller.ask, due)
    await asyncio.sleep(plan.seconds)
    used = time.process_time() - used
    for poller in pollers:
        poller.ask_no_more()
    await asyncio.sleep(PATIENCE_SECONDS)
    for poller in pollers:
        poller.end()
    for follower in followers:
        follower.end()
    newest = [follower.newest for follower in followers]
    return {**asdict(seen), "newest": newest, "cpu_seconds": used, "caught_up_seconds": caught_up}


async def connect(host: str, port: int, clients: Sequence[asyncio.Protocol]) -> None:
    for client in clients:
        await asyncio.get_running_loop().create_connection(lambda client=client: client, host, port)  # type: ignore[misc]


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    print(json.dumps(asyncio.run(load(sys.argv[1], int(sys.argv[2]), plan))))


if __name__ == "__main__":
    main()
