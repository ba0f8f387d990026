"""No call that loads what a stranger made may run code of his: the flag is written out, and it is False."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = [*Path("app").rglob("*.py"), *Path("worker").rglob("*.py")]
# Loaders that take the flag; those of PEFT and of generation configs read no code.
WITHOUT_FLAG = frozenset({"GenerationConfig", "PeftModel", "PeftConfig", "LoraConfig"})


def loads(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            yield node


@pytest.mark.parametrize("path", [path for path in SOURCES if "from_pretrained(" in path.read_text()], ids=str)
def test_every_load_says_that_no_code_is_run(path: Path) -> None:
    for call in loads(ast.parse(path.read_text())):
        assert isinstance(call.func, ast.Attribute)
        loader = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
        flags = [keyword.value for keyword in call.keywords if keyword.arg == "trust_remote_code"]
        is_refused = any(isinstance(flag, ast.Constant) and flag.value is False for flag in flags)
        is_by_arguments = any(keyword.arg is None for keyword in call.keywords) and loader == "FastLanguageModel"
        assert is_refused or is_by_arguments or loader in WITHOUT_FLAG, f"{path}:{call.lineno}"


def test_nobody_sets_the_flag() -> None:
    texts = {path: path.read_text().replace(" ", "").replace('"', "") for path in SOURCES}

    assert not [path for path, text in texts.items() if "trust_remote_code=True" in text or "code:True" in text]
