"""Limits of projects and keys. None: no limit."""

from typing import Any, TypeVar

from pydantic import Field

from app.contracts.base import Contract, Whole
from app.contracts.stored import read
from app.known_hosts import split_list

# What a column of either database holds, and what JSON numbers of every client are exact for.
MOST = 2**53
Count = Whole | None


class KeyLimits(Contract):
    """How much may be used with one key."""

    requests_per_minute: Count = Field(None, ge=1, le=MOST, description="requests of any kind")
    waiting_jobs: Count = Field(None, ge=0, le=MOST, description="jobs that are validating or queued")
    streams: Count = Field(None, ge=0, le=MOST, description="open streams of events")
    tokens_per_day: Count = Field(None, ge=0, le=MOST, description="of prompts and answers, in a UTC day")


class Limits(KeyLimits):
    """How much a project may use, with all its keys."""

    running_jobs: Count = Field(None, ge=0, le=MOST, description="trainings at once; further ones wait")
    gpu_minutes_per_month: Count = Field(None, ge=0, le=MOST, description="of trainings, times GPUs, in a UTC month")
    file_bytes: Count = Field(None, ge=0, le=MOST, description="of uploaded files")
    artifact_bytes: Count = Field(None, ge=0, le=MOST, description="of artifacts; beyond it no job is taken")


NO_KEY_LIMITS, NO_LIMITS = KeyLimits(), Limits()
Kind = TypeVar("Kind", bound=KeyLimits)


def read_limits(kind: type[Kind], stored: dict[str, Any]) -> Kind:
    """Return the limits of a row. Those that only another version knows are left out."""
    return read(kind, stored) or kind()


def parse_limits(text: str) -> Limits:
    """Read `name=number` pairs that are separated by commas. Raises ValueError."""
    pairs = [part.partition("=") for part in split_list(text)]
    return Limits.model_validate({name.strip(): value.strip() for name, _, value in pairs})
