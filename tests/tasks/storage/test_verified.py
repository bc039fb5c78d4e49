from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ArtifactError
from tasks.storage.verified import sealed, unsealed


@given(st.binary(), st.data())
def test_a_changed_byte_breaks_the_seal(content: bytes, data: st.DataObject) -> None:
    stored = bytearray(sealed(content))
    assert unsealed(bytes(stored), "here") == content
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ArtifactError, match="cannot use here: its bytes were altered"):
        unsealed(bytes(stored), "here")
