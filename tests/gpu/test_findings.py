"""What is found for work on a GPU, and what is said of it: each state of a machine, without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from tidegate import cli
from tidegate.errors import ConfigError
from tidegate.gpu import doctor, driver, findings
from tidegate.gpu.driver import Device, Driver
from tidegate.gpu.findings import Findings

CUPY12 = {"cupy-cuda12x": "14.2.0", "nvidia-cuda-nvrtc-cu12": "12.9.86", "numpy": "2.2.0"}
CUPY13 = {"cupy-cuda13x": "14.2.0", "nvidia-cuda-nvrtc": "13.0.88", "numpy": "2.2.0"}
H200 = ("NVIDIA H200", 9, 0)
V100 = ("Tesla V100-SXM2-16GB", 7, 0)

Loader = Callable[[], Any]


class FakeDriver:
    """The functions of libcuda.so.1 that are called, and of these only which it may be asked."""

    def __init__(
        self, version: int = 13000, *devices: tuple[str, int, int], init: int = 0, count: int = 0
    ) -> None:
        self.version, self.devices = version, devices
        self.init, self.count = init, count
        self.started = False

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version[0] = self.version
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        self.started = self.init == 0
        return self.init

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        assert self.started
        count[0] = len(self.devices)
        return self.count

    def cuDeviceGet(self, handle: Any, index: int) -> int:  # noqa: N802
        handle[0] = 100 + index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, handle: Any) -> int:  # noqa: N802
        name.value = self.devices[handle.value - 100][0].encode()[: length - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> int:  # noqa: N802
        value[0] = self.devices[handle.value - 100][{75: 1, 76: 2}[attribute]]
        return 0

    def cuGetErrorName(self, result: int, name: Any) -> int:  # noqa: N802
        names = {3: b"CUDA_ERROR_NOT_INITIALIZED", 803: b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}
        if result not in names:
            return 1
        name[0] = names[result]
        return 0


def no_driver() -> Any:
    raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")


def no_cupy() -> Any:
    raise ModuleNotFoundError("No module named 'cupy'", name="cupy")


def cupy(version: str = "14.2.0", nvrtc: tuple[int, int] | Exception = (13, 0)) -> Loader:
    def get_version() -> tuple[int, int]:
        if isinstance(nvrtc, Exception):
            raise nvrtc
        return nvrtc

    compiler = SimpleNamespace(getVersion=get_version)
    return lambda: SimpleNamespace(__version__=version, cuda=SimpleNamespace(nvrtc=compiler))


def failing(error: Exception) -> Loader:
    def load() -> Any:
        raise error

    return load


def look(
    library: FakeDriver | None = None,
    packages: Mapping[str, str] | None = None,
    load_cupy: Loader = no_cupy,
    environment: Mapping[str, str] | None = None,
) -> Findings:
    return findings.look(
        load_driver=no_driver if library is None else lambda: library,
        installed=lambda: packages or {},
        load_cupy=load_cupy,
        environment=environment or {},
    )


def only_problem(found: Findings) -> str:
    (problem,) = found.problems
    with pytest.raises(ConfigError) as caught:
        findings.require(found)
    said = str(caught.value)
    assert said == f"no work on a GPU is possible: {problem.what}. {problem.remedy}"
    text, well = doctor.report(found)
    assert not well
    assert problem.remedy in text
    return said


def test_where_everything_is_there_nothing_is_in_the_way() -> None:
    found = look(FakeDriver(13000, H200, V100), CUPY12, cupy(nvrtc=(12, 9)))
    devices = (Device(0, "NVIDIA H200", (9, 0)), Device(1, "Tesla V100-SXM2-16GB", (7, 0)))
    assert found.driver == Driver((13, 0), devices)
    assert (found.cupy, found.nvrtc, found.problems) == ("14.2.0", "12.9", ())
    assert findings.require(found) is found
    assert doctor.report(found) == (
        "driver    CUDA up to 13.0\n"
        "device 0  NVIDIA H200, compute capability 9.0\n"
        "device 1  Tesla V100-SXM2-16GB, compute capability 7.0\n"
        "packages  cupy-cuda12x 14.2.0\n"
        "CuPy      14.2.0\n"
        "NVRTC     12.9\n"
        "\n"
        "Work on a GPU is possible. Work on the CPU needs none of this.\n",
        True,
    )


def test_a_machine_without_anything_of_cuda_is_well_and_work_on_a_gpu_refused() -> None:
    found = look()
    assert found.nothing
    text, well = doctor.report(found)
    assert well
    assert "Work on the CPU needs none of this. For work on a GPU:\n1. There is no NVIDIA" in text
    with pytest.raises(ConfigError, match=r"no NVIDIA driver: libcuda\.so\.1 was not found"):
        findings.require(found)


def test_a_wheel_of_nvrtc_alone_is_shown_and_no_half_installation() -> None:
    # PyTorch brings one.
    found = look(None, {"nvidia-cuda-nvrtc-cu12": "12.9.86"})
    assert (found.nvrtc, doctor.report(found)[1]) == ("12.9.86", True)


def test_cupy_without_a_driver_is_half_installed() -> None:
    said = only_problem(look(None, CUPY12, cupy(nvrtc=(12, 9))))
    assert "libcuda.so.1 was not found" in said
    assert "Install NVIDIA's driver, 525 or newer" in said


@pytest.mark.parametrize(
    ("version", "devices", "extra"),
    [
        (12000, [H200], "cuda12"),
        (12090, [H200], "cuda12"),
        (13000, [H200], "cuda13"),
        (13010, [H200], "cuda13"),
        (14000, [H200], "cuda13"),
        (13000, [H200, V100], "cuda12"),  # which CUDA 13 does not compile for
    ],
)
def test_without_cupy_the_extra_for_this_driver_is_named(
    version: int, devices: list[tuple[str, int, int]], extra: str
) -> None:
    said = only_problem(look(FakeDriver(version, *devices)))
    assert f"CuPy is not installed. Install it: `pip install 'tidegate[{extra}]'`." in said


def test_two_cupys_are_named_and_neither_is_imported() -> None:
    both = {**CUPY13, **CUPY12, "cupy-xarray": "0.1.4"}
    said = only_problem(look(FakeDriver(12080, H200), both, failing(AssertionError("imported"))))
    assert "installed 2 times" in said
    assert (
        "Keep one: `pip uninstall cupy-cuda12x cupy-cuda13x`, then "
        "`pip install 'tidegate[cuda12]'`." in said
    )


@pytest.mark.parametrize(
    ("packages", "remedy"),
    [
        (CUPY12, "`pip install 'tidegate[cuda12]'` brings it."),
        (CUPY13, "`pip install 'tidegate[cuda13]'` brings it."),
        ({"cupy": "14.2.0"}, "Install the CUDA toolkit that CuPy was built for."),
    ],
)
def test_without_nvrtc_the_extra_of_the_installed_cupy_is_named(
    packages: dict[str, str], remedy: str
) -> None:
    missing = RuntimeError("\n======\nFailure finding 'libnvrtc.so'\nmore of it")
    found = look(FakeDriver(13000, H200), packages, cupy(nvrtc=missing))
    assert found.nvrtc is None
    said = only_problem(found)
    assert f"CuPy finds no NVRTC, CUDA's compiler: Failure finding 'libnvrtc.so'. {remedy}" in said


def test_a_driver_without_a_device_says_which_it_was_told_to_show() -> None:
    hidden = FakeDriver(13000, H200, init=100)
    said = only_problem(look(hidden, CUPY13, cupy(), {"CUDA_VISIBLE_DEVICES": ""}))
    assert "NVIDIA's driver finds no device (CUDA_VISIBLE_DEVICES is '')." in said
    assert "finds no device." in only_problem(look(FakeDriver(13000), CUPY13, cupy()))


@pytest.mark.parametrize(
    ("library", "trouble"),
    [
        (FakeDriver(12080, init=803), "cuInit answered 803 (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)"),
        (FakeDriver(12080, init=999), "cuInit answered 999"),
        (FakeDriver(12080, count=3), "cuDeviceGetCount answered 3 (CUDA_ERROR_NOT_INITIALIZED)"),
    ],
)
def test_a_driver_that_does_not_start_says_why(library: FakeDriver, trouble: str) -> None:
    found = look(library, CUPY12, cupy(nvrtc=(12, 9)))
    assert found.driver == Driver((12, 8), trouble=trouble)
    assert f"NVIDIA's driver does not work: {trouble}. See what" in only_problem(found)
    assert "CUDA up to 12.8, does not work" in doctor.report(found)[0]


def test_a_library_that_is_no_driver_is_told_from_none() -> None:
    broken = driver.ask(failing(OSError("/lib/libcuda.so.1: invalid ELF header")))
    assert broken == Driver(trouble="/lib/libcuda.so.1: invalid ELF header")
    empty = driver.ask(lambda: SimpleNamespace())
    assert empty is not None
    assert "cuDriverGetVersion" in empty.trouble
    assert driver.ask(failing(RuntimeError())) == Driver(trouble="RuntimeError")


def test_a_driver_older_than_cuda_12_is_to_be_updated() -> None:
    said = only_problem(look(FakeDriver(11080, V100), CUPY12, cupy(nvrtc=(12, 9))))
    assert "too old: it runs CUDA up to 11.8. Update it to 525 or newer." in said


def test_a_cupy_newer_than_the_driver_is_refused_with_both_ways_out() -> None:
    said = only_problem(look(FakeDriver(12080, H200), CUPY13, cupy(nvrtc=(12, 8))))
    assert "cupy-cuda13x is for CUDA 13, and NVIDIA's driver runs CUDA up to 12.8" in said
    assert "Update the driver to 580 or newer" in said
    assert "`pip uninstall cupy-cuda13x`, then `pip install 'tidegate[cuda12]'`" in said


def test_an_nvrtc_newer_than_the_driver_is_refused_although_its_cupy_fits() -> None:
    # As in an environment with the wheels of both majors: CuPy takes the newer one.
    said = only_problem(look(FakeDriver(12080, H200), CUPY12, cupy(nvrtc=(13, 5))))
    assert "NVRTC 13.5 compiles for a newer CUDA than NVIDIA's driver runs, which is up to" in said
    assert "`pip uninstall nvidia-cuda-nvrtc`, then `pip install 'tidegate[cuda12]'`." in said
    newer_minor = look(FakeDriver(12020, H200), CUPY12, cupy(nvrtc=(12, 9)))
    assert newer_minor.problems == ()


def test_a_cupy_too_old_is_named_with_the_version_that_is_needed() -> None:
    packages = {"cupy-cuda11x": "13.6.0"}
    said = only_problem(look(FakeDriver(13000, H200), packages, cupy("13.6.0", (11, 8))))
    assert "CuPy is too old: 13.6.0, where 14.1 is needed" in said
    assert "`pip uninstall cupy-cuda11x`, then `pip install 'tidegate[cuda13]'`" in said


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so.12: cannot open"),
        ModuleNotFoundError("No module named 'cupy'", name="cupy"),
        RuntimeError("built for another NumPy"),
    ],
)
def test_an_installed_cupy_that_does_not_import_says_why(error: Exception) -> None:
    said = only_problem(look(FakeDriver(12080, H200), CUPY12, failing(error)))
    assert f"CuPy does not import: {error}. Install it anew" in said


def test_a_cupy_of_no_known_package_is_used_all_the_same() -> None:
    found = look(FakeDriver(13000, H200), {}, cupy())
    assert (found.cupy, found.problems) == ("14.2.0", ())
    assert not look(None, {}, cupy()).nothing


def test_what_is_solved_first_is_said_first() -> None:
    found = look(FakeDriver(13000), CUPY13, cupy("13.0.0", RuntimeError("none")))
    assert [problem.what.split(":")[0] for problem in found.problems] == [
        "NVIDIA's driver finds no device",
        "CuPy is too old",
        "CuPy finds no NVRTC, CUDA's compiler",
    ]
    lines = doctor.report(found)[0].splitlines()
    assert [line[:2] for line in lines if line[:1].isdigit()] == ["1.", "2.", "3."]


def test_the_installed_distributions_have_normalised_names() -> None:
    found = findings.distributions()
    assert "numpy" in found
    assert all(name == name.lower() and "_" not in name for name in found)


@pytest.mark.parametrize(("library", "code"), [(None, 0), (FakeDriver(13000, H200), cli.WRONG)])
def test_the_command_prints_the_report_and_ends_with_its_code(
    library: FakeDriver | None,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = look(library)
    monkeypatch.setattr(findings, "look", lambda: found)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().out == doctor.report(found)[0]


def test_the_command_runs_on_this_machine_whatever_it_has() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tidegate", "doctor"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode in (0, 1), ended.stderr) == (True, "")
    assert ended.stdout.startswith("driver")
    assert "Work on the CPU needs none of this." in ended.stdout


def test_importing_the_findings_imports_no_cupy() -> None:
    program = "import sys, tidegate.gpu.doctor; print('cupy' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "False\n"
