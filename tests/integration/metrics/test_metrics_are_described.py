"""The table of metrics in the docs, and what `GET /metrics` exposes."""

import re

from tests import ROOT
from tests.support.scraping import Samples, labels_of

OF_A_HISTOGRAM = ("_bucket", "_count", "_sum")


def family(sample: str) -> str:
    ending = next((ending for ending in OF_A_HISTOGRAM if sample.endswith(ending)), "")
    return sample.removesuffix(ending)


def test_the_table_of_metrics_has_every_metric_with_its_labels(everything: Samples) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text[text.index("| metric | labels |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in row.split("|")[1:3]] for row in table]
    exposed: dict[str, set[str]] = {}
    for sample, labels in labels_of(everything).items():
        if not sample.endswith("_created"):
            exposed.setdefault(family(sample), set()).update(labels - {"le"})

    described = {
        name: {*filter(None, labels.split(", "))} for names, labels in rows for name in re.findall(r"`(\w+)`", names)
    }

    assert described == exposed
