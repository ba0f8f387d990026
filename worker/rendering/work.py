"""The CPU time that a chat template may use for one chat, or for all chats of a check together."""

# Seconds that are available in addition to those of each chat.
SPARE = 4.0
# Seconds that each chat adds to the budget; public templates use less than a tenth of them. If a template is rendered
# once per answer, its time grows with the square of the number of messages, and with messages times characters.
EACH_CHAT, EACH_PAIR, EACH_CHARACTER = 10e-3, 0.2e-3, 0.4e-6
# The most seconds that one chat adds.
MOST_FOR_A_CHAT = 5.0


class Work:
    """A budget of CPU seconds that several renders share."""

    def __init__(self, spare: float = SPARE) -> None:
        self.left = self._spare = spare

    def allow(self, messages: int, characters: int) -> None:
        """Add the seconds of one more chat, from its number of messages and their length in characters."""
        paid = EACH_CHAT + messages * (messages * EACH_PAIR + characters * EACH_CHARACTER)
        self.left += min(MOST_FOR_A_CHAT, paid)

    def take(self, seconds: float) -> None:
        self.left -= seconds

    @property
    def is_done(self) -> bool:
        """Whether the budget is used up."""
        return self.left <= 0

    @property
    def overdrawn(self) -> float:
        """The seconds that were taken from the free part."""
        return max(0.0, self._spare - self.left)
