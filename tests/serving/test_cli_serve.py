"""``tidegate serve``, ``infer`` and ``demo --serve``: what they say, refuse and answer."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.gated import PATIENCE, in_thread, until
from tests.serving.running import Running
from tests.test_cli import python
from tidegate import cli
from tidegate.demo import digits

OFFER = """
from tidegate import Batcher, TensorSpec

def model(rows):
    return rows * 2

models = Batcher(model, inputs=TensorSpec((3,), "float32"))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with a module `offer`, which is forgotten afterwards."""
    (tmp_path / "offer.py").write_text(OFFER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    loaded = set(sys.modules)
    yield tmp_path
    for name in {"offer", "broken"} - loaded:
        sys.modules.pop(name, None)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said when the command cannot run."""
    assert cli.main(list(arguments)) == cli.CANNOT_RUN
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


# serve


def test_it_says_where_it_listens_and_that_it_is_ready(served_models: Running) -> None:
    assert [line.partition(" ")[0] for line in served_models.lines] == ["tidegate:"] * 4
    assert served_models.lines[-1] == "tidegate: ready"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", served_models.urls["http"])
    assert re.fullmatch(r"grpc://127\.0\.0\.1:\d+", served_models.urls["grpc"])
    assert served_models.urls["http+unix"].startswith("http+unix:///")
    assert "tidegate.access" not in served_models.log, "only if asked for"


def test_it_serves_what_a_file_says_logs_each_request_and_ends_well(here: Path) -> None:
    config = here / "tidegate.toml"
    config.write_text(
        'target = "offer:models"\nhttp = 0\ngrpc = 0\nuds = "door"\naccess_log = true\n'
        'token = "secret-of-mine"\n'
    )
    running = Running(here, f"--config={config}", environment={"PYTHONPATH": str(here)})
    try:
        for url in running.urls.values():
            ask = ["infer", url, "models", "--input=[1,2,3]", "--token=secret-of-mine"]
            answer = python("-m", "tidegate", *ask)
            assert (answer.returncode, answer.stderr) == (0, "")
            assert answer.stdout == "output: FP32 [1, 3]\n  [[2. 4. 6.]]\n"
        answer = python("-m", "tidegate", "infer", running.urls["grpc"], "models", "--input=[1]")
        assert "the server answers UNAUTHENTICATED: a token is needed" in answer.stderr
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        log = running.log
    finally:
        running.end()
    assert not (here / "door").exists()
    assert "secret-of-mine" not in log
    lines = [line for line in log.splitlines() if "tidegate.access" in line]
    infer = [line for line in lines if "nfer" in line.rpartition("/")[2]]
    assert len(infer) == 3
    assert any("POST '/v2/models/models/infer' 200" in line for line in infer)
    assert any("gRPC '/inference.GRPCInferenceService/ModelInfer' 'models' OK" in x for x in infer)
    assert any("ModelMetadata' - UNAUTHENTICATED" in line for line in lines)
    assert all(re.search(r"\d+\.\d\d ms$", line) for line in lines)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "what is to be served? Give MODULE:ATTRIBUTE"),
        (["offer"], "models are named module:attribute, got 'offer'"),
        (["nothing:models"], "there is no module 'nothing'"),
        (["offer:modls"], "did you mean 'models'?"),
        (["offer:models", "--config=nowhere.toml"], "cannot read nowhere.toml"),
        (["offer:models", "--http=0.0.0.0:0"], "or --insecure if everybody"),
        (["offer:models", "--grpc=[::]:0"], "neither TLS nor a token is configured"),
        (["offer:models", "--http=0", "--token-file=nowhere"], "cannot read the token file"),
        (["offer:models", "--http=0", "--token=two words"], "a token is visible ASCII"),
        (["offer:models", "--uds=offer.py"], "it exists, and is no socket"),
    ],
)
def test_what_cannot_be_served_is_refused(
    here: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "serve", *arguments)
    assert said.startswith("tidegate serve: error: ")
    assert complaint in said
    assert "Traceback" not in said


def test_an_error_in_the_users_module_is_shown_with_its_traceback(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text("def load():\n    raise KeyError('no weights')\nload()\n")
    said = refused(capsys, "serve", "broken:models")
    assert "KeyError: 'no weights'" in said
    assert "line 2, in load" in said
    assert said.endswith("tidegate serve: error: importing 'broken' failed with KeyError\n")


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_port_that_is_taken_is_refused(
    here: Path, door: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["serve", "offer:models", f"--{door}={port}"]) == cli.CANNOT_RUN
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("module", "distribution"),
    [
        ("starlette", "starlette"),
        ("uvicorn", "uvicorn"),
        ("grpc", "grpcio"),
        ("google", "protobuf"),
    ],
)
def test_a_missing_extra_is_named(here: Path, module: str, distribution: str) -> None:
    program = (
        f"import sys; from tidegate.cli import main; sys.modules[{module!r}] = None; "
        "sys.exit(main(['serve', 'offer:models', '--http=0', '--grpc=0']))"
    )
    ended = python("-c", program)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"tidegate serve needs {distribution}, which is not installed" in ended.stderr
    assert "pip install 'tidegate[serve]'" in ended.stderr


def test_the_command_line_loads_no_framework_before_it_is_asked_to() -> None:
    names = ["grpc", "starlette", "uvicorn", "prometheus_client", "google.protobuf"]
    program = (
        f"import sys, tidegate; print('tidegate.serving' in sys.modules); import tidegate.cli; "
        f"tidegate.cli._parser(); print([n for n in {names} if n in sys.modules])"
    )
    ended = python("-c", program)
    assert (ended.stdout.split("\n")[:2], ended.stderr) == (["False", "[]"], "")


def test_systemd_is_told_when_it_is_ready_and_when_it_ends(here: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(PATIENCE)
        systemd.bind(str(here / "notify"))
        running = Running(
            here,
            *("offer:models", "--http=0", "--uvloop=off"),
            environment={"NOTIFY_SOCKET": str(here / "notify"), "PYTHONPATH": str(here)},
        )
        try:
            assert systemd.recv(100) == b"READY=1"
            running.process.send_signal(signal.SIGINT)
            assert systemd.recv(100) == b"STOPPING=1"
            assert running.wait() == 0
        finally:
            running.end()


@pytest.mark.parametrize("kind", ["gone", "closed"])
def test_a_server_that_nobody_listens_to_serves(here: Path, kind: str) -> None:
    # What it says is for whoever starts it, and they may have gone: `tidegate serve ... | head -1`.
    door = here / "door"
    reading, writing = os.pipe()
    os.close(reading)
    begin = "exec 1>&-; " if kind == "closed" else ""
    line = f"{begin}exec {shlex.quote(sys.executable)} -m tidegate serve offer:models --uds door"
    with (here / "log").open("wb") as log:
        process = subprocess.Popen(["sh", "-c", line], cwd=here, stdout=writing, stderr=log)
    os.close(writing)
    try:
        until(lambda: door.exists() or process.poll() is not None)
        ask = ["infer", f"http+unix://{door}", "models", "--input=[1,2,3]"]
        answer = python("-m", "tidegate", *ask)
        assert (answer.stdout, answer.stderr) == ("output: FP32 [1, 3]\n  [[2. 4. 6.]]\n", "")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(PATIENCE)
    said = (here / "log").read_text()
    assert "Traceback" not in said
    assert said.count("standard output takes no more: Broken pipe") == (kind == "gone")


# infer


def infer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is printed of an answer."""
    assert cli.main(["infer", *arguments]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.mark.parametrize("scheme", ["http", "grpc", "http+unix"])
def test_it_prints_the_outputs(
    served_models: Running, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = served_models.urls[scheme]
    assert infer(capsys, url, "double", "--input", "[1,2,3]") == (
        "doubled: FP32 [1, 3]\n  [[2. 4. 6.]]\n"
    )
    given = ["--input", "a=[[1,2],[3,4]]", "--input", "b=[0.5,1]"]
    assert infer(capsys, url, "pair", *given) == (
        "sum: FP64 [2]\n  [3.5 8. ]\nshape: INT64 [2, 2]\n  [[3 3]\n   [7 7]]\n"
    )
    assert infer(capsys, url, "pair", *given, "--output", "sum", "--json-output") == (
        '{"outputs": [{"name": "sum", "datatype": "FP64", "shape": [2], "data": [3.5, 8.0]}]}\n'
    )
    one_row = ["--input", "a=[1,2]", "--input", "b=0.5", "--output", "sum"]
    assert infer(capsys, url, "pair", *one_row) == "sum: FP64 [1]\n  [3.5]\n"
    answer = infer(capsys, url, "upper", "--input", 'text=["one", "zwo"]')
    assert answer == "upper: BYTES [2]\n  ['ONE' 'ZWO']\n"
    # BF16 is shown widened.
    assert (
        infer(capsys, url, "brain", "--input", "[0.5,3]") == "output: FP32 [1, 2]\n  [[0.5 3. ]]\n"
    )
    assert "[[20. 40. 60.]]" in infer(
        capsys, url, "scaled", "--input", "[2,4,6]", "--model-version", "2"
    )


def test_inputs_may_come_from_a_file_or_from_standard_input(
    served_models: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = served_models.urls["http"]
    expected = "doubled: FP32 [1, 3]\n  [[2. 4. 6.]]\n"
    request = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    for content in ([1, 2, 3], [[1, 2, 3]], {"x": [1, 2, 3]}, {"inputs": [request]}):
        path = tmp_path / "inputs.json"
        path.write_text(json.dumps(content))
        assert infer(capsys, url, "double", "--json", str(path)) == expected
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(content)))
        assert infer(capsys, url, "double") == expected
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(content)))
        assert infer(capsys, url, "double", "--json", "-") == expected


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nobody", "--input=[1]"], "there is no model 'nobody'"),
        (["double", "--input=[1,2]"], "FP32 of shape [-1, 3]"),
        (["double", "--input=[[[1,2,3]]]"], "got shape [1, 1, 3]"),
        (["double", "--input=[1,[2],3]"], "lists of different lengths"),
        (["double", "--input=['a']"], "the input is no JSON"),
        (["double", "--input=null"], "the input is null"),
        (["double", '--input=["a","b","c"]'], "should hold elements of FP32"),
        (["double", "--input=y=[1,2,3]"], "has the inputs ['x'], got ['y']"),
        (["double", "--input=x=[1]", "--input=x=[1]"], "input 'x' comes twice"),
        (["pair", "--input=[1,2]"], "the model has the inputs ['a', 'b']; give NAME=JSON"),
        (["pair", "--input=[1,2]", "--input=[1]"], "several inputs need names"),
        (["double", "--input=[1,2,3]", "--output=z"], "no 'z'"),
        (["double", "--json=nowhere.json"], "cannot read nowhere.json"),
        (["broken", "--input=[1,2,3]"], "the model failed with RuntimeError"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_what_is_wrong_is_said_in_one_line(
    served_models: Running,
    scheme: str,
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["infer", served_models.urls[scheme], *arguments]) == cli.WRONG
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("tidegate infer: error: ")
    assert complaint in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://127.0.0.1:1", "cannot ask http://127.0.0.1:1: "),
        ("127.0.0.1:1", "cannot ask http://127.0.0.1:1: "),
        ("grpc://127.0.0.1:1", "the server answers UNAVAILABLE"),
        ("http+unix:///nowhere", "cannot ask http+unix:///nowhere: "),
        ("ftp://127.0.0.1", "a server's URL begins with http://"),
        ("http://", "has no host"),
        ("http://[", "is no URL"),
        ("http://127.0.0.1:http", "is no URL"),
    ],
)
def test_a_server_that_is_not_there_is_an_error(
    url: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["infer", url, "double", "--input=[1]"]) == cli.WRONG
    assert complaint in capsys.readouterr().err


# demo --serve


def fake(seed: int) -> digits.Digits:
    """A classifier that takes no time to train: the digit is where its image has a dot."""
    images = np.eye(64)[[3, 7]]

    def model(rows: digits.Floats) -> digits.Floats:
        return rows[:, :10]

    labels = np.array([3, 7])
    return digits.Digits(model, 0, images, labels, digits.alone(model, images))


def test_the_demo_offers_its_classifier_and_says_how_to_ask_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(digits, "train", fake)
    # Not pytest's capture: what is written while another thread takes from it can be lost.
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)

    def ask() -> list[str]:
        """Runs what it says one should run, and ends it."""
        try:
            until(lambda: "\ncurl " in written.getvalue())
            commands = re.findall(r"^tidegate (infer .*)", written.getvalue(), re.MULTILINE)
            return [python("-m", "tidegate", *shlex.split(each)).stdout for each in commands]
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    asking = in_thread(ask)
    assert cli.main(["demo", "--serve", "--http=0", "--grpc=0"]) == 0
    answers = asking.outcome()
    assert len(answers) == 2
    for answer in answers:
        assert answer.startswith("digit: INT64 [1]\n  [3]\nprobabilities: FP64 [1, 10]\n")
    said = written.getvalue()
    assert "Try it; the image shows a 3:" in said
    body = re.search(r"^curl http://\S+/v2/models/digits/infer -d '(.*)'$", said, re.MULTILINE)
    assert body is not None
    assert json.loads(body[1])["inputs"][0]["shape"] == [1, 64]


def test_the_demo_refuses_a_port_that_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits, "train", fake)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        said = refused(capsys, "demo", "--serve", f"--http={other.getsockname()[1]}", "--grpc=0")
    assert "Address already in use" in said
