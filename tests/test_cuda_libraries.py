"""The CUDA libraries that ONNX Runtime and PyTorch load exist in the environment; no GPU is needed to check that."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

DRIVER = re.compile(r"lib(cuda|nvidia-ml)\.so\.1")
"""Libraries of the NVIDIA driver, which no package contains."""

SYSTEM = re.compile(r"(lib(c|m|dl|rt|pthread|util|gcc_s|stdc\+\+)|ld-linux-x86-64)\.so\.\d+")

OPENED_LATER = ("libcudnn.so.9", "libcudnn_graph.so.9", "libcufft.so.12", "libnvrtc.so.13")
"""Libraries that ONNX Runtime's CUDA provider opens when an operator needs them."""

PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
TORCH = Path(torch.__file__).parent / "lib"

pytestmark = [
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="onnxruntime-gpu is installed on Linux x86_64"
    ),
    pytest.mark.skipif(not PROVIDER.is_file(), reason="this environment has ONNX Runtime for the CPU only"),
    pytest.mark.skipif(torch.version.cuda is None, reason="this environment has PyTorch for the CPU only"),
]


def needed(path: Path) -> list[str]:
    """Return the NEEDED entries of a 64-bit little-endian ELF file."""
    with path.open("rb") as file:
        header = file.read(64)
        assert header[:6] == b"\x7fELF\x02\x01", path
        (start,), (entry, count) = struct.unpack_from("<Q", header, 32), struct.unpack_from("<HH", header, 54)
        file.seek(start)
        table = file.read(entry * count)
        segments = [struct.unpack_from("<IIQQQQ", table, i * entry) for i in range(count)]
        # type 1: loaded (address, offset and size in the file); type 2: the dynamic section
        loaded = [(address, offset, size) for kind, _, offset, address, _, size in segments if kind == 1]
        ((offset, size),) = [(offset, size) for kind, _, offset, _, _, size in segments if kind == 2]
        file.seek(offset)
        entries = list(struct.iter_unpack("<qQ", file.read(size)))
        strings = next(value for tag, value in entries if tag == 5)
        place = next(at + strings - address for address, at, n in loaded if address <= strings < address + n)
        names = []
        for tag, value in entries:
            if tag == 1:
                file.seek(place + value)
                names.append(file.read(256).split(b"\0", 1)[0].decode())
    return names


@pytest.fixture(scope="module")
def installed() -> dict[str, Path]:
    """Return the shared libraries of the environment's packages by name."""
    spec = importlib.util.find_spec("nvidia")
    folders = [TORCH, PROVIDER.parent, *map(Path, (spec and spec.submodule_search_locations) or [])]
    return {file.name: file for folder in folders for file in folder.rglob("*.so*") if "include" not in file.parts}


def missing(roots: list[Path], installed: dict[str, Path]) -> dict[str, str]:
    """Return the libraries that are not installed, and the file that needs each; dependencies are followed."""
    absent, waiting, seen = {}, list(roots), set(roots)
    while waiting:
        file = waiting.pop()
        for name in needed(file):
            if name in installed and installed[name] not in seen:
                seen.add(installed[name])
                waiting.append(installed[name])
            elif name not in installed and not SYSTEM.fullmatch(name) and not DRIVER.fullmatch(name):
                absent[name] = file.name
    return absent


def test_needed_entries_are_read_from_the_file() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    text = subprocess.run(["readelf", "-d", str(PROVIDER)], capture_output=True, text=True, check=True).stdout
    assert needed(PROVIDER) == re.findall(r"\(NEEDED\).*\[(.*)\]", text)


def test_cuda_provider_of_onnx_runtime_finds_its_libraries(installed: dict[str, Path]) -> None:
    assert missing([PROVIDER], installed) == {}
    assert [name for name in OPENED_LATER if name not in installed] == []


def test_torch_finds_its_libraries(installed: dict[str, Path]) -> None:
    assert missing(sorted(TORCH.glob("*.so")), installed) == {}


def test_missing_library_is_found(installed: dict[str, Path]) -> None:
    rest = {name: path for name, path in installed.items() if name != "libcurand.so.10"}
    assert missing([PROVIDER], rest) == {"libcurand.so.10": PROVIDER.name}


def test_onnx_runtime_and_torch_are_built_for_the_same_cuda() -> None:
    assert onnxruntime.cuda_version.split(".")[0] == torch.version.cuda.split(".")[0]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build a driver that finds no GPU")
def test_provider_loads_with_a_driver_and_looks_for_devices(tmp_path: Path) -> None:
    source = tmp_path / "driver.c"
    # the only function of the driver that the provider links; it takes all others by name at run time
    source.write_text("int cuTensorMapEncodeTiled(void) { return 999; }\n")
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
    program = "from auditor.model.cuda_provider import describe_provider; print(*describe_provider(), sep='|')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    provider, reason = done.stdout.strip().split("|")
    assert provider == "CPUExecutionProvider"
    assert re.fullmatch(r"CUDA failure \d+: .*driver.*", reason)
