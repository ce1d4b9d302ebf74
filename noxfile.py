"""Every command of the project: `nox -s lint`, `nox -s tests`, and so on; `nox -l` lists them.

CI runs the same sessions in an environment that it has made already (`--no-venv --no-install`).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "types", "stubs", "tests", "cpp"]
nox.options.reuse_existing_virtualenvs = True

# Paths of somebody's machine and hosts of a package index do not belong in a repository. Written
# so that the pattern does not match its own text.
FOREIGN = r"/(work|root|home/[a-z]+)/|pypi\.org|pythonhosted\.org"

# The linters read sources only, so their session need not compile the package.
EXTRAS = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]


def tracked(session: nox.Session, *patterns: str) -> list[str]:
    """Files of the repository (ignored ones left out) that match git's `patterns`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = session.run(*command, external=True, silent=True, log=False)
    return sorted(str(listed).splitlines())


def with_includes(source: Path) -> str:
    """A .pyx as Cython reads it; alone, it seems to import much that only its includes use."""

    def included(line: re.Match[str]) -> str:
        return (source.parent / line[1]).read_text().rstrip() + "\n\n\n"

    whole = re.sub(r'^include "(.+)"\n+', included, source.read_text(), flags=re.MULTILINE)
    return whole.rstrip() + "\n"


def native(session: nox.Session, preset: str) -> None:
    """Configure and build one preset of CMakePresets.json."""
    session.run("cmake", "--preset", preset)
    session.run("cmake", "--build", "--preset", preset)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, style, spelling, layers, generated files, and nothing that names a machine.

    `-- --fix` formats.
    """
    session.install(*EXTRAS["lint"])
    sources = tracked(session, "*.cpp", "*.hpp", "*.h", "*.cu")
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix", "--exit-zero", "--quiet")
        session.run("ruff", "format", "--quiet")
        session.run("clang-format", "-i", *sources)
    session.run("ruff", "format", "--check", "--diff")
    session.run("ruff", "check")
    session.run("clang-format", "--dry-run", "-Werror", *sources)
    session.run("cython-lint", *tracked(session, "*.pxd", "*.pxi"))
    for source in map(Path, tracked(session, "*.pyx")):
        whole = Path(session.create_tmp(), source.name)
        whole.write_text(with_includes(source))
        session.run("cython-lint", str(whole))
    session.run("codespell", *tracked(session))
    session.run("python", "tools/generate_protos.py", "--check")
    session.run("lint-imports", "--no-cache", "--no-logo", env={"PYTHONPATH": "src"})
    # git grep answers 1 when it finds nothing, which is what is wanted.
    session.run("git", "grep", "-nIE", FOREIGN, external=True, success_codes=[1])


@nox.session
def protos(session: nox.Session) -> None:
    """Make the message modules from the .proto files; `lint` checks that they are current."""
    session.install(*EXTRAS["lint"])
    session.run("python", "tools/generate_protos.py", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strictly, over the package, its tests and its benchmarks."""
    session.install(".[dev]")
    session.run("mypy")


@nox.session
def stubs(session: nox.Session) -> None:
    """The stubs of the extension modules say what the modules have."""
    session.install(".[types]")
    # The front end may have been left out.
    seek = "from importlib.util import find_spec as f; print(f('tidegate._frontend') is not None)"
    built = "True" in str(session.run("python", "-c", seek, silent=True, log=False))
    modules = ["tidegate._engine", "tidegate._fast", *["tidegate._frontend"] * built]
    session.run("stubtest", *modules)


@nox.session(python=["3.10", "3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """The Python tests; `nox -s tests-3.11 -- -m soak` for the long ones."""
    session.install(".[test,test-models,test-cuda]")
    session.run("pytest", *session.posargs)


@nox.session
def cpp(session: nox.Session) -> None:
    """The native tests, and the CUDA sources compiled where there is a compiler for them."""
    session.install("cmake", "ninja")
    native(session, "dev")
    session.run("ctest", "--preset", "dev")
    kernels = tracked(session, "*.cu")
    if kernels and shutil.which("nvcc"):
        for kernel in kernels:
            output = f"build/{kernel.replace('/', '-')}.o"
            session.run("nvcc", "-c", kernel, "-o", output, external=True)


@nox.session
def sanitize(session: nox.Session) -> None:
    """The native tests under the sanitizers, which must see the one fault that is planted."""
    session.install("cmake", "ninja")
    for preset in ("asan", "tsan"):
        native(session, preset)
        session.run("ctest", "--preset", preset)
    # Passing `tsan` and failing here, the stress test is known to notice an ordering that is too
    # weak. Two more conditions: it was built, and what failed it was a race (8: tests failed).
    native(session, "weakened")
    report = str(session.run("ctest", "--preset", "weakened", success_codes=[8], silent=True))
    if "WARNING: ThreadSanitizer: data race" not in report:
        session.log(report)
        session.error("the weakened build failed, but not by a data race")
    session.log("The weakened commit/seal ordering was noticed, as it must be.")


@nox.session
def fuzz(session: nox.Session) -> None:
    """The native front end's fuzzers under libFuzzer: `nox -s fuzz -- 10000000`. It takes Clang."""
    session.install("cmake", "ninja")
    native(session, "fuzz")
    count = session.posargs[0] if session.posargs else "100000"
    for fuzzer in tracked(session, "csrc/fuzz/fuzz_*.cpp"):
        name = Path(fuzzer).stem
        found = Path("build/fuzz/corpus", name)  # what adds coverage; the next run starts from it
        found.mkdir(parents=True, exist_ok=True)
        seeds = f"csrc/fuzz/seeds/{name.removeprefix('fuzz_')}"
        options = [f"-runs={count}", "-max_len=4096", f"-artifact_prefix={found.parent}/"]
        session.run(f"build/fuzz/csrc/fuzz/{name}", *options, str(found), seeds, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Every example of the README and of docs/, run."""
    session.install(".[test,test-models]")
    session.run("pytest", "tests/test_docs.py", "tests/howto", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """One table of ratios to the plain-Python ways, with its JSON and plots."""
    session.install(".[bench]")
    session.run("python", "-m", "benchmarks.compare", *session.posargs)


@nox.session
def bench_serving(session: nox.Session) -> None:
    """Web services alone, batched by hand and with tidegate, with their tables and plots."""
    session.install(".[bench]")
    session.run("python", "-m", "benchmarks.serving", *session.posargs)


@nox.session
def bench_ragged(session: nox.Session) -> None:
    """Rows of all lengths padded, in length buckets and packed, with their tables and plot."""
    session.install(".[bench]")
    session.run("python", "-m", "benchmarks.ragged", *session.posargs)


@nox.session
def bench_origin(session: nox.Session) -> None:
    """The Go server that tidegate descends from beside it; says what to install besides."""
    session.install(".[bench]")
    session.run("python", "-m", "benchmarks.origin", *session.posargs)


@nox.session
def bench_gpu(session: nox.Session) -> None:
    """Probes, kernels, models and marked tests on a GPU; ends with 2 where there is none.

    In an environment that has the CuPy and the PyTorch of its driver: `--no-venv --no-install`.
    """
    session.install(".[bench,test]")
    session.run("python", "-m", "benchmarks.gpu", *session.posargs)
