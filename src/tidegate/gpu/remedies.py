"""What is in the way of work on a GPU, in the order to solve it, each with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tidegate.gpu.driver import LIBRARY, Driver

__all__ = ["Problem", "problems_of"]

# The CUDA majors that there are extras for, and the release of NVIDIA's driver that each needs.
_RELEASES = {12: 525, 13: 580}
# What CUDA 13 no longer compiles for is older than this.
_LEAST_CAPABILITY_OF_13 = (7, 5)
# As the extras have it.
_LEAST_CUPY = (14, 1)


@dataclass(frozen=True)
class Problem:
    """Something that is in the way.

    Attributes:
        what: What is wrong, without a full stop.
        remedy: What to do about it: whole sentences.
    """

    what: str
    remedy: str


def problems_of(
    driver: Driver | None,
    distributions: Mapping[str, str],
    *,
    cupy: str | None,
    cupy_trouble: str,
    nvrtc: str | None,
    nvrtc_trouble: str,
    visible: str | None,
) -> tuple[Problem, ...]:
    """What is in the way, the first to be solved first; see Findings for the arguments."""
    return (
        *_of_driver(driver, visible),
        *_of_cupy(driver, distributions, cupy, cupy_trouble),
        # Without CuPy it is not known which of several it would take.
        *_of_nvrtc(driver, distributions, nvrtc if cupy else None, nvrtc_trouble),
    )


def _of_driver(driver: Driver | None, visible: str | None) -> Iterator[Problem]:
    if driver is None:
        yield Problem(
            f"there is no NVIDIA driver: {LIBRARY} was not found",
            f"Install NVIDIA's driver, {_RELEASES[12]} or newer; give a container the GPU, as "
            "with `docker run --gpus all`.",
        )
    elif driver.trouble:
        yield Problem(
            f"NVIDIA's driver does not work: {driver.trouble}",
            "See what `nvidia-smi` says; after an update of the driver, restart the machine.",
        )
    elif driver.version is not None and driver.version[0] < min(_RELEASES):
        yield Problem(
            f"NVIDIA's driver is too old: it runs CUDA up to {_dotted(driver.version)}",
            f"Update it to {_RELEASES[12]} or newer.",
        )
    elif not driver.devices:
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        yield Problem(
            f"NVIDIA's driver finds no device{hidden}",
            "See what `nvidia-smi -L` lists, and that CUDA_VISIBLE_DEVICES does not hide it; give "
            "a container the GPU, as with `docker run --gpus all`.",
        )


def _of_cupy(
    driver: Driver | None, distributions: Mapping[str, str], cupy: str | None, trouble: str
) -> Iterator[Problem]:
    names = " ".join(distributions)
    again = f"`pip uninstall {names or 'cupy'}`, then {_install(driver)}"
    major = _major(distributions)
    if len(distributions) > 1:
        yield Problem(
            f"CuPy is installed {len(distributions)} times, and each overwrites the files of the "
            f"others: {', '.join(distributions)}",
            f"Keep one: {again}.",
        )
    elif trouble:
        yield Problem(f"CuPy does not import: {trouble}", f"Install it anew: {again}.")
    elif cupy is None:
        yield Problem("CuPy is not installed", f"Install it: {_install(driver)}.")
    elif _numbers(cupy) < _LEAST_CUPY:
        yield Problem(
            f"CuPy is too old: {cupy}, where {_dotted(_LEAST_CUPY)} is needed",
            f"Install a newer one: {again}.",
        )
    elif (
        driver is not None
        and driver.version is not None
        and major is not None
        and driver.version[0] >= min(_RELEASES)
        and major > driver.version[0]
    ):
        yield Problem(
            f"{names} is for CUDA {major}, and NVIDIA's driver runs CUDA up to "
            f"{_dotted(driver.version)}",
            f"Update the driver to {_RELEASES.get(major, _RELEASES[13])} or newer, or take the "
            f"other CuPy: {again}.",
        )


def _of_nvrtc(
    driver: Driver | None, distributions: Mapping[str, str], nvrtc: str | None, trouble: str
) -> Iterator[Problem]:
    runs = None if driver is None else driver.version
    if nvrtc is not None and runs is not None and min(_RELEASES) <= runs[0] < _numbers(nvrtc)[0]:
        # A driver runs what its own major's compilers make. CuPy takes the newest NVRTC it finds,
        # whichever CUDA it was itself built for.
        yield Problem(
            f"NVRTC {nvrtc} compiles for a newer CUDA than NVIDIA's driver runs, which is up to "
            f"{_dotted(runs)}",
            f"Update the driver to {_RELEASES[13]} or newer, or `pip uninstall nvidia-cuda-nvrtc`, "
            f"then {_install(driver)}.",
        )
    if trouble:
        major = _major(distributions)
        remedy = (
            f"`pip install 'tidegate[cuda{major}]'` brings it."
            if major in _RELEASES
            else "Install the CUDA toolkit that CuPy was built for."
        )
        yield Problem(f"CuPy finds no NVRTC, CUDA's compiler: {trouble}", remedy)


def _install(driver: Driver | None) -> str:
    """The command that installs the extra for a driver."""
    if driver is None or driver.version is None:
        return (
            "`pip install 'tidegate[cuda12]'`, or `'tidegate[cuda13]'` if the driver is "
            f"{_RELEASES[13]} or newer"
        )
    old = any(device.capability < _LEAST_CAPABILITY_OF_13 for device in driver.devices)
    major = 13 if driver.version >= (13, 0) and not old else 12
    return f"`pip install 'tidegate[cuda{major}]'`"


def _major(distributions: Mapping[str, str]) -> int | None:
    """The CUDA major of the one CuPy there is, where its name tells."""
    found = re.fullmatch(r"cupy-cuda(\d\d)\w*", " ".join(distributions))
    return int(found[1]) if found else None


def _numbers(version: str) -> tuple[int, int]:
    """The first two numbers of a version; one that has none is taken to be new."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else _LEAST_CUPY


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
