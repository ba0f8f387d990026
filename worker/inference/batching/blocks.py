"""The blocks of the cache: which sequence has them, and which hold a prefix that another request can reuse.

A full block is identified by a digest of everything before it, of its tokens, and of the adapter version that computed
it, so another adapter never finds it. A block without users keeps its content until it is needed.
"""

import array
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b


@dataclass
class Holding:
    """The blocks of one sequence, in order. The first `shared_tokens` tokens were computed by an earlier sequence."""

    blocks: list[int]
    shared_tokens: int
    digest: bytes
    published: int  # the number of blocks that others can find already


class BlockPool:
    """Counts the users of every block. Block 0 is never given away. Blocks that were never used are given away last."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.total = blocks - 1
        self.used = 0  # the first blocks: they were used since the beginning or `forget`
        self._free: list[int] = []  # used blocks without content
        self._idle: OrderedDict[int, bytes] = OrderedDict()  # no user, but content; least recently used first
        self._uses: dict[int, int] = {}
        self._known: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        return self.total - self.used + len(self._free) + len(self._idle)

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def take(self, owner: str, prompt: list[int], tokens: int) -> Holding | None:
        """Blocks for `tokens` tokens, which may share a prefix of the prompt. Returns None if too few blocks are free.

        At least one token of the prompt is left to compute.
        """
        digest, shared = self._find(owner, prompt)
        fresh = self.blocks_for(tokens) - len(shared)
        if fresh > self.free - sum(block in self._idle for block in shared):
            return None
        for block in shared:
            self._idle.pop(block, None)
            self._uses[block] = self._uses.get(block, 0) + 1
        blocks = shared + [self._fresh() for _ in range(fresh)]
        return Holding(blocks, len(shared) * self.block_tokens, digest, len(shared))

    def publish(self, holding: Holding, tokens: list[int], computed: int) -> None:
        """Let other sequences find the blocks that the first `computed` of these tokens fill."""
        size = self.block_tokens
        while (holding.published + 1) * size <= computed:
            number = holding.published
            holding.digest = _digest(holding.digest, tokens[number * size : (number + 1) * size])
            holding.published += 1
            block = holding.blocks[number]
            if holding.digest not in self._known and block not in self._digests:
                self._known[holding.digest] = block
                self._digests[block] = holding.digest

    def give_back(self, holding: Holding) -> None:
        """Return blocks. The last blocks of a sequence are forgotten first, because a prefix is reused more often."""
        for block in reversed(holding.blocks):
            self._uses[block] -= 1
            if self._uses[block] == 0:
                del self._uses[block]
                if block in self._digests:
                    self._idle[block] = self._digests[block]
                else:
                    self._free.append(block)
        holding.blocks = []

    def forget(self) -> None:
        """Forget all content: nothing is found again. No sequence may hold a block."""
        assert not self._uses
        self.used = 0
        for kept in (self._free, self._idle, self._known, self._digests):
            kept.clear()

    def _find(self, owner: str, prompt: list[int]) -> tuple[bytes, list[int]]:
        digest, found = blake2b(owner.encode(), digest_size=16).digest(), []
        for first in range(0, len(prompt) - self.block_tokens, self.block_tokens):
            following = _digest(digest, prompt[first : first + self.block_tokens])
            if following not in self._known:
                break
            digest = following
            found.append(self._known[following])
        return digest, found

    def _fresh(self) -> int:
        if self._free:
            block = self._free.pop()
        elif self.used < self.total:
            self.used += 1
            block = self.used
        else:
            block, digest = self._idle.popitem(last=False)
            del self._known[digest], self._digests[block]
        self._uses[block] = 1
        return block


def _digest(before: bytes, tokens: list[int]) -> bytes:
    return blake2b(array.array("q", tokens).tobytes(), key=before, digest_size=16).digest()
