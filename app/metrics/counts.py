"""What an API process counts by itself: requests, errors, open streams, and what the engine answered.

With several API processes each counts in files of its own, which whichever of them is asked adds up
(prometheus-client's multiprocess mode, see `processes`).
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Routes answer within milliseconds, and first tokens within seconds.
ANSWER_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# The most values of a label that others choose. What is beyond is counted as OTHER.
MOST_ADAPTERS = 100
MOST_CODES = 200
OTHER = "other"


class FewNames:
    """Lets the first names through, up to a number, and replaces all others by OTHER."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def name(self, given: str) -> str:
        if given in self._known:
            return given
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(given)
        return given


class Counts:
    """The counters of one process, and the registry that has them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tunesmith_http_requests",
            "Requests that were answered, by the route's path; other: no route",
            ("method", "route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "tunesmith_http_request_seconds",
            "Seconds from a request's head to that of its answer, so of a stream until it begins",
            ("method", "route"),
            buckets=ANSWER_BUCKETS,
            registry=registry,
        )
        self.errors = Counter(
            "tunesmith_http_errors", "Answers with an error, by its code", ("code",), registry=registry
        )
        self.open_streams = Gauge(
            "tunesmith_open_streams",
            "Streams of events that are open now",
            ("route",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._count_generations(registry)
        self.adapters = FewNames(MOST_ADAPTERS)
        self.codes = FewNames(MOST_CODES)

    def _count_generations(self, registry: CollectorRegistry) -> None:
        """The label `adapter` is an adapter's id, `base`, `checkpoint`, or `other` beyond the first MOST_ADAPTERS."""
        of_adapter = ("adapter",)
        self.generations = Counter(
            "tunesmith_generations",
            "Answers of the engine, by how they ended: stop, length, cancelled or error",
            ("adapter", "outcome"),
            registry=registry,
        )
        self.generation_errors = Counter(
            "tunesmith_generation_errors", "Answers that the engine refused or broke off", ("code",), registry=registry
        )
        self.first_token = Histogram(
            "tunesmith_generation_first_token_seconds",
            "Seconds until the first piece of an answer",
            of_adapter,
            buckets=FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.prompt_tokens = Counter("tunesmith_prompt_tokens", "Tokens of prompts", of_adapter, registry=registry)
        self.cached_tokens = Counter(
            "tunesmith_cached_prompt_tokens",
            "Tokens of prompts whose keys and values the engine had in its cache",
            of_adapter,
            registry=registry,
        )
        self.completion_tokens = Counter(
            "tunesmith_completion_tokens", "Tokens of answers", of_adapter, registry=registry
        )
