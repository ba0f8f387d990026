"""The lengths to which sequences of tokens are padded, so that a training has few shapes.

Kernels are chosen, and graphs recorded, anew for each new shape. With sixteen lengths between two powers of two at most
a sixteenth of a sequence is padding, and on average a thirtieth.
"""

from collections.abc import Iterator

LENGTHS_AN_OCTAVE = 16
SMALLEST_STEP = 64


def bucket(tokens: int) -> int:
    """Return the smallest length that holds so many tokens."""
    step = max(SMALLEST_STEP, (1 << (tokens - 1).bit_length()) // (2 * LENGTHS_AN_OCTAVE))
    return -(-tokens // step) * step


def buckets(fewest: int, most: int) -> Iterator[int]:
    """Yield the lengths from that of `fewest` tokens to that of `most`."""
    length = bucket(fewest)
    while length < bucket(most):
        yield length
        length = bucket(length + 1)
    yield bucket(most)
