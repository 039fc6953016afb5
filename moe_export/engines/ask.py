"""Asking TensorRT for an engine: start the child, bound it, and put its answer in our words."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moe_export.engines import child
from moe_export.engines.flavours import Flavour, environment
from moe_export.errors import MissingEnvironmentError, MoeExportError, UnsupportedError
from moe_export.manifest import Shapes

# A plan of 30 GB of weights takes minutes to write; what takes longer than this hangs.
_TIMEOUT = 3 * 3600  # seconds


@dataclass(frozen=True, kw_only=True)
class Request:
    """One engine, as ``child.py`` wants it said."""

    component: str
    graph: Path
    plugins: tuple[Path, ...]
    layers: tuple[str, ...]
    embed: bool
    sm: int | None
    profiles: tuple[dict[str, Shapes], ...]
    output: Path

    def to_json(self, module: str) -> str:
        return json.dumps(
            {
                "module": module,
                "graph": str(self.graph),
                "plugins": [str(path) for path in self.plugins],
                "layers": self.layers,
                "embed": self.embed,
                "sm": self.sm,
                "profiles": self.profiles,
                "output": str(self.output),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An engine that lies at the request's output."""

    version: str
    bytes: int
    seconds: float
    plugins: tuple[str, ...]


def ask(flavour: Flavour, request: Request) -> Answer:
    """Build it.  Raises ``UnsupportedError`` or ``MissingEnvironmentError`` for what was said."""
    where = f"{request.component}, {flavour.title}" + (f", SM {request.sm}" if request.sm else "")
    answer = _run(flavour, request.to_json(flavour.module), where)
    if "error" in answer:
        raise _refused(answer["error"], where)
    return Answer(
        version=answer["version"],
        bytes=answer["bytes"],
        seconds=answer["seconds"],
        plugins=tuple(answer["plugins"]),
    )


@cache
def capabilities(flavour: Flavour) -> tuple[int, ...]:
    """The SMs that it builds engines for where their GPU is not."""
    answer = _run(flavour, json.dumps({"module": flavour.module}), flavour.title)
    return tuple(answer["sms"])


def _run(flavour: Flavour, request: str, where: str) -> dict[str, Any]:
    with environment(flavour) as variables:
        try:
            done = subprocess.run(
                [sys.executable, "-B", child.__file__],
                input=request,
                capture_output=True,
                text=True,
                env=variables,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnsupportedError(
                f"building the engine takes longer than {_TIMEOUT} s", where=where
            ) from error
    if done.returncode:
        raise _ended(done.returncode, done.stderr, where, flavour)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _refused(error: dict[str, Any], where: str) -> MoeExportError:
    kind, text, node = error["kind"], error["text"], error["node"]
    at = f"{where}, node {node}" if node else where
    if kind == "plugin":
        return UnsupportedError(f"an MoE op fell back: {text}", where=at)
    if "Plugin not found" in text:
        return MissingEnvironmentError(
            f"TensorRT finds no plugin for the node: {text}",
            where=at,
            hint="the plugin library is of another version than this moe-export",
        )
    verb = "cannot read the graph" if kind == "parse" else "cannot build the engine"
    return UnsupportedError(f"TensorRT {verb}: {text}", where=at)


def _ended(status: int, talk: str, where: str, flavour: Flavour) -> MissingEnvironmentError:
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    lines = [line for line in talk.splitlines() if line.strip()]
    last = "".join(c for c in lines[-1] if c.isprintable())[:300] if lines else "it said nothing"
    return MissingEnvironmentError(
        f"{flavour.title} ended {how}: {last}",
        where=where,
        hint="moe-export doctor tells what this machine can build",
    )
