"""Programs over the C++ runtime as processes: ``driver.cc`` of its tests, told what to do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embed.building import PATH, built
from moe_export.errors import (
    MemoryBudgetError,
    MissingEnvironmentError,
    MoeExportError,
    ParityError,
    UnsafeInputError,
    UnsupportedError,
    UsageError,
)
from moe_export.runtime import kernels

KINDS: Mapping[int, type[MoeExportError]] = {
    kind.exit_code: kind
    for kind in (
        UsageError,
        UnsupportedError,
        ParityError,
        MissingEnvironmentError,
        MemoryBudgetError,
        UnsafeInputError,
    )
}


def environment(**more: str) -> dict[str, str]:
    """Of a program that runs with the ONNX Runtime and the kernels of these tests."""
    import onnxruntime

    return {
        **os.environ,
        "PATH": PATH,
        "MOE_EXPORT_ONNXRUNTIME": str(Path(onnxruntime.__file__).parent),
        "MOE_EXPORT_ORT_LIBRARY": str(kernels.library_path()),
        **more,
    }


class Driver:
    """A program under way, for a ``with`` block."""

    def __init__(self, program: Path | None = None, **variables: str) -> None:
        named = os.environ.get("MOE_EXPORT_DRIVER")  # one built with sanitizers
        self._process = subprocess.Popen(
            [program or named or built("moe_embed_driver")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**variables),
        )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        _, said = self._process.communicate()
        assert self._process.returncode == 0, said
        assert said == "", "a library says nothing on standard error"

    def ask(self, do: str, **said: Any) -> dict[str, Any]:
        """What came of it; raises the exception of the error's kind."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **said}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            _, words = self._process.communicate()
            raise AssertionError(f"the program ended ({self._process.returncode}): {words}")
        answer: dict[str, Any] = json.loads(line)
        error = answer.get("error")
        if error is None:
            return answer
        kind = KINDS.get(error["kind"])
        assert kind is not None, f"an internal error: {error}"
        raise kind(error["message"], where=error["where"] or None, hint=error["hint"] or None)

    def opened(self, bundle: Path, **said: Any) -> Driver:
        self.ask("open", path=str(bundle), **said)
        return self

    def answers(self, requests: Sequence[Mapping[str, Any]], **said: Any) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = self.ask("generate", requests=list(requests), **said)[
            "answers"
        ]
        return made

    def run(
        self, inputs: Mapping[str, np.ndarray], folder: Path, **said: Any
    ) -> dict[str, np.ndarray]:
        """The session's outputs; arrays go through files in ``folder``."""
        given = []
        for number, (name, array) in enumerate(inputs.items()):
            file = folder / f"{number}.bin"
            file.write_bytes(np.ascontiguousarray(array).tobytes())
            given.append(
                {
                    "name": name,
                    "dtype": array.dtype.name,
                    "shape": list(array.shape),
                    "file": str(file),
                }
            )
        out = folder / "out.bin"
        answer = self.ask("run", inputs=given, out=str(out), **said)
        content, made, place = out.read_bytes(), {}, 0
        for each in answer["outputs"]:
            dtype = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_}[each["dtype"]]
            part = content[place : place + each["bytes"]]
            made[each["name"]] = np.frombuffer(part, dtype).reshape(each["shape"])
            place += each["bytes"]
        return made
