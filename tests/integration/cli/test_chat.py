"""`tunesmith run`: a chat in a terminal that a test plays, and one question from a pipe."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.cli.conftest import Command
from tests.support.cli_answers import Json
from tests.support.rest_service import RestService
from tests.support.waiting import wait_for

PROMPT = ">>> "


class Terminal:
    """A process on a pseudo-terminal, and what it has written."""

    def __init__(self, *arguments: str) -> None:
        self._own, other = pty.openpty()
        command = [sys.executable, "-m", "app.cli", *arguments]
        self.process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, start_new_session=True)
        os.close(other)
        self._text = ""

    def read_until(self, end: str) -> str:
        """What it writes up to this end, which has to come."""
        while not self._text.endswith(end):
            self._text += os.read(self._own, 4096).decode()
        found, self._text = self._text, ""
        return found

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._own)


@pytest.fixture
def chat(service: RestService) -> Iterator[Terminal]:
    service.answer = [("delta", {"text": "14"}), ("delta", {"text": "4\x1b[2J"}), ("finish", {"checkpoint": None})]
    terminal = Terminal("run", "a-1", "--system", "be short")
    try:
        terminal.read_until(PROMPT)
        yield terminal
    finally:
        terminal.close()


def asked(service: RestService) -> list[list[Json]]:
    return [body["messages"] for body in service.bodies]


SYSTEM = {"role": "system", "content": "be short"}
FIRST, ANSWER = {"role": "user", "content": "after 89?"}, {"role": "assistant", "content": "144\x1b[2J"}


def test_what_was_said_is_sent_again_until_it_is_cleared(service: RestService, chat: Terminal) -> None:
    for line in ("after 89?", "and then?", "/clear", "after 89?"):
        chat.type(f"{line}\n")
        shown = chat.read_until(PROMPT)

    assert "144\\x1b[2J" in shown
    second = [SYSTEM, FIRST, ANSWER, {"role": "user", "content": "and then?"}]
    assert asked(service) == [[SYSTEM, FIRST], second, [SYSTEM, FIRST]]
    assert service.bodies[0]["adapter"] == "a-1"


def test_ctrl_d_leaves_and_an_unknown_command_is_explained(service: RestService, chat: Terminal) -> None:
    chat.type("/what\n")
    assert "there is no /what: Ctrl-D or /bye leaves" in chat.read_until(PROMPT)

    chat.type("\x04")

    wait_for("the chat ends", lambda: chat.process.poll() == 0)
    assert service.bodies == []


def test_an_error_does_not_end_the_chat(service: RestService, chat: Terminal) -> None:
    service.refusal = {"code": "engine_unavailable", "message": "the engine ended", "details": []}
    chat.type("after 89?\n")
    assert "engine_unavailable: the engine ended" in chat.read_until(PROMPT)

    service.refusal = None
    chat.type("after 89?\n")
    chat.read_until(PROMPT)

    assert asked(service) == [[SYSTEM, FIRST]]


def test_a_pipe_is_one_question(service: RestService, tunesmith: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    service.answer = [("delta", {"text": "144"}), ("finish", {"checkpoint": None})]
    monkeypatch.setattr("sys.stdin", io.StringIO("after 89?"))

    assert tunesmith("run", "tiny").out == "144\n"
    assert (asked(service), service.bodies[0]["model"]) == ([[FIRST]], "tiny")
