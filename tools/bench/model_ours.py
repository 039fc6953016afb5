"""moe-export: a bundle, and the public runtime that answers from it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from model_job import Job, Measured, NotRunError, measure

from moe_export.runtime import Conversation, Session
from moe_export.runtime.seen import Seen


def prepare(job: Job) -> None:
    """Export with the options' flags, as a person does."""
    # -P: the current folder may hold another moe_export than the installed one.
    command = [sys.executable, "-P", "-m", "moe_export.cli", "export", str(job.model)]
    command += ["-o", str(_bundle(job)), "--force", *job.options["flags"]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error")] or lines[-1:]
        raise NotRunError(f"export exits with {done.returncode}: {' '.join(errors)}")


def _bundle(job: Job) -> Path:
    return job.made / "model.moe"


class Ours:
    """A bundle's conversation."""

    def __init__(self, job: Job) -> None:
        self._bundle = _bundle(job)
        conversation = Conversation(self._bundle, threads=job.threads, max_image_bytes=0)
        self._conversation = conversation
        prompt = job.prompt()
        self._ids = prompt["input_ids"][0].tolist()
        recipe = conversation.dialogue.patches
        if recipe is None:
            raise NotRunError("the bundle does not say how images are taken")
        grids = prompt["image_grid_thw"]
        features = self._ids.count(recipe.token_id)
        self._image = Seen(
            inputs={"pixel_values": prompt["pixel_values"], "image_grid_thw": grids},
            text=recipe.token * features,
            features=features,
            grid=grids[0],
        )
        self._threads = job.threads
        self._vision: Session | None = None

    def answer(self, count: int) -> Iterator[int]:
        return self._conversation.tokens(self._ids, [self._image], max_new_tokens=count)

    def see(self) -> object:
        # Opened late: a second copy of the tower is no part of the peak.
        if self._vision is None:
            self._vision = Session(self._bundle, component="vision", threads=self._threads)
        return self._vision.run(self._image.inputs)


def run(job: Job) -> Measured:
    return measure(job, Ours)
