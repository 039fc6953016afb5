"""Turns of whole models: each contender in a process of its own, round after round."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model_contenders import Contender
from model_job import Job
from model_process import Finished, last_json, reason, run
from model_sizes import Prompt, Sizes

_TOOLS = Path(__file__).parent
_READY = "ready.json"
_JOB = "job.json"


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """A B A B …, every other round backwards."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def directory(sizes: Sizes, prompt: Prompt, cache: Path, say: Callable[[str], None]) -> Path:
    """The model of ``sizes`` in ``cache``, made where it is not there yet."""
    folder = cache / "models" / sizes.name
    if (folder / "prompt.json").exists():
        return folder
    say(f"making a model of {sizes.parameters / 1e9:.2f} B parameters")
    folder.mkdir(parents=True, exist_ok=True)
    side, tokens = prompt
    facts = {"sizes": asdict(sizes), "folder": str(folder), "side": side, "tokens": tokens}
    # In a process of its own: what starts contenders stays small.
    command = [sys.executable, str(_TOOLS / "model_directory.py"), json.dumps(facts)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@dataclass(frozen=True)
class Stage:
    """Where all contenders run."""

    model: Path
    made: Path
    peers: Path
    threads: int
    cores: tuple[int, ...]
    new_tokens: int
    limit: float
    """Seconds for each step of a contender."""

    say: Callable[[str], None]
    keep: bool = False
    """What older code made is good enough, and bundles that were put there by hand are."""

    def job(self, contender: Contender) -> Job:
        return Job(
            model=self.model,
            made=self.made / contender.folder,
            peers=self.peers,
            precision=contender.precision,
            new_tokens=self.new_tokens,
            threads=self.threads,
            options=contender.options,
        )

    def prepare(self, contender: Contender) -> str | None:
        """Make the contender's files, once for the same code; the reason where that fails."""
        folder = self.made / contender.folder
        stamp = {"options": contender.options, "sources": _sources(contender)}
        ready = folder / _READY
        if self.keep and contender.is_ours and not ready.exists() and self._made(contender):
            return None
        if ready.exists():
            made_of = json.loads(ready.read_text())["stamp"]
            if made_of == stamp or (self.keep and made_of["options"] == contender.options):
                return None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.say(f"preparing {contender.label}")
        done = self._child(contender, "prepare", first=False)
        why = _failure(done)
        if why is not None:
            shutil.rmtree(folder)
            return why
        cost = {"cpu_seconds": done.cpu_seconds, "peak_mib": done.peak_mib}
        ready.write_text(json.dumps({"stamp": stamp, "cost": cost}, indent=1) + "\n")
        return None

    def measure(self, contender: Contender) -> dict[str, Any] | str:
        """One turn; the reason where it fails."""
        for path in self.files(contender):
            _read(path)
        done = self._child(contender, "run", first=True)
        why = _failure(done)
        if why is not None:
            return why
        return last_json(done.output) or {}

    def files(self, contender: Contender) -> list[Path]:
        """What the contender reads to run."""
        return self._made(contender) or sorted(self.model.glob("*.safetensors"))

    def _made(self, contender: Contender) -> list[Path]:
        folder = self.made / contender.folder
        return [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.name not in (_READY, _JOB)
            # A bundle that is being written has a hidden name.
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]

    def cost(self, contender: Contender) -> dict[str, float] | None:
        """CPU seconds and peak memory of making the files; none where another made them."""
        ready = self.made / contender.folder / _READY
        if not ready.exists():
            return None
        found: dict[str, Any] = json.loads(ready.read_text())
        return dict(found["cost"])

    def _child(self, contender: Contender, step: str, *, first: bool) -> Finished:
        folder = self.made / contender.folder
        job = folder / _JOB
        job.write_text(json.dumps(self.job(contender).facts(), indent=1) + "\n")
        own = contender.is_ours
        python = sys.executable if own else self.peers / "venv" / "bin" / "python"
        paths = [str(our_package().parent), str(_TOOLS)] if own else [str(_TOOLS)]
        environment = {
            "PYTHONPATH": ":".join(paths),
            "OMP_NUM_THREADS": str(self.threads),
            "HF_HUB_OFFLINE": "1",
        }
        if not Path(python).exists():
            return Finished(1, "", f"there is no {python}; --set-up makes it", 0.0, 0.0)
        command = [python, _TOOLS / "model_child.py", contender.engine, step, job]
        return run(
            command, cores=self.cores, environment=environment, first=first, limit=self.limit
        )


def _failure(done: Finished) -> str | None:
    answer = last_json(done.output)
    if done.code or answer is None:
        return reason(done)
    return answer.get("not_run")


def _sources(contender: Contender) -> str:
    """A digest of the code that makes a contender's files."""
    paths = [_TOOLS / f"{contender.engine}.py"]
    if contender.is_ours:
        package = our_package()
        paths = [*sorted(package.rglob("*.py")), *sorted(package.rglob("*.onnxtxt"))]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def our_package() -> Path:
    """Where moe-export comes from: the environment's, which may not lie beside these tools."""
    found = importlib.util.find_spec("moe_export")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("moe_export is not installed here")
    return Path(found.origin).parent


def _read(path: Path) -> None:
    """Into the page cache: loading is measured warm."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
