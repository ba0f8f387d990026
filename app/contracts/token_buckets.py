"""The lengths to which sequences of tokens are padded, so that a training has few shapes.

Kernels are chosen, and graphs recorded, anew for each new shape. With eight lengths between two powers of two at most
an eighth of a sequence is padding, and on average a sixteenth. Twice as many lengths halve the padding, and it takes
twice as many steps until most of the shapes have been seen.
"""

from collections.abc import Iterator

LENGTHS_AN_OCTAVE = 8
SMALLEST_STEP = 64


def bucket(tokens: int, lengths_an_octave: int = LENGTHS_AN_OCTAVE) -> int:
    """Return the smallest length that holds so many tokens."""
    step = max(SMALLEST_STEP, (1 << (tokens - 1).bit_length()) // (2 * lengths_an_octave))
    return -(-tokens // step) * step


def buckets(fewest: int, most: int) -> Iterator[int]:
    """Yield the lengths from that of `fewest` tokens to that of `most`."""
    length = bucket(fewest)
    while length < bucket(most):
        yield length
        length = bucket(length + 1)
    yield bucket(most)
