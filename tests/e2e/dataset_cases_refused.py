"""Files and jobs that are refused: at the upload, when the job is posted, or by its check. All faults in one answer."""

from tests.e2e.dataset_cases import FailedCheck, Refused, a_bomb, lines, pretty, said, shared
from tests.e2e.dataset_cases_models import BARE, GEMMA

GOOD = said("user: a", "assistant: b")
ODD = (7, False, {"k": 1})
ASSISTANT_FIRST = lines(
    shared("human: hm", "gpt: yes"), shared("gpt: Good evening.", "human: A table?", "gpt: Gladly.")
)
NAME = "model.model_name"
LLAMA_3_MARKERS = {
    "instruction_part": "<|start_header_id|>user<|end_header_id|>\n\n",
    "response_part": "<|start_header_id|>assistant<|end_header_id|>\n\n",
}

UPLOADS = (
    Refused(
        "DS-27",
        lines(GOOD, GOOD) + b'{"messages": [{"role": "user", "content": "cut o\n' + lines(GOOD),
        code="invalid_json",
        places=[(3, 3, None)],
        says=["line 3", "column", "a string is not closed"],
    ),
    Refused("SE-07", a_bomb(), "rows.jsonl.gz", code="unpacked_size", places=[(None, None, "file")], says=["size"]),
)

POSTS = (
    Refused(
        "DS-05",
        pretty([shared("human: a", "gpt: b"), {"conversations": []}, {"conversations": None}]),
        code="empty_conversation",
        places=[(2, 14, "conversations"), (3, 17, "conversations")],
        says=["empty"],
    ),
    Refused(
        "DS-16",
        lines(
            GOOD, *({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": x}]} for x in ODD)
        ),
        code="wrong_type",
        places=[(number, number, "messages[1].content") for number in (2, 3, 4)],
        says=["number", "boolean", "object"],
    ),
)

CHECKS = (
    FailedCheck(
        "DS-06-gemma",
        ASSISTANT_FIRST,
        model=GEMMA,
        code="template_refused",
        places=[(2, 2, "messages")],
        says=["roles must alternate", "assistant, user, assistant", "1 of 2 records"],
    ),
    FailedCheck(
        "CT-01",
        lines(GOOD),
        model=BARE,
        code="no_chat_template",
        param="model.chat_template",
        says=[BARE, "no chat template", "chatml"],
    ),
    FailedCheck(
        "TK-01",
        lines(GOOD, GOOD),
        dataset=LLAMA_3_MARKERS,
        code="nothing_to_learn",
        param="dataset.response_part",
        places=[(number, number, "dataset.response_part") for number in (1, 2)],
        says=["0 of 2 records", "<|start_header_id|>assistant", "chat template"],
    ),
    *(
        FailedCheck(
            f"IN-05-{kind}", lines(GOOD), model=f"org/{kind}-model", code=code, param=NAME, says=[f"org/{kind}-model"]
        )
        for kind, code in (("gated", "gated"), ("private", "private_or_unknown"), ("no", "unknown_repository"))
    ),
)
SECRETS = {
    "hf_token": "hf_CANARY11111111111111111111111111",
    "env": {"WANDB_API_KEY": "CANARY2222222222222222222222222222222222"},
    "model": {"token": "hf_CANARY33333333333333333333333333"},
    "training": {"hub_token": "hf_CANARY4444444444444444444444444"},
}
