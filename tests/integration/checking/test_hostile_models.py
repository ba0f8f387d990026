"""Models that a stranger made to harm: the checker refuses each by its name, soon and with little memory, or reads it
without following what it names. All of them are made here, from a model that is good.
"""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import Failed, SourcesChecked
from app.contracts.model_card import INDEX, SINGLE
from app.contracts.order import BaseRef
from app.contracts.spec import JobSpec
from tests.support.hub import Hub, running
from tests.support.prepared_rows import a_check, failure_of, run, run_measured
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model
from worker.supervising.attempt import Report
from worker.supervising.verdict import decide

MOST_SECONDS, MOST_BYTES = 60, 2 * 2**30
CHAT = {"conversations": [{"from": "human", "value": "a" * 40 + "b"}, {"from": "gpt", "value": "b"}]}
Change = Callable[[Path], object]


def config(**values: Any) -> Change:
    return in_json("config.json", **values)


def in_json(name: str, **values: Any) -> Change:
    def change(base: Path) -> None:
        path = base / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))

    return change


def written(name: str, content: bytes) -> Change:
    return lambda base: (base / name).write_bytes(content)


def instead_of_weights(name: str, content: bytes = b"never opened") -> Change:
    def change(base: Path) -> None:
        (base / SINGLE).unlink()
        (base / name).write_bytes(content)

    return change


def both(*changes: Change) -> Change:
    return lambda base: [change(base) for change in changes]


def without(name: str) -> Change:
    def change(base: Path) -> None:
        (base / name).unlink()

    return change


def nested(name: str, depth: int = 100_000) -> Change:
    return written(name, b'{"model_type":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}")


def header(entries: dict[str, Any], length: int | None = None, data: bytes = b"") -> Change:
    raw = json.dumps(entries).encode()
    return written(SINGLE, struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def sparse(name: str, size: int, start: bytes = b"") -> Change:
    def change(base: Path) -> None:
        with (base / name).open("wb") as file:
            file.write(start)
            file.truncate(size)

    return change


def index(*parts: object) -> Change:
    weights = {f"model.layers.{number}.weight": part for number, part in enumerate(parts)}
    return instead_of_weights(INDEX, json.dumps({"weight_map": weights}).encode())


def tokenizer(**values: Any) -> Change:
    return in_json("tokenizer.json", **values)


def split_by(regex: str) -> Change:
    return tokenizer(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    )


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
CODE = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["evil.Mine", None]}}
ETC = {"base_model_name_or_path": "/etc", "peft_type": "LORA"}
HOSTILE: dict[str, tuple[Change, str]] = {
    "weights as pickles": (instead_of_weights("pytorch_model.bin"), "no_safetensors"),
    "weights as GGUF": (instead_of_weights("tiny-q8.gguf"), "no_safetensors"),
    "an adapter beside the model": (in_json("adapter_config.json", **ETC), "adapter_not_model"),
    "an adapter alone": (
        both(in_json("adapter_config.json", **ETC), without("config.json")), "adapter_not_model"
    ),
    "code for an unknown kind": (config(model_type="mine", auto_map={"AutoConfig": "x.Mine"}), "unknown_architecture"),
    "a kind that is code": (config(model_type="a;b"), "unknown_architecture"),
    "a part's kind that is code": (config(vision_config={"model_type": "a\nimport os"}), "unknown_architecture"),
    "no kind": (config(model_type=None), "unknown_architecture"),
    "a deep config": (nested("config.json"), "damaged_model"),
    "a deep generation config": (nested("generation_config.json"), "invalid_generation_config"),
    "a deep tokenizer config": (nested("tokenizer_config.json"), "no_tokenizer"),
    "a deep index": (instead_of_weights(INDEX, b'{"weight_map":' + b"[" * 100_000), "damaged_model"),
    "a config that is a list": (written("config.json", b"[1]"), "damaged_model"),
    "a vocabulary of 2^31": (config(vocab_size=2**31), "damaged_model"),
    "layers without end": (config(num_hidden_layers=10**9), "damaged_model"),
    "a tokenizer of a gigabyte": (sparse("tokenizer.json", 2**30), "damaged_model"),
    "a header of 100 MB": (sparse(SINGLE, 101 * 2**20, struct.pack("<Q", 100 * 2**20)), "damaged_weights"),
    "a header longer than the file": (header({"a": ENTRY}, length=2**62, data=bytes(8)), "damaged_weights"),
    "a tensor beyond the end": (header({"a": ENTRY}), "damaged_weights"),
    "a tensor that lies about its shape": (
        header({"a": {**ENTRY, "shape": [2**40]}}, data=bytes(8)), "damaged_weights"
    ),
    "tensors that overlap": (header({"a": ENTRY, "b": ENTRY}, data=bytes(8)), "damaged_weights"),
    "an index of another folder": (index("../x.safetensors"), "damaged_weights"),
    "an index of the system": (index("/etc/shadow"), "damaged_weights"),
    "an index of numbers": (index(1), "damaged_weights"),
    "a link out of the folder": (
        lambda base: (base / "added_tokens.json").symlink_to("/etc/passwd"), "damaged_model"
    ),
    "a regular expression that backtracks": (split_by(r"(a|aa)+$"), "tokenizer_broken"),
    "a tokenizer that runs code": (
        both(without("tokenizer.json"), in_json("tokenizer_config.json", **CODE)), "no_tokenizer"
    ),
}  # fmt: skip
HARMLESS: dict[str, Change] = {
    "another base": config(_name_or_path="/etc", base_model_name_or_path="/etc"),
    "code for a known kind": config(
        auto_map={"AutoConfig": "evil.Mine", "AutoModelForCausalLM": "other/repo--evil.Mine"}
    ),
    "pickles beside the weights": written("pytorch_model.bin", b"never opened"),
    "an index beside the weights": written(INDEX, b'{"weight_map": {"a": "../../x.safetensors"}}'),
    "a tokenizer of another model": in_json("tokenizer_config.json", name_or_path="/etc", tokenizer_file="/etc/passwd"),
}
EVIL = "import pathlib\npathlib.Path({path!r}).touch()\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def check(tiny: Path, folder: Path, change: Change) -> tuple[Failed | SourcesChecked, float, int]:
    """The verdict of a check, the seconds that it computed, and the bytes that it had at most."""
    base, source = shutil.copytree(tiny, folder / "tiny"), folder / "source.jsonl"
    (base / "evil.py").write_text(EVIL.format(path=str(folder / "code-was-run")))
    change(base)
    source.write_text(json.dumps(CHAT) + "\n")
    spec = JobSpec.model_validate(a_body(model={"model_name": "tiny", "max_seq_length": 128}))
    order = a_check(folder, spec, BaseRef(source=str(base), is_local=True), source)
    events, ended = run_measured(order)
    last = events[-1]
    if not isinstance(last, Failed | SourcesChecked):  # the kernel has ended it
        failure = decide(Report(exit_code=128 - ended.code), faults=1, max_attempts=3, is_done=False).failure
        assert failure is not None, events
        last = failure
    return last, ended.cpu_seconds, ended.memory_bytes


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_by_name(tiny: Path, tmp_path: Path, name: str) -> None:
    change, code = HOSTILE[name]

    last, seconds, memory = check(tiny, tmp_path, change)

    assert isinstance(last, Failed), last
    assert (last.code, last.blame.value, last.param) == (code, "user_error", "model.model_name"), last
    assert (seconds < MOST_SECONDS, memory < MOST_BYTES) == (True, True), (seconds, memory)
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_model_names_elsewhere_is_not_followed(tiny: Path, tmp_path: Path, name: str) -> None:
    last, seconds, memory = check(tiny, tmp_path, HARMLESS[name])

    assert isinstance(last, SourcesChecked), last
    assert (seconds < MOST_SECONDS, memory < MOST_BYTES) == (True, True), (seconds, memory)
    assert not (tmp_path / "code-was-run").exists()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running(Hub(tmp_path_factory.mktemp("hub"))) as served:
        yield served


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (["config.json", "model.safetensors", "adapter_config.json"], "adapter_not_model"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapter_not_model"),
        (["config.json", "pytorch_model.bin"], "no_safetensors"),
        (["tiny-q8.gguf"], "not_a_model"),
        (["README.md"], "not_a_model"),
    ],
)
def test_a_repository_is_refused_by_its_list_of_files(hub: Hub, tmp_path: Path, files: list[str], code: str) -> None:
    repo, source = f"org/{'-'.join(files)}".replace("_", "-"), tmp_path / "source.jsonl"
    hub.add("models", repo, dict.fromkeys(files, b"never opened"))
    source.write_text(json.dumps(CHAT) + "\n")
    spec = JobSpec.model_validate(a_body(model={"model_name": repo, "max_seq_length": 128}))
    order = a_check(tmp_path, spec, BaseRef(source=repo, is_local=False), source)

    failed = failure_of(run(order, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf")))

    assert (failed.code, failed.blame.value, failed.param) == (code, "user_error", "model.model_name")
    assert not [
        path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.read_bytes() == b"never opened"
    ]
