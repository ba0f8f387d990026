"""The token ids of a lone question, which the trainer records and the engine has to make again of its bundle."""

from app.contracts.records import Message
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import Renderer


def question_ids(renderer: Renderer, question: str) -> list[int]:
    """As the template asks it, where it takes a question alone, else as raw text."""
    if renderer.templates:
        try:
            return renderer.prompt_ids([Message(role="user", content=question)])
        except RowRefused:
            pass
    return renderer.text_ids(question)
