"""The token audit against `datasets.load_dataset` and TRL's own preparation, on the same file. Prints one line of JSON.

usage: audit.py MODEL_DIR WORK_DIR [--rows N] [--only ours|trl]

MODEL_DIR holds a model with its tokenizer and chat template. TRL tokenises with as many processes as there are cores;
its time begins after its imports, ours with the start of the checker's process. Memory is the largest sum of the
proportional set sizes of all processes of a run, so that pages they share are counted once.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

from app.contracts.events import ATTEMPT_EVENT, DataPrepared, SourcesChecked
from app.contracts.order import BaseRef, CheckOrder, SourceFile
from app.contracts.spec import JobSpec

MAX_SEQ_LENGTH = 2048
WORDS = [f"{start}{end}" for start in ("al", "be", "co", "du", "er") for end in ("ran", "tic", "mo", "ling")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=("ours", "trl"))
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    source = write_chats(work / f"chats-{options.rows}.jsonl", options.rows)
    report = {"rows": options.rows, "source_bytes": source.stat().st_size, "cores": len(os.sched_getaffinity(0))}
    if options.only != "trl":
        report["ours"] = ours(options.model.resolve(), work, source)
    if options.only != "ours":
        report["trl"] = theirs(options.model.resolve(), work, source)
    if options.only is None:
        report["times_as_fast"] = round(report["trl"]["seconds"] / report["ours"]["seconds"], 2)
        report["share_of_memory"] = round(report["ours"]["peak_mib"] / report["trl"]["peak_mib"], 2)
    print(json.dumps(report))


def write_chats(path: Path, rows: int) -> Path:
    """Chats of two to six turns and about 200 words."""
    chance = random.Random(0)
    with path.open("w") as file:
        for number in range(rows):
            turns = []
            for _ in range(chance.randint(1, 3)):
                turns.append({"role": "user", "content": f"{number} " + text(chance, 30)})
                turns.append({"role": "assistant", "content": text(chance, 70)})
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(words // 2, 3 * words // 2)))


def ours(model: Path, work: Path, source: Path) -> dict[str, float]:
    spec = {"model": {"model_name": "local", "max_seq_length": MAX_SEQ_LENGTH}, "dataset": {"source": {"path": "x"}}}
    events = work / "events.jsonl"
    events.unlink(missing_ok=True)
    order = CheckOrder(
        job_id="job-bench",
        epoch=1,
        spec=JobSpec.model_validate(spec),
        base=BaseRef(source=str(model), is_local=True),
        train_file=SourceFile(path=source, filename=source.name),
        eval_file=None,
        max_unpacked_bytes=2**40,
        max_hub_bytes=2**40,
        data_dir=work / "data",
        cache_dir=work / f"cache-{time.time_ns()}",
        max_cache_bytes=2**40,
        events=events,
    )
    (work / "check.json").write_text(order.model_dump_json())
    seconds, peak = measured([sys.executable, "-m", "worker.checking", str(work / "check.json")])
    told = [ATTEMPT_EVENT.validate_json(line) for line in events.read_text().splitlines()]
    assert isinstance(told[-1], SourcesChecked), told[-1]
    tokens = sum(event.report["train"]["tokens"] for event in told if isinstance(event, DataPrepared))
    return figures(seconds, peak, source, tokens)


PREPARE = """
import sys, time, os
from datasets import load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer
model_dir, source, work, length = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(model_dir)
shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
config = LlamaConfig(vocab_size=len(tokenizer), **shape)
model = LlamaForCausalLM(config)
started = time.monotonic()
rows = load_dataset("json", data_files=source, split="train", cache_dir=work + "/datasets-" + str(time.time_ns()))
arguments = SFTConfig(output_dir=work + "/out", max_length=length, dataset_num_proc=len(os.sched_getaffinity(0)),
                      use_cpu=True, bf16=False, report_to="none")
trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
print(time.monotonic() - started, sum(map(len, trainer.train_dataset["input_ids"])))
"""


def theirs(model: Path, work: Path, source: Path) -> dict[str, float]:
    output = work / "trl.txt"
    argv = [sys.executable, "-W", "ignore", "-c", PREPARE, str(model), str(source), str(work), str(MAX_SEQ_LENGTH)]
    with output.open("w") as file:
        _, peak = measured(argv, stdout=file)
    seconds, tokens = output.read_text().split()[-2:]
    return figures(float(seconds), peak, source, int(tokens))


def figures(seconds: float, peak: float, source: Path, tokens: int) -> dict[str, float]:
    rows = int(source.stem.rpartition("-")[2])
    return {
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "mib_per_second": round(source.stat().st_size / 2**20 / seconds, 1),
        "tokens_per_second": round(tokens / seconds),
        "tokens": tokens,
        "peak_mib": round(peak),
    }


def measured(argv: list[str], **options: object) -> tuple[float, float]:
    """Seconds and MiB of a command and all its children. It must end well."""
    started = time.monotonic()
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
    process = subprocess.Popen(argv, env=env, start_new_session=True, **options)  # type: ignore[call-overload]
    peak, is_over = [0.0], threading.Event()
    sampler = threading.Thread(target=sample, args=(process.pid, peak, is_over))
    sampler.start()
    code = process.wait()
    seconds = time.monotonic() - started
    is_over.set()
    sampler.join()
    assert code == 0, f"{argv[:4]} ended with {code}"
    return seconds, peak[0]


def sample(session: int, peak: list[float], is_over: threading.Event) -> None:
    while not is_over.wait(0.2):
        peak[0] = max(peak[0], sum(map(proportional_mib, processes_of(session))))


def processes_of(session: int) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append(path)
        except (OSError, ValueError):
            continue
    return found


def proportional_mib(process: Path) -> float:
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
