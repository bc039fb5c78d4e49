"""A marked secret, wherever a user can put one, is found nowhere: not in output, logs, the server's database or files.

Real `retrain` processes with a real Prefect server, a mirror that asks for a password, and an S3 server.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import boto3
import psutil
import pytest

from flows.cli.server import Server, choose_server
from tests import s3, tls
from tests.mirrors import CONTENTS, Answer, Mirror, gzipped, serving
from tests.s3 import Reply

MARK = "xq7Secret"
USER = f"{MARK}user:{MARK}word"
QUERY = f"X-Amz-Signature={MARK}&X-Amz-Credential={MARK}"
FORMS = [MARK.encode(), base64.b64encode(USER.encode()), base64.b64encode(f"{USER}2".encode())]

# `retrain`, where MNIST is a small data set.
PROGRAM = """
import sys
from flows.cli.main import main
from tasks.data.datasets import DATASETS
from tests.mirrors import CONTENTS, spec_for
DATASETS["mnist"] = spec_for(CONTENTS)
sys.exit(main())
"""
SET_HERE = re.compile("^RETRAIN_|_proxy$", re.IGNORECASE)
LENIENT = ("--epochs", "3", "--batch-size", "32", "--min-accuracy", "0.5", "--min-class-recall", "0.2")


class User:
    """Somebody whose every setting holds a secret: what their processes print, leave behind, and start."""

    def __init__(self, folder: Path, server: Server, bucket: str) -> None:
        self.own, self.left, self.bucket, self.server = folder / "own", folder / "left", bucket, server
        self.printed = b""
        for name in ("own", "left/tmp", "left/home"):
            (folder / name).mkdir(parents=True)
        (self.own / "credentials").write_text(
            f"[default]\naws_access_key_id = {MARK}id\naws_secret_access_key = {MARK}key\naws_session_token = {MARK}t\n"
        )
        (self.own / "netrc").write_text(f"machine 127.0.0.1 login {MARK}user password {MARK}word\n")
        (self.own / ".env").write_text(f'PREFECT_CLIENT_CUSTOM_HEADERS={{"X-Token": "{MARK}"}}\n')
        (self.own / "retrain.toml").write_text(
            f'store = "{bucket}/models"\n[data]\nmirror = ["https://{USER}@localhost:9/m/?{QUERY}"]\n'
        )
        self.environment = {name: value for name, value in os.environ.items() if not SET_HERE.search(name)} | {
            "PREFECT_API_URL": server.url,
            "PREFECT_API_AUTH_STRING": server.password or "",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RETRAIN_HOME": str(self.left / "home"),
            "TMPDIR": str(self.left / "tmp"),
            "AWS_ACCESS_KEY_ID": f"{MARK}id",
            "AWS_SECRET_ACCESS_KEY": f"{MARK}key",
            "AWS_SESSION_TOKEN": f"{MARK}token",
            "AWS_ENDPOINT_URL_S3": os.environ["AWS_ENDPOINT_URL_S3"].replace("://", f"://{USER}@"),
            "HTTPS_PROXY": f"http://{USER}@127.0.0.1:9",
            "NO_PROXY": "127.0.0.1",
        }

    def run(self, *arguments: str, **environment: str | None) -> subprocess.CompletedProcess[bytes]:
        """A command; the command lines of the processes that it starts count as printed."""
        given = {name: value for name, value in (self.environment | environment).items() if value is not None}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=self.own,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(process.communicate)
            while not ended.done():
                with suppress(psutil.Error):
                    for child in psutil.Process(process.pid).children(recursive=True):
                        self.printed += " ".join(child.cmdline()).encode()
                time.sleep(0.05)
        out, errors = ended.result()
        self.printed += out + errors
        return subprocess.CompletedProcess(arguments, process.returncode, out, errors)

    def database(self) -> bytes:
        """All that the Prefect server keeps."""
        return b"".join(file.read_bytes() for file in (self.server._folder or Path()).rglob("prefect.db*"))

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """All that was printed, written or stored, by the place."""
        yield "output", self.printed
        assert {file.name for file in self.own.iterdir()} == {"credentials", "netrc", ".env", "retrain.toml"}
        for folder in (self.left, self.server._folder or Path()):
            for file in folder.rglob("*"):
                if file.is_file():
                    yield str(file), file.read_bytes()
        client, bucket = boto3.client("s3"), self.bucket.removeprefix("s3://")
        for item in client.list_objects_v2(Bucket=bucket)["Contents"]:
            yield item["Key"], client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nothing else writes to, whose database can be read."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_API")]:
            patch.delenv(name)
        patch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # as `choose_server` does, until the end
        patch.setenv("RETRAIN_HOME", str(tmp_path_factory.mktemp("home")))
        patch.chdir(tmp_path_factory.mktemp("nowhere"))
        running = choose_server()
        running.wait()
    yield running
    running.stop()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """A mirror whose addresses are signed: it has nothing under an address without the signature."""
    answers = gzipped(CONTENTS)
    with serving({f"{name}?{QUERY}": answer for name, answer in answers.items()} | answers) as running:
        yield running


@pytest.mark.timeout(600)  # seven processes
def test_no_secret_is_found_after_runs_that_publish_are_rejected_or_fail(
    tmp_path: Path, server: Server, bucket: str, mirror: Mirror
) -> None:
    user = User(tmp_path, server, bucket)
    signed = f"{mirror.url.replace('://', f'://{USER}@')}?{QUERY}"

    published = user.run("run", "--mirror", signed, *LENIENT, "--report-dir", str(user.left / "report"), "--json")
    assert published.returncode == 0, published.stderr
    assert mirror.authorizations == [f"Basic {base64.b64encode(USER.encode()).decode()}"] * 4
    assert all(path.endswith(QUERY) for path in mirror.asked)

    asked = len(mirror.asked)
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
    files = {"AWS_SHARED_CREDENTIALS_FILE": str(user.own / "credentials"), "NETRC": str(user.own / "netrc")}
    rejected = user.run(
        "run", "--mirror", mirror.url, *LENIENT, "--refresh", "download", "--min-accuracy", "0.9999", **keys, **files
    )
    assert rejected.returncode == 3, rejected.stderr
    assert mirror.authorizations[asked:] == mirror.authorizations[:4]

    with serving({f"train-images-idx3-ubyte.gz?{QUERY}": Answer(status=401)}) as other:
        wrong = other.url.replace("://", f"://{USER}2@")
        refused = user.run("run", "--mirror", f"{wrong}?{QUERY}", "--refresh", "--debug")
        missing = user.run("run", "--mirror", f"{wrong}a.npz?{QUERY}", "--refresh", "--debug")
    assert (refused.returncode, missing.returncode) == (1, 1)
    assert b"answered 401: user and password belong in ~/.netrc" in refused.stderr
    assert f"there is no {other.url}a.npz (404)".encode() in missing.stderr
    assert b"Traceback" in missing.stderr

    unreachable = user.run("run", "--refresh", "--debug")  # that of retrain.toml, through the proxy
    assert unreachable.returncode == 1
    assert b"https://localhost:9/m/: cannot connect (Connection refused)" in unreachable.stderr
    with tls.recording(tls.certificate(tmp_path), [Reply(200)]) as sent:
        address = os.environ["AWS_ENDPOINT_URL_S3"]
        secret = address.replace("://", f"://{USER}@")
        certificate = user.run("versions", "--debug", AWS_ENDPOINT_URL_S3=secret, HTTPS_PROXY=None)
    assert certificate.returncode == 1
    assert f"the certificate of {address} is not trusted".encode() in certificate.stderr
    assert not sent

    deadline = time.monotonic() + 60  # the server writes events a little later
    while mirror.url.encode() not in user.database() and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(3)
    places = dict(user.everything())
    names = " ".join(places)
    for expected in ("prefect.db", "report.json", "manifest.json", "README.md", "comment.md"):
        assert expected in names
    assert mirror.url.encode() in places[next(name for name in places if name.endswith("versions/1/report.json"))]
    assert mirror.url.encode() in user.database()
    assert not [name for name, text in places.items() for form in FORMS if form in text]


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("versions",), {"AWS_SESSION_TOKEN": f"{MARK}\r"}, "cannot use the variable AWS_SESSION_TOKEN"),
        (("versions",), {"AWS_SECRET_ACCESS_KEY": f"{MARK}\n"}, "cannot use the variable AWS_SECRET_ACCESS_KEY"),
        (("versions",), {"AWS_SECRET_ACCESS_KEY": f"{MARK}\u2019"}, "cannot use AWS_SECRET_ACCESS_KEY"),
        (("versions",), {"AWS_ENDPOINT_URL_S3": f"{USER}@host"}, "cannot use the AWS settings"),
        (("versions",), {"AWS_ENDPOINT_URL_S3": f"http://{USER}@example.org"}, "endpoint http://example.org"),
        (("versions",), {"HTTPS_PROXY": f"http://u:{MARK}/{MARK}@proxy:3128"}, "cannot use the variable HTTPS_PROXY"),
        (("versions",), {"https_proxy": f"http://u:{MARK}@proxy\r"}, "cannot use the variable https_proxy"),
        (("versions", "--store", f"s3://{USER}@bucket/prefix"), {}, "s3://bucket/prefix"),
        (("versions", "--store", f"https://{USER}@host/bucket"), {}, "https://host/bucket"),
        (("versions", "--store", f"s3://bucket/prefix?{QUERY}"), {}, "an address holds no credentials"),
        (("versions", "--store", f"s3://u:{MARK}/{MARK}@bucket"), {}, "an address holds no credentials"),
        (("run",), {"PREFECT_API_URL": f"http://{USER}@127.0.0.1:9/api"}, "PREFECT_API_URL http://127.0.0.1:9/api"),
        (("deploy",), {"PREFECT_API_URL": f"http://127.0.0.1:9/api?{QUERY}"}, "Set PREFECT_API_AUTH_STRING"),
        (("run",), {"PREFECT_API_KEY": f"{MARK}\r"}, "cannot use the variable PREFECT_API_KEY"),
        (("deploy", "--notify", f"https://hooks.example.org/{MARK}"), {}, "name of a notification block"),
        (("run",), {"RETRAIN_NOTIFY": f"hooks.example.org/services/{MARK}"}, ""),
        (("deploy", "--mirror", f"https://{USER}@host/m/"), {}, "--mirror https://host/m/: its address holds"),
        (("up", "--mirror", f"https://host/m/?{QUERY}"), {}, "--mirror https://host/m/: its address holds"),
        (("init", "--mirror", f"https://u:{MARK}/{MARK}@host/m/"), {}, "belong in ~/.netrc"),
        (("run", "--miror", f"https://{USER}@host/m/?{QUERY}"), {}, "there is no option --miror"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_its_secret_is_not(
    arguments: tuple[str, ...],
    settings: Mapping[str, str],
    said: str,
    tmp_path: Path,
) -> None:
    root, nowhere = str(Path(__file__).parents[2]), "http://127.0.0.1:9"
    own = {**s3.SETTINGS, "AWS_ENDPOINT_URL_S3": nowhere, "RETRAIN_STORE": "s3://bucket", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *arguments],
        cwd=tmp_path,
        env={**os.environ, **own, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 2, printed
    assert said in printed
    assert MARK not in printed
    assert not list(tmp_path.iterdir())
