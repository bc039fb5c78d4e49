"""Model files: the archive, and members that are changed before they are packed as this project packs them."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ModelFileError
from tasks.learning import architecture, model_file, weights_file
from tests.fuzz.mutations import json_texts, mutated_bytes
from tests.model_files import METADATA, archive, config_of, dense

CONFIG = config_of(3, [dense(3, 4, "relu", "hidden"), dense(4, 2, "softmax", "digit")])
DESCRIBED = architecture.parse(json.dumps(CONFIG).encode(), METADATA)
WEIGHTS = weights_file.encode(
    DESCRIBED, [np.full(shape, 0.5, np.float32) for group in DESCRIBED.groups for shape in group.shapes]
)
SMALL = archive(CONFIG, WEIGHTS)
HEADER = b"\x89HDF\r\n\x1a\n"


def check(data: bytes) -> None:
    """A file is described, or refused in one line."""
    said = ""
    try:
        assert model_file.check(data).config.layers
    except ModelFileError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 1000


@given(mutated_bytes([SMALL, archive(CONFIG, b""), b"PK\x05\x06" + bytes(18)]))
def test_archives(data: bytes) -> None:
    check(data)


@given(json_texts([CONFIG], {}))
def test_configs(config: bytes) -> None:
    check(archive(config, WEIGHTS))


@given(json_texts([json.loads(METADATA)], {}))
def test_metadata(metadata: bytes) -> None:
    check(archive(CONFIG, WEIGHTS, metadata))


@given(mutated_bytes([WEIGHTS, HEADER + b"\xff" * 2000]), st.sampled_from(["relu", "softmax"]))
def test_weights(weights: bytes, activation: str) -> None:
    check(archive(config_of(3, [dense(3, 4, activation, "hidden"), dense(4, 2, "softmax", "digit")]), weights))
