"""How much work a chat template may make for one chat, or for all chats of a check together. No clock is read, so that
every machine refuses the same templates."""

# Units that are free, and take about half a second.
SPARE = 5_000_000
# Units that chats pay for themselves: public templates take less than a fifth of them. A template that is rendered once
# for every answer takes work by the square of the number of messages, and for each message by all characters.
EACH_CHAT, EACH_PAIR, EACH_CHARACTER = 50_000, 1_000, 2


class Work:
    """Units of work (`sandbox_budget.Budget`) that several renders share."""

    def __init__(self, spare: int = SPARE) -> None:
        self.left = self._spare = spare

    def allow(self, messages: int, characters: int) -> None:
        """Make room for one more chat, by its number of messages and the length of its texts."""
        self.left += EACH_CHAT + messages * (messages * EACH_PAIR + characters * EACH_CHARACTER)

    def take(self, units: int) -> None:
        self.left -= units

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0

    @property
    def overdrawn(self) -> int:
        """What was taken of the free units."""
        return max(0, self._spare - self.left)
