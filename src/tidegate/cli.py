"""The command `tidegate`; each subcommand imports what it needs when it is asked for."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tidegate._output import write
from tidegate.errors import ConfigError, TidegateError

# Exit codes: 0 is well, 1 is "ran, and something is wrong", 2 is "could not run" (argparse's own
# choice for bad arguments), 130 is what shells report for a program ended by Ctrl-C, and 141 for
# one whose reader, such as `head`, has gone.
WRONG, CANNOT_RUN, INTERRUPTED, UNREAD = 1, 2, 130, 141

# What the demo imports, and the name under which one installs it; threadpoolctl comes along.
DEMO_NEEDS = {
    "matplotlib": "matplotlib",
    "rich": "rich",
    "sklearn": "scikit-learn",
    "threadpoolctl": "scikit-learn",
}

# The same for the server, and for `tidegate infer` over gRPC.
SERVE_NEEDS = {
    "google": "protobuf",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "prometheus_client": "prometheus_client",
    "starlette": "starlette",
    "tomli": "tomli",
    "uvicorn": "uvicorn",
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
    _add_serve(commands)
    _add_infer(commands)
    _add_top(commands)
    _add_doctor(commands)
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
        default=Path("tidegate-demo.svg"),
        metavar="PATH",
        help="where the plot of the latencies goes: .svg, .png or .pdf" + _DEFAULT,
    )
    plots.add_argument("--no-plot", action="store_true", help="write no plot")
    add(
        "--serve",
        action="store_true",
        help="instead, offer the classifier over HTTP and gRPC on this machine until Ctrl-C",
    )
    add("--http", type=_port, default=8000, metavar="PORT", help="with --serve" + _DEFAULT)
    add("--grpc", type=_port, default=8001, metavar="PORT", help="with --serve" + _DEFAULT)
    demo.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.serve:
        return _demo_serve(arguments)
    plot = None if arguments.no_plot else arguments.plot
    # The plot's default is in the current directory, whatever that is.
    if plot is not None and not _is_writable(plot):
        sys.stderr.write(
            f"tidegate demo: error: cannot write {str(plot)!r}; say where to with --plot PATH, or "
            "--no-plot\n"
        )
        return CANNOT_RUN
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
            plot=plot,
            json=arguments.json,
        )
    )
    return 0 if right else WRONG


def _demo_serve(arguments: argparse.Namespace) -> int:
    try:
        from tidegate.demo import offer

        return offer.run(
            http=arguments.http,
            grpc=arguments.grpc,
            max_batch_size=arguments.max_batch_size,
            max_queue_delay=arguments.max_queue_delay,
            seed=arguments.seed,
        )
    except ModuleNotFoundError as error:
        needs = {**DEMO_NEEDS, **SERVE_NEEDS}
        return _report_missing(error, "demo,serve", needs, command="demo --serve")
    except ConfigError as error:
        return _refuse("demo", error)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from tidegate.serving.options import DESCRIPTION, add_options

    serve = commands.add_parser(
        "serve",
        help="offer models over HTTP and gRPC",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(serve)
    serve.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from tidegate.serving.loading import load
    from tidegate.serving.options import configuration_of

    try:
        configuration = configuration_of(arguments)
        if configuration.target is None:
            raise ConfigError("what is to be served? Give MODULE:ATTRIBUTE")
        from tidegate.serving import server

        models = load(configuration.target)
        server.configure_logging(configuration.log_level)
        return server.serve(models, configuration)
    except ModuleNotFoundError as error:
        return _report_missing(error, "serve", SERVE_NEEDS)
    except ConfigError as error:
        return _refuse("serve", error)


def _refuse(command: str, error: TidegateError) -> int:
    """Say why not; what went wrong in the user's own code is shown with its traceback."""
    if error.__cause__ is not None and not isinstance(error.__cause__, OSError):
        traceback.print_exception(error.__cause__)
    sys.stderr.write(f"tidegate {command}: error: {error}\n")
    return CANNOT_RUN


def _add_infer(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    infer = commands.add_parser(
        "infer",
        help="send one request to a server and print the answer",
        description="Ask a model of a running server for its inputs, send one request, and print "
        "the answer.",
    )
    add = infer.add_argument
    add("url", metavar="URL", help="http://, https://, http+unix://, grpc://, ... as announced")
    add("model", metavar="MODEL", help="its name")
    given = infer.add_mutually_exclusive_group()
    given.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]JSON",
        help="a row, or a list of rows; may be repeated",
    )
    given.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="an object with all inputs by name, or a request of the protocol; default: stdin",
    )
    add("--output", action="append", default=[], metavar="NAME", help="ask for these outputs only")
    add("--model-version", default="", metavar="VERSION", help="default: the newest")
    add("--grpc", action="store_true", help="speak gRPC if the URL does not say")
    add("--json-output", action="store_true", help="print JSON")
    add("--token", metavar="TOKEN", help="default: the environment's TIDEGATE_TOKEN")
    add("--ca", type=Path, metavar="PATH", help="certificates to trust, PEM")
    add("--certificate", type=Path, metavar="PATH", help="the client's certificate, PEM")
    add("--key", type=Path, metavar="PATH", help="its key, PEM")
    add("--timeout", type=_delay, default=30.0, metavar="SECONDS", help="to wait" + _DEFAULT)
    infer.set_defaults(command=_infer)


def _infer(arguments: argparse.Namespace) -> int:
    from tidegate.serving import inquiry
    from tidegate.serving.inquiry.connection import Access

    try:
        answer = inquiry.run(
            inquiry.Inquiry(
                url=arguments.url,
                model=arguments.model,
                version=arguments.model_version,
                inputs=tuple(arguments.input),
                file=arguments.json,
                outputs=tuple(arguments.output),
                grpc=arguments.grpc,
                json_output=arguments.json_output,
                access=Access(
                    token=arguments.token or os.environ.get("TIDEGATE_TOKEN"),
                    ca=arguments.ca,
                    certificate=arguments.certificate,
                    key=arguments.key,
                    timeout=arguments.timeout,
                ),
            )
        )
    except ModuleNotFoundError as error:
        return _report_missing(error, "serve", SERVE_NEEDS, command="infer")
    except TidegateError as error:
        sys.stderr.write(f"tidegate infer: error: {error}\n")
        return WRONG
    return _print("infer", answer + "\n")


def _add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = commands.add_parser(
        "top",
        help="watch the batchers of running servers",
        description="Show what the batchers of running servers are at, from their metrics: rates "
        "and quantiles over the last interval, until Ctrl-C.",
    )
    add = top.add_argument
    add(
        "urls",
        nargs="*",
        default=["http://127.0.0.1:8000/metrics"],
        metavar="URL",
        help="addresses of metrics" + _DEFAULT,
    )
    add("--interval", type=_delay, default=2.0, metavar="SECONDS", help="between looks" + _DEFAULT)
    add("--once", action="store_true", help="print one table, over one interval, and end")
    add("--token", metavar="TOKEN", help="default: the environment's TIDEGATE_TOKEN")
    add("--ca", type=Path, metavar="PATH", help="certificates to trust, PEM")
    top.set_defaults(command=_top)


def _top(arguments: argparse.Namespace) -> int:
    try:
        from tidegate.serving import top
    except ModuleNotFoundError as error:
        return _report_missing(error, "serve", {**SERVE_NEEDS, "rich": "rich"}, command="top")
    try:
        all_answered = top.run(
            top.Options(
                urls=arguments.urls,
                interval=arguments.interval,
                once=arguments.once,
                token=arguments.token or os.environ.get("TIDEGATE_TOKEN"),
                ca=arguments.ca,
            )
        )
    except TidegateError as error:
        sys.stderr.write(f"tidegate top: error: {error}\n")
        return CANNOT_RUN
    return 0 if all_answered else WRONG


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="show what was found for work on a GPU, and what to install",
        description="Look for NVIDIA's driver, its devices, CuPy and NVRTC, and say what is in the "
        "way of work on a GPU. Work on the CPU needs none of them.",
    )
    doctor.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from tidegate.gpu import doctor, findings

    text, well = doctor.report(findings.look())
    return _print("doctor", text) or (0 if well else WRONG)


def _print(command: str, text: str) -> int:
    """Write the result of a command; the exit code if that is not possible, else 0."""
    try:
        write(text)
    except BrokenPipeError:
        return UNREAD
    except OSError as error:
        sys.stderr.write(f"tidegate {command}: error: cannot write: {error.strerror}\n")
        return WRONG
    return 0


def _report_missing(
    error: ModuleNotFoundError, extra: str, needs: dict[str, str], command: str = ""
) -> int:
    """Say which extra to install; an error about any other module is a bug and goes on its way."""
    module = (error.name or "").partition(".")[0]
    if module not in needs:
        raise error
    sys.stderr.write(
        f"tidegate {command or extra} needs {needs[module]}, which is not installed.\n"
        f"Install what it needs with: pip install 'tidegate[{extra}]'\n"
    )
    return CANNOT_RUN


def _count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, least=1)


def _seed(text: str) -> int:
    """A whole number that NumPy takes as a seed."""
    return _whole(text, least=0, most=2**32 - 1)


def _port(text: str) -> int:
    """A port, or 0 for any that is free."""
    return _whole(text, least=0, most=65535)


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
    if not _is_writable(path):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def _is_writable(path: Path) -> bool:
    return os.access(path if path.exists() else path.parent, os.W_OK)


def _plot(text: str) -> Path:
    path = _output(text)
    if path.suffix.lower() not in {".svg", ".png", ".pdf"}:
        raise argparse.ArgumentTypeError(f"must end in .svg, .png or .pdf, got {text!r}")
    return path
