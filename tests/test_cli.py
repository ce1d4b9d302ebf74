"""The command line: what it accepts, what it says when it cannot, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate import cli, demo


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run another Python, and return its exit code and what it printed."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main([])
    assert ending.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_python_dash_m_does_what_the_command_does() -> None:
    ended = python("-m", "tidegate", "--help")
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: tidegate ")
    assert "demo" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--requests", "0"], "must be at least 1, got 0"),
        (["--threads", "-3"], "must be at least 1, got -3"),
        (["--coroutines", "many"], "must be a whole number, got 'many'"),
        (["--max-batch-size", "1.5"], "must be a whole number, got '1.5'"),
        (["--max-queue-delay", "-0.1"], "must be at least 0 seconds, got -0.1"),
        (["--max-queue-delay", "nan"], "must be at least 0 seconds, got nan"),
        (["--max-queue-delay", "inf"], "must be at least 0 seconds, got inf"),
        (["--max-queue-delay", "soon"], "must be a number of seconds, got 'soon'"),
        (["--seed", "-1"], "must be from 0 to 4294967295, got -1"),
        (["--seed", "4294967296"], "must be from 0 to 4294967295, got 4294967296"),
        (["--plot", "nowhere/plot.svg"], "there is no directory 'nowhere'"),
        (["--plot", "plot.bmp"], "must end in .svg, .png or .pdf, got 'plot.bmp'"),
        (["--json", "."], "'.' is a directory"),
        (["--plot", "plot.svg", "--no-plot"], "not allowed with"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(["demo", *arguments])
    assert ending.value.code == 2
    assert complaint in capsys.readouterr().err


def test_where_the_current_directory_cannot_be_written_to_the_demo_does_not_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[demo.Options] = []
    monkeypatch.setattr(demo, "run", lambda options: not begun.append(options))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cli.main(["demo"]) == cli.CANNOT_RUN
    said = capsys.readouterr().err
    assert said.startswith("tidegate demo: error: cannot write 'tidegate-demo.svg'; ")
    assert begun == []
    assert cli.main(["demo", "--no-plot"]) == 0
    with pytest.raises(SystemExit):
        cli.main(["demo", "--no-plot", "--json", "figures.json"])
    assert "'figures.json' cannot be written" in capsys.readouterr().err


def test_the_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[demo.Options] = []

    def run(options: demo.Options) -> bool:
        given.append(options)
        return True

    monkeypatch.setattr(demo, "run", run)
    json = tmp_path / "figures.json"
    plot = tmp_path / "plot.svg"
    sizes = ["--requests=5", "--threads=2", "--coroutines=3", "--max-batch-size=4"]
    rest = ["--max-queue-delay=0.25", "--seed=7", f"--json={json}", f"--plot={plot}"]
    assert cli.main(["demo", *sizes, *rest]) == 0
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", "--no-plot"]) == 0
    assert given == [
        demo.Options(
            requests=5,
            threads=2,
            coroutines=3,
            max_batch_size=4,
            max_queue_delay=0.25,
            seed=7,
            json=json,
            plot=plot,
        ),
        demo.Options(plot=Path("tidegate-demo.svg")),
        demo.Options(plot=None),
    ]


@pytest.mark.parametrize(
    ("module", "distribution"),
    [
        ("sklearn", "scikit-learn"),
        ("threadpoolctl", "scikit-learn"),
        ("rich", "rich"),
        ("matplotlib", "matplotlib"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    module: str, distribution: str
) -> None:
    ended = python("-c", without(module))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert f"tidegate demo needs {distribution}, which is not installed" in ended.stderr
    assert "pip install 'tidegate[demo]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_module_of_our_own_is_not_blamed_on_the_extra() -> None:
    ended = python("-c", without("tidegate.demo.load"))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("ModuleNotFoundError")
    assert "tidegate[demo]" not in ended.stderr


def without(module: str) -> str:
    """A program that runs the demo where a module cannot be imported."""
    return (
        "import sys; from tidegate.cli import main; "
        f"sys.modules[{module!r}] = None; sys.exit(main(['demo', '--no-plot']))"
    )


def test_neither_the_package_nor_the_command_line_imports_the_demo() -> None:
    names = ["tidegate.demo", "sklearn", "rich", "matplotlib", "threadpoolctl"]
    program = f"import sys, tidegate, tidegate.cli; print([n for n in {names} if n in sys.modules])"
    ended = python("-c", program)
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")


def test_ctrl_c_ends_with_130_and_without_a_traceback() -> None:
    # A shell that starts programs in the background lets them ignore Ctrl-C; this one must not.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from tidegate.cli import main; sys.exit(main(['demo', '--requests=500000', '--no-plot']))"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            assert "Trained" in running.stdout.readline()
            running.send_signal(signal.SIGINT)
            _, complaints = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == cli.INTERRUPTED == 130
    assert complaints == "tidegate: interrupted\n"
