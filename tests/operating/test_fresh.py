from __future__ import annotations

import json
from collections import Counter

from tests.operating.fresh import FRESH, ROUNDS, table


def test_the_readme_quotes_the_table_of_all_verdicts() -> None:
    kept = Counter(each["recipe"] for each in json.loads(FRESH.read_text()))
    wrong, half = "2 % of the labels wrong", "half of the images"
    assert kept == {"champion": 1, "healthy": 2 * ROUNDS, "3 epochs": ROUNDS, half: ROUNDS, wrong: ROUNDS}
    readme = (FRESH.parents[2] / "tasks/gate/README.md").read_text()
    assert "\n".join(table()) in readme
