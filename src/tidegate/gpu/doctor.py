"""`tidegate doctor`: what was found for work on a GPU, and what to install."""

from __future__ import annotations

from collections.abc import Iterator

from tidegate.gpu.findings import Findings

__all__ = ["report"]

_CPU = "Work on the CPU needs none of this."


def report(findings: Findings) -> tuple[str, bool]:
    """What `tidegate doctor` prints.

    Args:
        findings: What was found.

    Returns:
        The lines, and whether all is well: work on a GPU is possible, or nothing of CUDA is there.
    """
    facts = list(_facts(findings))
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {value}" for name, value in facts]
    lines.append("")
    if not findings.problems:
        lines.append("Work on a GPU is possible. " + _CPU)
        return "\n".join(lines) + "\n", True
    if findings.nothing:
        lines.append(_CPU + " For work on a GPU:")
    else:
        lines.append("In the way of work on a GPU:")
    for number, problem in enumerate(findings.problems, 1):
        lines.append(f"{number}. {problem.what[0].upper()}{problem.what[1:]}.")
        lines.append(f"   {problem.remedy}")
    if not findings.nothing:
        lines += ["", _CPU]
    return "\n".join(lines) + "\n", findings.nothing


def _facts(findings: Findings) -> Iterator[tuple[str, str]]:
    driver = findings.driver
    if driver is None:
        yield "driver", "none"
    else:
        version = driver.version
        runs = "version unknown" if version is None else f"CUDA up to {version[0]}.{version[1]}"
        yield "driver", f"{runs}, does not work" if driver.trouble else runs
        for device in driver.devices:
            major, minor = device.capability
            yield f"device {device.index}", f"{device.name}, compute capability {major}.{minor}"
    if driver is None or not driver.devices:
        yield "devices", "none"
    if findings.visible is not None:
        yield "CUDA_VISIBLE_DEVICES", findings.visible or "(empty)"
    packages = ", ".join(f"{name} {at}" for name, at in findings.distributions.items())
    yield "packages", packages or "no CuPy"
    if findings.cupy is not None:
        yield "CuPy", findings.cupy
    elif len(findings.distributions) > 1:
        yield "CuPy", "not imported, since there are several"
    else:
        yield "CuPy", "does not import" if findings.cupy_trouble else "none"
    yield "NVRTC", findings.nvrtc or "none"
