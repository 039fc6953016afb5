"""Our headers of ONNX Runtime's C interface against the official one, compiled together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from house.pages import ROOT

HEADER = ROOT / "plugins/onnxruntime/ort_abi.h"
"""What custom ops use."""

RUNTIME_HEADER = ROOT / "plugins/runtime/session/ort_api.h"
"""What runs graphs."""

COMPILER = shutil.which("c++")


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """The folder of ``onnxruntime_c_api.h``."""
    command = [ROOT / "tools/onnxruntime-headers", tmp_path_factory.mktemp("headers")]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 5:
        pytest.skip(f"no official headers: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


def text_of(header: Path) -> str:
    """Ours, with the namespace that abi.cc knows."""
    return re.sub(
        r"namespace (moe::runtime::ort|ort_abi)\b", "namespace ort_abi", header.read_text()
    )


def checks(text: str) -> str:
    """One line of abi.cc's macros for every name that a header of ours declares."""
    lines = []
    for struct in ("OrtApi", "OrtCustomOp"):
        body = re.search(rf"^struct {struct} {{\n(.*?)^}};", text, re.MULTILINE | re.DOTALL)
        if body is None and struct == "OrtCustomOp":
            continue
        assert body is not None
        names = re.findall(r"^  [^(\n]*\(\*(\w+)\)\(", body[1], re.MULTILINE)
        lines += [f"SAME_MEMBER({struct}, {name})" for name in names]
        if struct == "OrtApi":
            lines.append(f"LAST_MEMBER({names[-1]})")
    for name in re.findall(r"\b(\w+) = \d+", text):
        kind = "KNOWN_VERSION" if name.endswith("ApiVersion") else "SAME_VALUE"
        lines.append(f"{kind}({name})")
    return "\n".join(lines)


def compile_both(official: Path, our_header: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    (folder / "ours.h").write_text(our_header)
    (folder / "members.inc").write_text(checks(our_header))
    source = Path(__file__).with_name("abi.cc")
    includes = [f"-I{folder}", f"-I{official}"]
    command = [COMPILER, "-std=c++17", "-fsyntax-only", *includes, str(source)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("header", "others"),
    [
        (HEADER, ["GetApi", "GetVersionString", "fn, an argument of ParallelFor"]),
        (RUNTIME_HEADER, ["GetApi", "GetVersionString"]),
    ],
    ids=["ops", "runs"],
)
def test_every_function_that_we_declare_is_compared(header, others):
    functions = header.read_text().count("(*")
    assert checks(text_of(header)).count("SAME_MEMBER") == functions - len(others)


@pytest.mark.parametrize("header", [HEADER, RUNTIME_HEADER], ids=["ops", "runs"])
def test_our_header_is_laid_out_as_the_official_one(official, tmp_path, header):
    result = compile_both(official, text_of(header), tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("gap_29[22]", "gap_29[21]"),
        ("TYPE_BFLOAT16 = 16", "TYPE_BFLOAT16 = 15"),
        ("size_t index, char* out, size_t* size", "size_t index, char* out"),
        ("int64_t* dims, size_t count", "int32_t* dims, size_t count"),
        ("  void (*KernelDestroy)(void* kernel);\n", ""),
    ],
)
def test_a_slip_in_our_header_is_found(official, tmp_path, right, wrong):
    text = text_of(HEADER)
    assert text.count(right) >= 1
    result = compile_both(official, text.replace(right, wrong, 1), tmp_path)
    assert result.returncode != 0
