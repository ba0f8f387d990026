"""Log-probabilities in OpenAI's two forms."""

from collections.abc import Sequence

from app.contracts.generation import ScoredToken, TokenScore
from app.openai.answers import ChatLogprobs, TextLogprobs, TokenLogprob, TopLogprob


def chat_logprobs(tokens: Sequence[ScoredToken] | None) -> ChatLogprobs | None:
    """None where none were asked for."""
    if tokens is None:
        return None
    return ChatLogprobs(content=[_of_chat(token) for token in tokens])


def _of_chat(token: ScoredToken) -> TokenLogprob:
    return TokenLogprob(**_score(token).model_dump(), top_logprobs=[_score(other) for other in token.top_logprobs])


def _score(token: TokenScore) -> TopLogprob:
    return TopLogprob(token=token.token, bytes=token.bytes, logprob=token.logprob)


def text_logprobs(tokens: Sequence[ScoredToken] | None, start: int = 0) -> TextLogprobs | None:
    """None where none were asked for; `start` is the place of the first token's text in the answer."""
    if tokens is None:
        return None
    offsets, place = [], start
    for token in tokens:
        offsets.append(place)
        place += len(token.token)
    top = [{other.token: other.logprob for other in token.top_logprobs} for token in tokens]
    return TextLogprobs(
        tokens=[token.token for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=top if any(top) else None,
        text_offset=offsets,
    )
