"""A server that speaks vLLM's protocol around the serial engine: routes, errors and stream lines of vLLM 0.32 and 0.33.

As vLLM does, it loads whatever lies in a folder, and answers as the base for an adapter that does not fit.
"""

import argparse
import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
import xgrammar
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from app.contracts.generation import EngineError, Sampling
from tests.support.serial_engine import SerialEngine
from tests.support.tiny_model import CONTEXT_TOKENS
from worker.inference.engine import AdapterFolder, Ended, ModelFolder, Token, TokenEvent, TokenRequest
from worker.inference.models.bases import Placement
from worker.inference.text.grammar import JsonWalk
from worker.inference.text.language import load_language

KEY = "a key of the test"
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
MAX_LOGPROBS, EVERY_TOKEN = 20, 100_000


@dataclass
class Server:
    """What the server is and has; a test may change it while it runs."""

    base: ModelFolder
    engine: SerialEngine
    key: str = KEY
    version: str = "0.33.0"
    name: str = ""
    loras: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    active: int = 0
    is_dead: bool = False
    is_loading_allowed: bool = True
    checks_names: bool = True
    forgets: bool = False
    cuts_after: int | None = None
    fails_after: int | None = None

    def __post_init__(self) -> None:
        self.name = self.name or str(self.base.folder)


def an_answering_engine() -> SerialEngine:
    return SerialEngine(Placement("cpu", torch.float32), places=2048)


def adapter_in(folder: Path) -> AdapterFolder:
    """An adapter under the name that the engine has for it: servers of one engine may call theirs alike."""
    return AdapterFolder(str(folder).replace(".", "-"), folder)


def create_vllm(server: Server) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        if request.url.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {server.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        answer: Response = await call_next(request)
        return answer

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": server.version}

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=503 if server.is_dead else 200)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        cards = [_card(server.name, str(server.base.folder), None, CONTEXT_TOKENS)]
        cards += [_card(name, path, server.name, None) for name, path in server.loras.items()]
        return {"object": "list", "data": cards}

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await request.json()
        refused = _refused(server, body)
        if refused is not None:
            return refused
        server.asked.append(body)
        return StreamingResponse(_stream(server, body), media_type="text/event-stream")

    _add_loading(app, server)
    return app


def _add_loading(app: FastAPI, server: Server) -> None:
    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        return _load(server, await request.json()) if server.is_loading_allowed else _no_route()

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if server.loras.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def _card(name: str, root: str, parent: str | None, context: int | None) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": 1, "owned_by": "vllm", "root": root, "parent": parent}
    return {**card, "max_model_len": context, "permission": [{"id": "modelperm-1"}]}


def _error(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": status}}, status)


def _no_route() -> Response:
    return JSONResponse({"error": {"message": "Not Found", "type": "NotFoundError", "param": None, "code": 404}}, 404)


def _load(server: Server, body: dict[str, Any]) -> Response:
    name, folder = body["lora_name"], Path(body["lora_path"])
    if name in server.loras:
        return _error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
    if not folder.is_dir():
        return _error(404, f"Loading lora {name} failed: No adapter found for {folder}", "NotFoundError")
    config = json.loads((folder / "adapter_config.json").read_text())
    for is_there, reason in (
        (config.get("use_dora"), "vLLM does not yet support DoRA."),
        (config.get("bias", "none") != "none", "Adapter bias is not supported."),
        (config.get("modules_to_save"), "vLLM only supports modules_to_save being either None or [...]"),
    ):
        if is_there:
            message = f"Call to add_lora method failed: Worker failed with error '{reason}'"
            return _error(500, message, "InternalServerError")
    server.loads.append(name)
    if not server.forgets:
        server.loras[name] = str(folder)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


def _refused(server: Server, body: dict[str, Any]) -> Response | None:
    vocabulary = load_language(server.base.folder).vocabulary
    if server.is_dead:
        return _error(500, DEAD, "InternalServerError")
    if server.checks_names and body["model"] not in (server.name, *server.loras):
        message = f"The model `{body['model']}` does not exist. Valid aliases: <path>"
        return _error(404, message, "NotFoundError", "model")
    if not 0 <= body["temperature"] <= 2:
        return _error(400, f"temperature must be in [0, 2], got {body['temperature']}.", param="temperature")
    if not body.get("logprob_token_ids") and body["logprobs"] > MAX_LOGPROBS:
        return _error(400, f"Requested sample logprobs of {body['logprobs']}", param="logprobs")
    unknown = [token for token in body["prompt"] if token >= vocabulary]
    return _error(400, f"Token id {unknown[0]} is out of vocabulary") if unknown else None


async def _stream(server: Server, body: dict[str, Any]) -> AsyncGenerator[str, None]:
    server.active += 1
    try:
        count = 0
        async with aclosing(_choices(server, body)) as choices:
            async for choice in choices:
                if count == server.cuts_after:
                    raise RuntimeError("the connection is cut")
                if count == server.fails_after:
                    yield _line({"error": {"message": DEAD, "type": "InternalServerError", "param": None, "code": 500}})
                    break
                count += len(choice["token_ids"])
                yield _line({**_head(server, body), "choices": [choice]})
            else:
                usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count}
                details = {
                    "total_tokens": len(body["prompt"]) + count,
                    "prompt_tokens_details": {"cached_tokens": 0},
                }
                yield _line({**_head(server, body), "choices": [], "usage": {**usage, **details}})
        yield "data: [DONE]\n\n"
    finally:
        server.active -= 1


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, separators=(',', ':'))}\n\n"


def _head(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    name = body["model"] if body["model"] in server.loras else server.name
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": name}


async def _choices(server: Server, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """One token an event, the reason with the last one. The end token is an event too."""
    held: Token | None = None
    async for event in _events(server, body):
        match event:
            case Token():
                if held is not None:
                    yield _choice(body, held, None)
                held = event
            case Ended(reason="length") if held is not None:
                yield _choice(body, held, "length")
            case Ended():
                if held is not None:
                    yield _choice(body, held, None)
                # The serial engine does not tell which token was the end; vLLM does.
                yield _choice(body, Token(0, -1.0), "stop")
            case EngineError():  # scores that are no numbers
                yield _choice(body, Token(0), "length")


def _choice(body: dict[str, Any], token: Token, reason: str | None) -> dict[str, Any]:
    wanted = body.get("logprob_token_ids")
    best = [pair for pair in token.top if wanted is None or pair[0] in wanted]
    named = {f"token_id:{one}": score for one, score in ((token.id, token.logprob), *best)}
    logprobs = {
        "text_offset": [0],
        "token_logprobs": [token.logprob],
        "tokens": [f"token_id:{token.id}"],
        "top_logprobs": [named],
    }
    choice = {"index": 0, "text": "", "logprobs": logprobs, "finish_reason": reason, "stop_reason": None}
    return {**choice, "prompt_token_ids": None, "token_ids": [token.id]}


async def _events(server: Server, body: dict[str, Any]) -> AsyncGenerator[TokenEvent, None]:
    """What the serial engine says; as the base where the adapter does not fit it."""
    path = server.loras.get(body["model"])
    adapter = None if path is None else adapter_in(Path(path))
    for tried in (adapter, None):
        async with aclosing(server.engine.generate(_request(server, body, tried))) as events:
            async for event in events:
                if isinstance(event, EngineError) and event.code == "adapter_rejected":
                    break
                yield event
            else:
                return


def _request(server: Server, body: dict[str, Any], adapter: AdapterFolder | None) -> TokenRequest:
    room = CONTEXT_TOKENS - len(body["prompt"])  # vLLM cuts what does not fit, and says nothing
    fields = {name: body[name] for name in Sampling.model_fields.keys() & body.keys() - {"logprobs"}}
    sampling = Sampling(**fields, max_new_tokens=min(body["max_tokens"], room))
    known = EVERY_TOKEN if body.get("logprob_token_ids") else body["logprobs"]
    sampling = sampling.model_copy(update={"logprobs": known})
    text = body.get("structured_outputs", {}).get("grammar")
    grammar = None if text is None else GrammarOfText(server.base, text)
    return TokenRequest(server.base, adapter, body["prompt"], frozenset(), sampling, grammar)


@dataclass(frozen=True)
class GrammarOfText:
    """A grammar that came as text."""

    base: ModelFolder
    text: str

    def begin(self) -> JsonWalk:
        language = load_language(self.base.folder)
        info = xgrammar.TokenizerInfo.from_huggingface(
            language.renderer.tokenizer, vocab_size=language.vocabulary, stop_token_ids=sorted(language.eos_ids)
        )
        compiled = xgrammar.GrammarCompiler(info).compile_grammar(self.text)
        return JsonWalk(xgrammar.GrammarMatcher(compiled), language.vocabulary)


def main() -> None:
    """Serve a base with the command line and the variables of vLLM."""
    options = _options()
    base = ModelFolder(options.base.name, options.base)
    server = Server(base, an_answering_engine(), key=os.environ["VLLM_API_KEY"])
    server.is_loading_allowed = os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1" and options.enable_lora
    uvicorn.run(create_vllm(server), host=options.host, port=options.port, log_level="critical")
    server.engine.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("base", type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("--max-loras", "--max-cpu-loras", "--max-lora-rank"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--enable-lora", "--enable-prompt-tokens-details"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args()
