"""What Prometheus would store of `GET /metrics`."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(api: Any) -> Samples:
    """All samples by name and labels. Whatever is not in Prometheus' text format raises ValueError."""
    answer = api.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """The sample of exactly these labels. None: there is none."""
    return samples.get((name, frozenset(labels.items())))


def by_label(samples: Samples, name: str, label: str) -> dict[str, float]:
    """The samples of a name by one of their labels."""
    return {dict(labels)[label]: number for (found, labels), number in samples.items() if found == name}


def labels_of(samples: Samples) -> dict[str, set[str]]:
    """The labels of each sample's name, all of them that occur."""
    found: dict[str, set[str]] = {}
    for name, labels in samples:
        found.setdefault(name, set()).update(label for label, _ in labels)
    return found
