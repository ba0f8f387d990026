"""The tests of the project: folders below each tier mirror the packages that they test."""

from pathlib import Path

# The repository.
ROOT = Path(__file__).parents[1]
