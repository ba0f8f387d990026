"""HTTP for generation: the one place of the API that streams what another process computes."""

from fastapi import APIRouter, Response

from app.generate.exchange import ExchangeDep
from app.generate.schemas import GenerateRequest, Generation
from app.generate.service import prepare_generation
from app.generate.shape import GenerationShape

router = APIRouter(tags=["generate"])


@router.post("/generate", response_model=Generation, responses={200: {"content": {"text/event-stream": {}}}})
async def generate(body: GenerateRequest, exchange: ExchangeDep) -> Generation | Response:
    """Answer a chat or continue a text, with a base model, an adapter or a checkpoint; whole, or as a stream."""
    return await exchange.respond(body, prepare_generation, GenerationShape)
