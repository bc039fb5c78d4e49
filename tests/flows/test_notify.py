"""Telling people, through a real notification block that posts to a server of this machine."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret

from flows.notify import notify
from tasks.errors import UsageError

pytestmark = pytest.mark.usefixtures("prefect_server")

RUN = str(uuid.uuid4())


def send_notification(block: str = "") -> None:
    notify(RUN, "mnist, 5 epochs, seed 0", "Rejected", "Rejected by the gate: accuracy", block)


@pytest.fixture
def webhook() -> Iterator[list[dict[str, str]]]:
    """A block of this name posts to a server of this machine; what it was sent."""
    posted: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if len(posted) == 1 else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        block = CustomWebhookNotificationBlock(
            name="here",
            url=f"http://127.0.0.1:{server.server_port}",
            json_data={"title": "{{subject}}", "text": "{{body}}"},
        )
        block.save("here", overwrite=True)
        yield posted
        server.shutdown()


def test_a_block_that_is_named_is_sent_the_same(webhook: list[dict[str, str]]) -> None:
    send_notification("custom-webhook/here")
    (sent,) = webhook
    assert sent["title"] == "retrain Rejected: mnist, 5 epochs, seed 0"
    assert sent["text"].startswith("Rejected by the gate: accuracy\n")
    assert sent["text"].endswith(f"/runs/flow-run/{RUN}")
    with pytest.raises(httpx.HTTPStatusError):  # a channel that fails is no secret
        send_notification("custom-webhook/here")


def test_it_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    send_notification()
    assert "retrain Rejected: mnist, 5 epochs, seed 0. Rejected by the gate: accuracy" in caplog.text
    assert f"/runs/flow-run/{RUN}" in caplog.text


def test_a_block_that_is_none_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="cannot load the notification block 'slack-webhook/nobody'"):
        send_notification("slack-webhook/nobody")
    Secret(value="x").save("a-secret", overwrite=True)
    with pytest.raises(UsageError, match="cannot notify through 'secret/a-secret': it is not a notification block"):
        send_notification("secret/a-secret")
