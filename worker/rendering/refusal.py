"""Why one record cannot be turned into tokens: what a report or an answer needs to name it."""


class TemplateRefused(Exception):
    """A chat template that raised, is no valid Jinja, or went over a limit. The text is a reason for the user."""


class RowRefused(Exception):
    """A record that cannot be learned from, or a chat that cannot be asked. `field` is a path within it."""

    def __init__(self, code: str, *, found: str, expected: str, field: str | None = None) -> None:
        super().__init__(f"{field or 'record'}: found {found}, expected {expected}")
        self.code = code
        self.field = field
        self.found = found
        self.expected = expected
