"""The errors for a record that cannot be turned into tokens."""


class TemplateRefused(Exception):
    """A chat template raised an error, is not valid Jinja, or exceeded a limit. The message is for the user."""


class RowRefused(Exception):
    """A record that cannot be trained on, or a chat that cannot be answered. `field` is a path within it."""

    def __init__(self, code: str, *, found: str, expected: str, field: str | None = None) -> None:
        super().__init__(f"{field or 'record'}: found {found}, expected {expected}")
        self.code = code
        self.field = field
        self.found = found
        self.expected = expected
