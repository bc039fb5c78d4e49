"""Addresses are shown without their secrets, whatever their form, and keep what a request needs."""

from __future__ import annotations

import os
import re
from unittest.mock import patch

import pytest

from tasks.address import PLAIN, Address, hidden, is_plain
from tasks.errors import RetrainError
from tasks.running.who import who
from tasks.settings import Data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@host:80/a/mnist.npz?X-Amz-Signature=secret#secret", "https://host:80/a/mnist.npz"),
        ("https://secret@host/", "https://host/"),
        ("https://user:secret/secret@host/x", "https://…"),
        ("https://user:12/secret@host/x", "https://…"),
        ("https://user:secret#secret@host/x", "https://…"),
        ("HTTPS://host?secret", "HTTPS://host"),
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("s3://bucket/x?token=secret", "s3://bucket/x"),
        ("user:secret@host/x", "…@host/x"),
    ],
)
def test_an_address_with_a_secret_is_shown_without_and_is_not_stored(text: str, shown: str) -> None:
    address = Address(text)
    assert (str(address), address.usable) == (shown, text)
    assert not is_plain(text)
    assert not is_plain(address)
    assert not re.match(PLAIN, text)
    assert "secret" not in hidden(f"cannot read {text}: because ({text}).")
    assert "secret" not in str(RetrainError(f"cannot read {text}", "why", f"Correct {text}."))
    data = Data(mirror=(address,))
    assert data.mirror[0].usable == text
    assert "secret" not in f"{data!r} {data.model_dump_json()}"


@pytest.mark.parametrize(
    "text",
    ["./store", "/a b/@c", "file:///data/a?b", "s3://bucket/a#b?c", "https://host/pkg@1/x", "https://[::1]:80/x"],
)
def test_an_address_without_one_is_shown_as_it_is(text: str) -> None:
    assert str(Address(text)) == text
    assert is_plain(text)


def test_a_secret_of_the_environment_is_hidden_in_any_text() -> None:
    environment = {"AWS_SESSION_TOKEN": "a long token", "AWS_SECRET_ACCESS_KEY": "the", "HOME": "long enough"}
    assert hidden("the a long token is long enough", environment) == "the … is long enough"


def test_a_name_that_a_variable_claims_stands_beside_the_user_of_the_system() -> None:
    with patch.dict(os.environ, {"LOGNAME": "the CEO\n\x1b[0m"}):
        for name in ("GITHUB_ACTOR", "GITLAB_USER_LOGIN"):
            os.environ.pop(name, None)
        assert r' (claims "the CEO\n\u001b[0m") on ' in who()
        os.environ["LOGNAME"] = os.environ["USER"] = who().partition(" ")[0]
        assert "claims" not in who()
    with patch("os.getuid", return_value=123456):
        assert who().startswith("uid 123456")
