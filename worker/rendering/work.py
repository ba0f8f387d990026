"""How long a chat template may compute for one chat, or for all chats of a check together."""

# Seconds that are free.
SPARE = 4.0
# Seconds that chats pay for themselves: public templates take less than a tenth of them. A template that is rendered
# once for every answer takes time by the square of the number of messages, and for each message by all characters.
EACH_CHAT, EACH_PAIR, EACH_CHARACTER = 10e-3, 0.2e-3, 0.4e-6
# What one chat pays for at most.
MOST_FOR_A_CHAT = 5.0


class Work:
    """Seconds of computing that several renders share."""

    def __init__(self, spare: float = SPARE) -> None:
        self.left = self._spare = spare

    def allow(self, messages: int, characters: int) -> None:
        """Make room for one more chat, by its number of messages and the length of its texts."""
        paid = EACH_CHAT + messages * (messages * EACH_PAIR + characters * EACH_CHARACTER)
        self.left += min(MOST_FOR_A_CHAT, paid)

    def take(self, seconds: float) -> None:
        self.left -= seconds

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0

    @property
    def overdrawn(self) -> float:
        """What was taken of the free seconds."""
        return max(0.0, self._spare - self.left)
