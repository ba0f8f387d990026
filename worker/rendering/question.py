"""The token ids of a single question, which the trainer records and the engine must reproduce from the bundle."""

from app.contracts.records import Message
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import Renderer


def question_ids(renderer: Renderer, question: str) -> list[int]:
    """Render the question with the template if it accepts a question alone, else encode it as raw text."""
    if renderer.templates:
        try:
            return renderer.prompt_ids([Message(role="user", content=question)])
        except RowRefused:
            pass
    return renderer.text_ids(question)
