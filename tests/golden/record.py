"""Records the golden losses anew: `python -m tests.golden.record`, after an upgrade that is meant to change them."""

from __future__ import annotations

import json

from tests.tasks.learning.test_training import GOLDEN, recorded

if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(recorded(), indent=1) + "\n")
