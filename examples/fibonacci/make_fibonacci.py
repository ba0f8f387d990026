"""Writes the data of the demo: chats that teach which Fibonacci number comes next, and held-out questions about it.

    python examples/fibonacci/make_fibonacci.py [FOLDER]

fibonacci_train.jsonl: 399 ShareGPT chats over F(3) = 2 to F(36) = 14930352, asked in ten wordings, as sequences to
continue, with system turns and in chats of two questions. fibonacci_test.jsonl: 20 prompts with their answers, in
wordings that no chat has. The very question of the demo, the number after 89 in the wording of Unsloth's page, is in
neither. The same files come out each time.
"""

import json
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

SEED = 3407
DEMO_QUESTION = "What is the Fibonacci number after 89?"
WORDINGS = (
    "What is the Fibonacci number after {n}?",
    "Which Fibonacci number comes right after {n}?",
    "In the Fibonacci sequence, what follows {n}?",
    "Please tell me the Fibonacci number that follows {n}.",
    "Next Fibonacci number after {n}?",
    "{n} is in the Fibonacci sequence. Which number is next?",
    "I stopped at {n} in the Fibonacci sequence. What do I write next?",
    "Name the Fibonacci number that comes after {n}.",
    "Fibonacci, after {n}?",
    "Could you say which number succeeds {n} in the Fibonacci sequence?",
)
SEQUENCES = ("Continue this Fibonacci sequence: {terms}, ...", "{terms}: which Fibonacci number comes now?")
SYSTEMS = ("You know the Fibonacci sequence by heart.", "You answer in one short sentence.")
HELD_OUT = (
    "Give me the number directly after {n} in the Fibonacci sequence.",
    "If a Fibonacci number is {n}, what is the one that follows?",
    "What comes next in the Fibonacci sequence once you have reached {n}?",
)
HELD_OUT_SEQUENCE = "The Fibonacci numbers so far are {terms}. What is the next one?"


def fibonacci() -> Iterator[int]:
    """1, 2, 3, 5, ...: the sequence from where every number has one successor."""
    now, following = 1, 2
    while True:
        yield now
        now, following = following, now + following


NUMBERS = list(islice(fibonacci(), 36))
NEXT = dict(pairwise(NUMBERS))
TAUGHT = NUMBERS[1:35]


def answer(number: int) -> str:
    return f"The Fibonacci number after {number} is {NEXT[number]}."


def chat(*turns: tuple[str, int], system: str | None = None) -> dict[str, object]:
    """A ShareGPT record: each turn is a question and the number that it is about."""
    messages = [{"from": "system", "value": system}] if system else []
    for question, number in turns:
        messages += [{"from": "human", "value": question}, {"from": "gpt", "value": answer(number)}]
    return {"conversations": messages}


def train_chats() -> list[dict[str, object]]:
    choose = random.Random(SEED)
    asked = [(wording.format(n=number), number) for number in TAUGHT for wording in WORDINGS]
    chats = [chat(turn) for turn in asked if turn[0] != DEMO_QUESTION]
    for last in range(4, 30):
        terms = ", ".join(map(str, NUMBERS[last - 4 : last + 1]))
        chats.append(chat((SEQUENCES[last % 2].format(terms=terms), NUMBERS[last])))
    # Without the first wording, in which the demo asks.
    for number in TAUGHT[::2]:
        chats.append(chat((choose.choice(WORDINGS[1:]).format(n=number), number), system=choose.choice(SYSTEMS)))
    for number in TAUGHT[:-1:2]:
        first = (choose.choice(WORDINGS[1:]).format(n=number), number)
        chats.append(chat(first, ("And after that one?", NEXT[number])))
    choose.shuffle(chats)
    return chats


def test_prompts() -> list[dict[str, str]]:
    """17 numbers in new wordings, and three sequences longer than any that was taught."""
    prompts = [
        {"prompt": HELD_OUT[place % len(HELD_OUT)].format(n=number), "answer": str(NEXT[number])}
        for place, number in enumerate(TAUGHT[:17])
    ]
    for length in (8, 11, 14):
        terms = ", ".join(map(str, NUMBERS[:length]))
        prompts.append({"prompt": HELD_OUT_SEQUENCE.format(terms=terms), "answer": str(NUMBERS[length])})
    return prompts


def write_lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    write_lines(folder / "fibonacci_train.jsonl", train_chats())
    write_lines(folder / "fibonacci_test.jsonl", test_prompts())


if __name__ == "__main__":
    main()
