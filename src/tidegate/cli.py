"""The command `tidegate`; each subcommand imports what it needs when it is asked for."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Exit codes: 0 is well, 1 is "ran, and something is wrong", 2 is "could not run" (argparse's own
# choice for bad arguments), 130 is what shells report for a program ended by Ctrl-C.
WRONG, CANNOT_RUN, INTERRUPTED = 1, 2, 130

# What the demo imports, and the name under which one installs it; threadpoolctl comes along.
DEMO_NEEDS = {
    "matplotlib": "matplotlib",
    "rich": "rich",
    "sklearn": "scikit-learn",
    "threadpoolctl": "scikit-learn",
}

_DEFAULT = " (default: %(default)s)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments without the program's name; `sys.argv[1:]` if None.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("tidegate: interrupted\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate", description="Dynamic batching for machine-learning inference."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="classify digits from threads and coroutines, unbatched and through a Batcher",
        description="Train a small classifier on scikit-learn's digits, then have many threads and "
        "many coroutines classify held-out images one at a time: unbatched, and through a Batcher. "
        "Every answer is checked against the unbatched model's.",
    )
    add = demo.add_argument
    add("--requests", type=_count, default=40_000, metavar="N", help="for each row" + _DEFAULT)
    add("--threads", type=_count, default=64, metavar="N", help="that ask" + _DEFAULT)
    add("--coroutines", type=_count, default=256, metavar="N", help="that ask" + _DEFAULT)
    add(
        "--max-batch-size",
        type=_count,
        default=64,
        metavar="ROWS",
        help="the Batcher's" + _DEFAULT,
    )
    add(
        "--max-queue-delay",
        type=_delay,
        default=0.0,
        metavar="SECONDS",
        help="the Batcher's: the longest that an idle model waits for a fuller batch" + _DEFAULT,
    )
    add("--seed", type=_seed, default=0, metavar="N", help="of split and training" + _DEFAULT)
    add("--json", type=_output, metavar="PATH", help="also write the figures as JSON")
    plots = demo.add_mutually_exclusive_group()
    plots.add_argument(
        "--plot",
        type=_plot,
        default="tidegate-demo.svg",
        metavar="PATH",
        help="where the plot of the latencies goes: .svg, .png or .pdf" + _DEFAULT,
    )
    plots.add_argument("--no-plot", action="store_true", help="write no plot")
    demo.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from tidegate import demo
    except ModuleNotFoundError as error:
        return _report_missing(error, "demo", DEMO_NEEDS)
    right = demo.run(
        demo.Options(
            requests=arguments.requests,
            threads=arguments.threads,
            coroutines=arguments.coroutines,
            max_batch_size=arguments.max_batch_size,
            max_queue_delay=arguments.max_queue_delay,
            seed=arguments.seed,
            plot=None if arguments.no_plot else arguments.plot,
            json=arguments.json,
        )
    )
    return 0 if right else WRONG


def _report_missing(error: ModuleNotFoundError, extra: str, needs: dict[str, str]) -> int:
    """Say which extra to install; an error about any other module is a bug and goes on its way."""
    module = (error.name or "").partition(".")[0]
    if module not in needs:
        raise error
    sys.stderr.write(
        f"tidegate {extra} needs {needs[module]}, which is not installed.\n"
        f"Install what it needs with: pip install 'tidegate[{extra}]'\n"
    )
    return CANNOT_RUN


def _count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, least=1)


def _seed(text: str) -> int:
    """A whole number that NumPy takes as a seed."""
    return _whole(text, least=0, most=2**32 - 1)


def _whole(text: str, least: int, most: int | None = None) -> int:
    wanted = f"at least {least}" if most is None else f"from {least} to {most}"
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if number < least or (most is not None and number > most):
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {number}")
    return number


def _delay(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, got {text!r}") from None
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0 seconds, got {text}")
    return seconds


def _output(text: str) -> Path:
    """A file to write later: found out now, since the run before it takes a while."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a directory")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {str(path.parent)!r}")
    return path


def _plot(text: str) -> Path:
    path = _output(text)
    if path.suffix.lower() not in {".svg", ".png", ".pdf"}:
        raise argparse.ArgumentTypeError(f"must end in .svg, .png or .pdf, got {text!r}")
    return path
