"""One training attempt on a GPU, started as the worker starts it, and its adapter read back. Prints one line of JSON.

usage: train_gpu.py MODEL_DIR WORK_DIR [--steps N] [--rows N] [--tokens N]

MODEL_DIR holds a model with its tokenizer and chat template (random weights will do). 4-bit loading, adamw_8bit and
Unsloth's gradient checkpointing, as the page has them. Figures: median over the second half of the steps.
"""

import argparse
import json
import random
import statistics
import subprocess
import time
from pathlib import Path

from app.contracts.events import ATTEMPT_EVENT, AdapterSaved, AttemptEvent, Failed, StepLogged
from app.contracts.order import BaseRef, CheckOrder, SourceFile, TrainingOrder
from app.contracts.plan import plan_of
from app.contracts.rows import TOKENIZER, TRAIN_ROWS
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from app.processes.guardian import spawn
from worker.child import CHECKER, TRAINER, command, environment


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=550)
    parser.add_argument("--micro", type=int, default=2, help="rows of a micro-batch; 8 rows make an optimizer step")
    options = parser.parse_args()
    order = write_order(options)
    started = time.monotonic()
    with spawn(
        command(TRAINER, options.work / "order.json"),
        env=environment(Process.TRAIN, options.work / "cache"),
        cwd=options.work,
        output=options.work / "output.log",
    ) as child:
        exit_code = child.wait()
    seconds = time.monotonic() - started
    events = [ATTEMPT_EVENT.validate_json(line) for line in order.events.read_text().splitlines()]
    told = {"exit_code": exit_code, "seconds": round(seconds, 1)}
    print(json.dumps({**told, **figures(events), **reloaded(order, events)}))


def write_order(options: argparse.Namespace) -> TrainingOrder:
    """Chats of about `--tokens` tokens, and the page's arguments."""
    work: Path = options.work.resolve()
    (work / "work").mkdir(parents=True, exist_ok=True)
    words, chance = [f"word{n}" for n in range(500)], random.Random(0)
    with (work / "train.jsonl").open("w") as file:
        for _ in range(options.rows):
            text = " ".join(chance.choices(words, k=options.tokens // 4))
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
            file.write(json.dumps({"messages": turns}) + "\n")
    spec = JobSpec.model_validate(
        {
            "model": {"model_name": "local", "max_seq_length": 2048, "load_in_4bit": True},
            "dataset": {"source": {"path": "train.jsonl"}},
            "training": {
                "max_steps": options.steps,
                "optim": "adamw_8bit",
                "per_device_train_batch_size": options.micro,
                "gradient_accumulation_steps": 8 // options.micro,
            },
        }
    )
    base = BaseRef(source=str(options.model.resolve()), is_local=True)
    check(work, spec, base)
    order = TrainingOrder(
        job_id="job-bench",
        epoch=1,
        spec=plan_of(spec),
        base=base,
        train_rows=work / "data" / TRAIN_ROWS,
        eval_rows=None,
        tokenizer=work / "data" / TOKENIZER,
        events=work / "events.jsonl",
        work_dir=work / "work",
        adapter_dir=work / "adapter",
        checkpoints=work / "checkpoints",
        pulse=work / "pulse",
    )
    (work / "order.json").write_text(order.model_dump_json())
    return order


def check(work: Path, spec: JobSpec, base: BaseRef) -> None:
    """Make the rows that the trainer reads."""
    order = CheckOrder(
        job_id="job-bench",
        epoch=1,
        spec=plan_of(spec),
        base=base,
        train_file=SourceFile(path=work / "train.jsonl", filename="train.jsonl"),
        eval_file=None,
        max_unpacked_bytes=2**30,
        max_hub_bytes=2**30,
        data_dir=work / "data",
        cache_dir=work / "cache",
        max_cache_bytes=2**30,
        events=work / "check.jsonl",
    )
    (work / "check.json").write_text(order.model_dump_json())
    env = environment(Process.TRAIN, work / "cache")
    subprocess.run(command(CHECKER, work / "check.json"), env=env, check=True)


def figures(events: list[AttemptEvent]) -> dict[str, object]:
    """What the events tell of speed and memory."""
    steps = [event for event in events if isinstance(event, StepLogged)]
    if not steps:
        return {"failed": [event.model_dump(mode="json") for event in events if isinstance(event, Failed)]}
    notices = [event.model_dump(mode="json") for event in events if event.kind in ("notice", "resolved")]
    late = steps[len(steps) // 2 :]
    return {
        "steps": len(steps),
        "loss_first": steps[0].loss,
        "loss_last": steps[-1].loss,
        "tokens_per_second": statistics.median(step.tokens_per_second for step in late),
        "gpu_memory_gib": round((steps[-1].gpu_memory_bytes or 0) / 2**30, 2),
        "reports": notices,
    }


def reloaded(order: TrainingOrder, events: list[AttemptEvent]) -> dict[str, object]:
    """Load the adapter by PEFT in this process, which Unsloth has not patched: does it change the base's logits?"""
    saved = next((event for event in events if isinstance(event, AdapterSaved)), None)
    if saved is None:
        return {"reloaded": False}
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved.path)
    base = AutoModelForCausalLM.from_pretrained(order.base.source, dtype=torch.bfloat16, device_map={"": 0})
    model = PeftModel.from_pretrained(base, saved.path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "word1 word2"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(base.device)
    with torch.no_grad():
        tuned = model(**prompt).logits[0, -1].float()
        with model.disable_adapter():
            plain = model(**prompt).logits[0, -1].float()
    difference = (tuned.log_softmax(-1) - plain.log_softmax(-1)).abs().max().item()
    return {"reloaded": True, "largest_logprob_change": round(difference, 4), "adapter_bytes": saved.bytes}


if __name__ == "__main__":
    main()
