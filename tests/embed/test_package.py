"""What is installed, as programs find it: the CMake package, pkg-config, headers and symbols."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from embed.building import BUILD, ROOT, built
from embed.driver import KINDS, environment
from moe_export.runtime import Conversation

EXAMPLES = ROOT / "examples"
PROMPT = "what is on the table?"


def done(*command: object, **variables: str) -> str:
    """Standard output of a command that has to succeed."""
    words = [str(word) for word in command]
    env = {**environment(), **variables}
    ran = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert ran.returncode == 0, f"{words}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    """An installation, moved after it was made."""
    built("moe_embed_driver")
    done("cmake", "--build", BUILD, "--target", "moe_export", "moe_export_ort")
    first = tmp_path_factory.mktemp("install") / "first"
    done("cmake", "--install", BUILD, "--prefix", first, "--component", "embed")
    return Path(shutil.move(first, first.with_name("moved")))


@pytest.fixture(scope="module")
def cpp_ask(prefix, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cpp_embed")
    source, flags = EXAMPLES / "cpp_embed", "-Wall -Wextra -Wpedantic -Werror"
    found = f"-DCMAKE_PREFIX_PATH={prefix}"
    done("cmake", "-S", source, "-B", folder, "-G", "Ninja", found, f"-DCMAKE_CXX_FLAGS={flags}")
    done("cmake", "--build", folder)
    return folder / "ask"


@pytest.fixture(scope="module")
def c_ask(prefix, tmp_path_factory) -> Path:
    for tool in ("make", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"the example is built with {tool}, which is not here")
    folder = shutil.copytree(EXAMPLES / "c_embed", tmp_path_factory.mktemp("c") / "c_embed")
    variables = {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig"), "CFLAGS": "-Werror"}
    done("make", "-C", folder, **variables)
    return folder / "ask"


@pytest.mark.parametrize("language", ["cpp_ask", "c_ask"])
def test_an_example_answers_as_python_does(request, seeing, photos, language):
    program = request.getfixturevalue(language)
    talk = Conversation(seeing, threads=1)
    seen = [talk.see(photos[0])]
    tokens = list(talk.tokens(talk.encode(PROMPT, seen), seen))
    text = talk.tokenizer.decode(tokens, skip_special_tokens=True)
    words = [str(program), str(seeing.path), PROMPT, str(photos[0])]
    ran = subprocess.run(words, capture_output=True, env=environment(), check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == text.encode() + b"\n"


def test_the_installed_library_finds_the_installed_kernels(cpp_ask, telling):
    variables = environment()
    del variables["MOE_EXPORT_ORT_LIBRARY"]
    words = [str(cpp_ask), str(telling.path), "hi"]
    assert subprocess.run(words, env=variables, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("language", ["cpp_ask", "c_ask"])
def test_an_error_is_told_and_is_the_exit_status(request, language, telling, tmp_path):
    program = request.getfixturevalue(language)
    for bundle, status, words in (
        (tmp_path, 2, "error: not a bundle: it has no moe_export.json"),
        (shutil.copytree(telling.path, tmp_path / "bad"), 7, "not listed in the manifest"),
    ):
        (tmp_path / "bad" / "more").mkdir(parents=True, exist_ok=True)
        ran = subprocess.run(
            [program, bundle, "hi"],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        assert ran.returncode == status
        assert words in ran.stderr
        assert "hint: " in ran.stderr


def test_a_program_that_wants_another_release_is_told(prefix, tmp_path):
    for version, fits in (("0.1", True), ("0.2", False), ("1", False)):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.20)\nproject(p LANGUAGES CXX)\n"
            f"find_package(moe_export {version} REQUIRED)\n"
        )
        words = ["cmake", "-S", folder, "-B", folder / "b", f"-DCMAKE_PREFIX_PATH={prefix}"]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (ran.returncode == 0) == fits, ran.stderr


def test_what_the_header_declares_is_exported_and_nothing_else(prefix):
    header = (prefix / "include" / "moe_export" / "moe_export.h").read_text()
    declared = set(re.findall(r"\b(moe_export_\w+)\(", header))
    declared.discard("moe_export_listener")
    library = prefix / "lib" / "libmoe_export.so"
    symbols = done("nm", "-D", "--defined-only", library).split("\n")
    assert {line.split()[-1] for line in symbols if line} == declared


def test_the_library_needs_nothing_of_cpp(prefix):
    needed = done("readelf", "-d", prefix / "lib" / "libmoe_export.so")
    names = set(re.findall(r"NEEDED.*\[(.*)\]", needed))
    assert not {name for name in names if re.match(r"libstdc|libgcc|libonnx|libpython", name)}


@pytest.mark.parametrize(
    ("compiler", "standard"), [("c++", "c++17"), ("c++", "c++20"), ("cc", "c99")]
)
def test_the_headers_compile_without_a_warning(prefix, tmp_path, compiler, standard):
    suffix, header = ("cc", "hpp") if compiler == "c++" else ("c", "h")
    source = tmp_path / f"source.{suffix}"
    source.write_text(
        f"#include <moe_export/moe_export.{header}>\nint main(void) {{ return 0; }}\n"
    )
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only"]
    done(compiler, f"-std={standard}", *flags, f"-I{prefix}/include", source)


def test_the_numbers_of_errors_are_the_exit_codes():
    header = (ROOT / "plugins/runtime/include/moe_export/moe_export.h").read_text()
    kinds = header.partition("typedef enum moe_export_kind")[2].partition("}")[0]
    numbers = {int(n): name for name, n in re.findall(r"MOE_EXPORT_(\w+) = (\d)", kinds)}
    assert {n: numbers[n] for n in KINDS} == {
        2: "USAGE",
        3: "UNSUPPORTED",
        4: "PARITY",
        5: "ENVIRONMENT",
        6: "MEMORY",
        7: "UNSAFE",
    }
