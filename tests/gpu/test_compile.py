"""NVRTC compiles kernels.cu for every architecture of both CUDA majors, to what it should be."""

from __future__ import annotations

import re
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gpu import nvrtc
from tests.gpu.nvrtc import Compiled, CompileError, Nvrtc
from tidegate.gpu import kernels

WHEELS = {12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc"}
WITHOUT_SPILLS = {75, 80, 86, 89, 90, 100}
EM_CUDA = 190  # the machine in the header of an ELF file
NO_FRAME = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"


@pytest.fixture(scope="module", params=WHEELS, ids=lambda major: f"cuda{major}")
def compiler(request: pytest.FixtureRequest) -> Nvrtc:
    major: int = request.param
    library = nvrtc.find(major)
    if library is None:
        pytest.skip(
            f"needs NVRTC of CUDA {major}: pip install {WHEELS[major]}, or set {nvrtc.FOLDERS} "
            "to the folder that it was installed to with --target"
        )
    found = Nvrtc(library)
    assert found.version[0] == major
    return found


@pytest.fixture(scope="module")
def ptx(compiler: Nvrtc) -> dict[str, str]:
    """The PTX of each kernel, for an architecture of both majors."""
    text = compiler.compile(kernels.source(), "compute_80", *kernels.OPTIONS).output.decode()
    _, *entries = re.split(r"^\s*(?:\.visible )?\.entry (?=\w+\()", text, flags=re.MULTILINE)
    return {re.match(r"\w+", entry)[0]: entry for entry in entries}  # type: ignore[index]


def test_it_compiles_for_every_architecture_without_spilling(compiler: Nvrtc) -> None:
    architectures = compiler.architectures()
    assert {75, 80, 86, 89, 90} <= set(architectures)

    def compiled(architecture: int) -> Compiled:
        options = (*kernels.OPTIONS, "--ptxas-options=-v")
        return compiler.compile(kernels.source(), f"sm_{architecture}", *options)

    with ThreadPoolExecutor(2) as workers:
        made = zip(architectures, workers.map(compiled, architectures), strict=True)
        for architecture, one in made:
            assert one.output[:4] == b"\x7fELF"
            assert struct.unpack_from("<H", one.output, 18)[0] == EM_CUDA
            assert all(name.encode() in one.output for name in kernels.KERNELS)
            frames = re.findall(r"\d+ bytes stack frame.*", one.log)
            assert len(frames) == len(kernels.KERNELS)
            # For other devices one kernel spills one or two words with some compilers.
            wanted = NO_FRAME if architecture in WITHOUT_SPILLS else r"[08] bytes stack frame.*"
            assert all(re.fullmatch(wanted, frame) for frame in frames)


def test_what_a_compiler_with_headers_would_take_is_refused(compiler: Nvrtc) -> None:
    text = kernels.source() + "\n__device__ float endless() { return INFINITY; }\n"
    with pytest.raises(CompileError, match="INFINITY"):
        compiler.compile(text, "compute_80", *kernels.OPTIONS)


def test_every_kernel_of_the_list_is_there_and_no_other(ptx: dict[str, str]) -> None:
    assert set(ptx) == set(kernels.KERNELS)


STORE = r"st\.global(\.wb)?\.v4"
VECTORS = {
    # kernel: loads and stores that it must have
    "u8_affine_f32": (r"ld\.global\.nc\.u32", STORE),
    "u8_affine_f16": (r"ld\.global\.nc\.v2\.u32", STORE),
    "u8_affine_bf16": (r"ld\.global\.nc\.v2\.u32", STORE),
    "u8_hwc3_chw_f32": (r"ld\.global\.nc\.u32", STORE),
    "u8_hwc3_chw_f16": (r"ld\.global\.nc\.v2\.u32", STORE),
    "u8_hwc3_chw_bf16": (r"ld\.global\.nc\.v2\.u32", STORE),
    "pad_v16": (r"ld\.global\.nc\.v4", STORE),
    "unpad_v16": (r"ld\.global\.nc\.v4", STORE),
    "segment_mean_v4": (r"ld\.global\.nc\.v4", STORE),
}


@pytest.mark.parametrize("kernel", VECTORS)
def test_sixteen_bytes_move_at_once(kernel: str, ptx: dict[str, str]) -> None:
    loads, stores = VECTORS[kernel]
    assert re.search(loads, ptx[kernel])
    assert re.search(stores, ptx[kernel])
    # The elements are stored in no other way.
    narrow = set(re.findall(r"st\.global\.(?!wb\.v4|v4)\w+", ptx[kernel]))
    assert narrow == ({"st.global.u8"} if kernel == "pad_v16" else set())  # its mask


def test_float16_is_rounded_by_the_device(ptx: dict[str, str]) -> None:
    assert "cvt.rn.f16.f32" in ptx["u8_affine_f16"]
    assert "fma.rn.f32" in ptx["u8_affine_f32"]
