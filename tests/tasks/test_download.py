from __future__ import annotations

import logging

import pytest

from tasks import download


def test_the_log_has_a_line_for_each_file_and_one_now_and_then_for_a_large_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr("tasks.download.time.monotonic", lambda: next(seconds))
    caplog.set_level(logging.INFO, "retrain.download")
    log = download.log_seldom()
    for done in range(1, 11):
        log("train.csv", done, 10)
    log("x.npz", 5_000, None)
    for done in range(8):
        log("x.npz", 10_000 + done, None)
    lines = [line for line in caplog.messages if line.startswith("download: ")]
    assert lines[0] == "download:  60 % train.csv"
    assert lines[1] == "download: 100 % train.csv"
    assert lines[2:] == ["download: 10,004 bytes x.npz"]
