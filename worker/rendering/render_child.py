"""`python -m worker.rendering.render_child`: compiles and renders templates for `worker.rendering.chat_template`."""

from typing import Any

from worker.confinement.limited_child import serve
from worker.rendering.refusal import TemplateRefused
from worker.rendering.sandbox import SandboxedTemplate


class Compiled:
    """The templates that this process compiled, by their keys."""

    def __init__(self) -> None:
        self._templates: dict[str, SandboxedTemplate] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Compile a `source`, or render with `variables`."""
        try:
            if "source" in request:
                return self._compile(request["key"], request["source"])
            return {"text": self._templates[request["key"]].render(request["variables"])}
        except TemplateRefused as refused:
            return {"refused": str(refused)}

    def _compile(self, key: str, source: str) -> dict[str, Any]:
        template = self._templates[key] = SandboxedTemplate(source)
        return {"uses_date": template.uses_date, "variables": sorted(template.variables)}


if __name__ == "__main__":
    serve(Compiled().answer)
