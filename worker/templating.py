"""`python -m worker.templating TOKENIZER TEMPLATE TARGET`: give a tokenizer one of Unsloth's named chat templates."""

import sys

from unsloth.chat_templates import get_chat_template  # isort: skip  # unsloth patches transformers: it comes first
from transformers import AutoTokenizer


def main(source: str, template: str, target: str) -> None:
    """Read the tokenizer in folder `source` and save it, with the template and its control tokens, to `target`."""
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    get_chat_template(tokenizer, chat_template=template).save_pretrained(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
