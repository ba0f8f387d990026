"""Pictures of the pages for the documents, of a real training on a service of its own: `make screenshots`.

usage: python -m bench.screenshots FOLDER

It trains the demo's model on the Fibonacci example, twice with other learning rates, and asks base and adapter. Takes
about ten minutes on two cores.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize
from rich.console import Console

from app.cli.demo import EXAMPLE, QUESTION, find_model
from tests.e2e.stack import Stack, running
from tests.support.browsers import a_chromium

SIZE: ViewportSize = {"width": 1100, "height": 760}
WAIT_MS = 600_000
RATES = (1e-3, 3e-4)
STEPS = 40
SCHEMES = ("light", "dark")
# Until curves and streams have drawn what they got.
DRAWING_MS = 1500


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    base = find_model(None, Console(stderr=True))
    with tempfile.TemporaryDirectory(prefix="tunesmith-pictures-") as home, a_chromium() as browser:
        models = {"TUNESMITH_MODELS_DIR": str(base.folder)}
        with running(Path(home) / "home", models) as stack:
            take_all(stack, browser, folder, base.name)


def take_all(stack: Stack, browser: Browser, folder: Path, model: str) -> None:
    first, second = (submit(stack, model, rate) for rate in RATES)
    stack.wait_for_step(first, STEPS // 2)
    take(stack, browser, folder, "jobs", "/ui/jobs")
    take(stack, browser, folder, "job", f"/ui/jobs/{first}")
    stack.wait(first, "succeeded", seconds=900)
    stack.wait(second, "succeeded", seconds=900)
    adapter = stack.job(first)["adapter_id"]
    take(stack, browser, folder, "learned", f"/ui/jobs/{first}/data")
    take(stack, browser, folder, "compare", f"/ui/compare?job={first}&job={second}")
    take(stack, browser, folder, "submit", f"/ui/submit?job={first}")
    take(stack, browser, folder, "playground", f"/ui/playground?model={model}&model={adapter}", ask)


def submit(stack: Stack, model: str, rate: float) -> str:
    spec: dict[str, Any] = json.loads((EXAMPLE / "job.json").read_text())
    spec["model"] |= {"model_name": model, "load_in_4bit": False}
    with (EXAMPLE / "fibonacci_train.jsonl").open("rb") as rows:
        spec["dataset"]["source"] = {"file": stack.api.post("/files", files={"file": rows}).json()["id"]}
    spec["training"] |= {"max_steps": STEPS, "learning_rate": rate}
    answer = stack.api.post("/jobs", json={**spec, "name": f"fibonacci-{rate:g}"})
    job_id: str = answer.json()["id"]
    return job_id


def ask(page: Page) -> None:
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens").fill("32")
    page.get_by_label("Colour tokens").check()
    page.get_by_label("Your question").fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Copy as curl").nth(1).wait_for(timeout=WAIT_MS)


def take(stack: Stack, browser: Browser, folder: Path, name: str, path: str, act: Any = None) -> None:
    """Open a page in both colour schemes, do something there, and store what a screen shows."""
    for scheme in SCHEMES:
        context = browser.new_context(base_url=str(stack.api.base_url), viewport=SIZE)
        page = context.new_page()
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.goto(path)
        if act is not None:
            act(page)
        page.wait_for_timeout(DRAWING_MS)
        page.screenshot(path=folder / f"{name}-{scheme}.png")
        context.close()


if __name__ == "__main__":
    main()
