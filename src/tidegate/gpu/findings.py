"""What of CUDA is on this machine, and what is in the way of work on a GPU; it needs none."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidegate.errors import ConfigError
from tidegate.gpu import driver as drivers
from tidegate.gpu.driver import Driver
from tidegate.gpu.remedies import Problem, problems_of

__all__ = ["Findings", "distributions", "import_cupy", "look", "require"]

_CUPY = re.compile(r"cupy(-cuda\d+x?|-rocm-[\d-]+)?")
NVRTC_WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        driver: What NVIDIA's driver says; None where there is none.
        distributions: The installed packages that are CuPy, with their versions.
        cupy: CuPy's version, if it could be imported.
        cupy_trouble: Why not, if it is installed.
        nvrtc: The version of the compiler that CuPy finds; without CuPy, of the wheels.
        nvrtc_trouble: Why CuPy cannot use it.
        visible: The variable CUDA_VISIBLE_DEVICES, if it is set.
        problems: What is in the way of work on a GPU, the first to be solved first.
    """

    driver: Driver | None
    distributions: Mapping[str, str]
    cupy: str | None = None
    cupy_trouble: str = ""
    nvrtc: str | None = None
    nvrtc_trouble: str = ""
    visible: str | None = None
    problems: tuple[Problem, ...] = field(init=False)

    def __post_init__(self) -> None:
        problems = problems_of(
            self.driver,
            self.distributions,
            cupy=self.cupy,
            cupy_trouble=self.cupy_trouble,
            nvrtc=self.nvrtc,
            nvrtc_trouble=self.nvrtc_trouble,
            visible=self.visible,
        )
        object.__setattr__(self, "problems", problems)

    @property
    def nothing(self) -> bool:
        """Whether there is neither a driver nor CuPy: a machine for work on the CPU."""
        no_cupy = not self.distributions and self.cupy is None and not self.cupy_trouble
        return self.driver is None and no_cupy


def distributions() -> dict[str, str]:
    """All installed distributions with their versions, under their normalised names."""
    found = {}
    for each in importlib.metadata.distributions():
        # A half-removed package has neither.
        name: str | None = each.metadata["Name"]
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = each.version or "unknown"
    return found


def import_cupy() -> Any:
    """CuPy.

    Raises:
        ImportError: It is not installed, or does not import.
    """
    return importlib.import_module("cupy")


def look(
    *,
    load_driver: Callable[[], Any] = drivers.load,
    installed: Callable[[], Mapping[str, str]] = distributions,
    load_cupy: Callable[[], Any] = import_cupy,
    environment: Mapping[str, str] | None = None,
) -> Findings:
    """Looks at what there is; imports CuPy if it is installed, and makes no context.

    Args:
        load_driver: Returns the driver's library, or raises OSError.
        installed: Returns the installed distributions, by their normalised names.
        load_cupy: Imports CuPy.
        environment: The variables; None for those of the process.
    """
    packages = installed()
    several = {name: version for name, version in packages.items() if _CUPY.fullmatch(name)}
    known: dict[str, Any] = {
        "driver": drivers.ask(load_driver),
        "distributions": dict(sorted(several.items())),
        "visible": (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES"),
        "nvrtc": next((packages[name] for name in NVRTC_WHEELS if name in packages), None),
    }
    if len(several) > 1:
        # What would be imported is a mixture of their files.
        return Findings(**known)
    try:
        cupy = load_cupy()
        known["cupy"] = str(cupy.__version__)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "cupy" and not several
        return Findings(**known, cupy_trouble="" if absent else _in_words(error))
    try:
        known["nvrtc"] = ".".join(str(part) for part in cupy.cuda.nvrtc.getVersion())
    except Exception as error:
        return Findings(**{**known, "nvrtc": None}, nvrtc_trouble=_in_words(error))
    return Findings(**known)


def require(findings: Findings | None = None) -> Findings:
    """Makes sure that work on a GPU is possible.

    Args:
        findings: What was found; None to look.

    Raises:
        ConfigError: It is not; the message says what is in the way first, and what to do.
    """
    findings = look() if findings is None else findings
    if findings.problems:
        first = findings.problems[0]
        raise ConfigError(f"no work on a GPU is possible: {first.what}. {first.remedy}")
    return findings


def _in_words(error: Exception) -> str:
    """The first line of an error: CuPy's go on with advice for CuPy's own extras."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.strip("=-* ")), type(error).__name__)
