"""The commands that ask: `generate` for one answer, `run` for a chat."""

import sys
from collections.abc import Generator
from typing import Annotated, Any

import typer

from app.cli.arguments import adapter_names, answering_names, completing, model_names
from app.cli.client import Client
from app.cli.errors import ApiError, BadInput, ServiceAbsent, error_lines
from app.cli.input import Url, connect
from app.cli.names import find_adapter
from app.cli.text import visible

System = Annotated[str | None, typer.Option(help="a system message before the prompt")]
Temperature = Annotated[float | None, typer.Option(help="0: greedy")]
TopP = Annotated[float | None, typer.Option(help="the most likely tokens that together have this probability")]
MinP = Annotated[float | None, typer.Option(help="tokens with at least this part of the likeliest one's probability")]
Seed = Annotated[int | None, typer.Option(help="the same seed gives the same answer")]
MaxNewTokens = Annotated[int | None, typer.Option(help="the longest answer")]
Order = dict[str, Any]
Message = dict[str, str]
HELP = "Ctrl-D or /bye leaves, /clear forgets what was said, Ctrl-C ends an answer"


def generate(
    prompt: Annotated[str, typer.Argument(help="the prompt; - reads it from stdin")],
    adapter: Annotated[
        str | None,
        typer.Option(
            help="a trained adapter, or a job, which means its adapter or its newest checkpoint",
            autocompletion=completing(adapter_names),
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="a base model to ask instead", autocompletion=completing(model_names))
    ] = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    url: Url = None,
) -> None:
    """Ask an adapter or a base model. The answer is printed while it is generated.

    \b
    Examples:
      tunesmith generate --adapter fib "What is the Fibonacci number after 89?"
      tunesmith generate --model smollm2-135m-instruct - < question.txt
    """
    if (adapter is None) == (model is None):
        raise BadInput("give exactly one of --adapter and --model")
    messages = _system_message(system)
    messages.append({"role": "user", "content": sys.stdin.read() if prompt == "-" else prompt})
    options = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "seed": seed}
    with connect(url) as client:
        target = {"model": model} if adapter is None else {"adapter": find_adapter(client, adapter)}
        order = {**target, **options, "max_new_tokens": max_new_tokens, "messages": messages}
        checkpoint = _print_answer(client.generate(_given(order)))
    if checkpoint is not None:
        typer.echo(f"answered by {checkpoint}: a checkpoint, which was not verified", err=True)


def run(
    name: Annotated[
        str,
        typer.Argument(help="an adapter, a job, or a base model", autocompletion=completing(answering_names)),
    ],
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    url: Url = None,
) -> None:
    """Chat with an adapter or a base model, which is told all that was said before.

    In the chat Ctrl-D or /bye leaves, /clear forgets what was said, and Ctrl-C ends an answer.

    \b
    Examples:
      tunesmith run fib
      tunesmith run smollm2-135m-instruct --temperature 0
      echo "What is the Fibonacci number after 89?" | tunesmith run fib
    """
    options = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "seed": seed}
    with connect(url) as client:
        target = find_answerer(client, name)
        order = _given({**target, **options, "max_new_tokens": max_new_tokens})
        if not sys.stdin.isatty():
            messages = [*_system_message(system), {"role": "user", "content": sys.stdin.read()}]
            _print_answer(client.generate({**order, "messages": messages}))
            return
        chat(client, order, _system_message(system))


def find_answerer(client: Client, name: str) -> Order:
    """The target of a question: a base model of the models folder or of a hub, or else an adapter or a job."""
    if "/" in name or name in {model["id"] for model in client.get("/models")["data"]}:
        return {"model": name}
    return {"adapter": find_adapter(client, name)}


def chat(client: Client, order: Order, beginning: list[Message]) -> None:
    """Ask for a line and answer it, until Ctrl-D. What was said is sent with each question."""
    import readline  # noqa: F401  input() then has a history, and lines can be edited

    typer.echo(f"{next(iter(order.values()))}: {HELP}", err=True)
    messages = list(beginning)
    while (question := _next_question()) is not None:
        if question == "/clear":
            messages = list(beginning)
        elif question.startswith("/"):
            typer.echo(f"there is no {visible(question)}: {HELP}", err=True)
        elif question:
            asked = [*messages, {"role": "user", "content": question}]
            if (answer := _answer(client, {**order, "messages": asked})) is not None:
                messages = [*asked, {"role": "assistant", "content": answer}]


def _next_question() -> str | None:
    """The next line without blanks; empty after Ctrl-C, None at the end."""
    try:
        line = input(">>> ").strip()
    except KeyboardInterrupt:
        typer.echo()
        return ""
    except EOFError:
        typer.echo()
        return None
    return None if line == "/bye" else line


def _answer(client: Client, order: Order) -> str | None:
    """Print an answer, and return it, also one that Ctrl-C has cut. None if there was none, and the chat goes on."""
    pieces: list[str] = []
    try:
        for piece in client.generate(order):
            pieces.append(piece)
            typer.echo(visible(piece), nl=False)
    except KeyboardInterrupt:
        pass
    except (ApiError, ServiceAbsent) as error:
        for line in error_lines(error):
            typer.echo(visible(line), err=True)
        return None
    typer.echo()
    return "".join(pieces) or None


def _system_message(system: str | None) -> list[Message]:
    return [] if system is None else [{"role": "system", "content": system}]


def _given(options: Order) -> Order:
    return {name: value for name, value in options.items() if value is not None}


def _print_answer(pieces: Generator[str, None, str | None]) -> str | None:
    """Print all pieces and end their line, also if Ctrl-C ends the answer. Returns what the generator returns."""
    has_begun = False
    try:
        while True:
            typer.echo(next(pieces), nl=False)
            has_begun = True
    except StopIteration as end:
        has_begun = True
        checkpoint: str | None = end.value
        return checkpoint
    finally:
        if has_begun:
            typer.echo()
