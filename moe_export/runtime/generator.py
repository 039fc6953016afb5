"""Questions in, answers out: what a service uses of a bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self, Unpack

from moe_export.dialogue import FILE_NAME as DIALOGUE
from moe_export.errors import UsageError
from moe_export.runtime.astream import AsyncStream
from moe_export.runtime.batch import answered
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.cached import Cached
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.converse import MAX_IMAGE_BYTES, Conversation
from moe_export.runtime.one_graph import OneGraph
from moe_export.runtime.options import Images, Options, Prompt, Request, Wishes
from moe_export.runtime.speaker import Ready, Speaker
from moe_export.runtime.speech import Answer, Speech
from moe_export.runtime.stream import Stream


class Generator:
    """A bundle that answers in text, of one graph or of several.

    ``image`` of a request is a file, an array of pixels, or a list of several; ``prompt`` is what
    a user says, or the ids of a whole prompt as the model takes it.  How the answer is chosen are
    the fields of ``Options`` as keywords; without any it is greedy.

    Threads may share a generator: each request has a cache of its own, and an answer is what it
    would be alone.  A bundle of several graphs begins a prompt behind what it has in common with
    the last text (``reuse_prefix``), looks at an image once (``max_image_bytes`` of features are
    kept), and has ``MemoryBudgetError`` for a prompt with an answer of more than
    ``max_cache_tokens``.  ``threads`` are those of one run (``None``: one for each core).
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        *,
        threads: int | None = None,
        max_cache_tokens: int | None = None,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        reuse_prefix: bool = True,
    ) -> None:
        self.bundle = Bundle.of(bundle)
        self._speaker: Speaker
        if DIALOGUE in self.bundle.manifest.assets:
            conversation = Conversation(
                self.bundle,
                threads=threads,
                max_cache_tokens=max_cache_tokens,
                max_image_bytes=max_image_bytes,
            )
            self._speaker = Cached(conversation, reuse_prefix=reuse_prefix)
        elif max_cache_tokens is not None:
            raise UsageError("the bundle answers without a cache", where=str(self.bundle.path))
        else:
            self._speaker = OneGraph(self.bundle, threads=threads)
        self.tokenizer = self._speaker.tokenizer

    def generate(
        self, image: Images = None, prompt: Prompt = "", **options: Unpack[Wishes]
    ) -> Answer:
        """The whole answer."""
        with self.stream(image, prompt, **options) as pieces:
            for _ in pieces:
                pass
            return pieces.answer

    def stream(
        self, image: Images = None, prompt: Prompt = "", **options: Unpack[Wishes]
    ) -> Stream:
        """The same answer piece by piece.  The request is checked now, and runs with the first."""
        return self._stream(Request(image=image, prompt=prompt, options=Options(**options)))

    def generate_batch(
        self,
        requests: Sequence[Request],
        *,
        batch_size: int = 16,
        cancel: Cancellation | None = None,
    ) -> list[Answer]:
        """An answer to each request, ``batch_size`` of them side by side.

        All are checked before any runs.  Of several graphs, prompts run one by one and the later
        tokens of a batch together; of one, all rows run together.  ``cancel``, cancelled in another
        thread, ends those under way as they are, and the others before they begin.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be 1 or more, got {batch_size}")
        cancel, made = cancel or Cancellation(), list[Answer]()
        ready = [self._speaker.ready(each.image, each.prompt) for each in requests]
        for start in range(0, len(requests), batch_size):
            rows = slice(start, start + batch_size)
            speeches = [
                self._speech(each, request.options)
                for each, request in zip(ready[rows], requests[rows], strict=True)
            ]
            made += answered(self._speaker.begin(ready[rows]), speeches, cancel)
        return made

    def astream(
        self, image: Images = None, prompt: Prompt = "", **options: Unpack[Wishes]
    ) -> AsyncStream:
        """The answer piece by piece, for ``async for``."""
        request = Request(image=image, prompt=prompt, options=Options(**options))
        return AsyncStream(lambda: self._stream(request))

    async def agenerate(
        self, image: Images = None, prompt: Prompt = "", **options: Unpack[Wishes]
    ) -> Answer:
        """The whole answer; cancelling the task ends the work."""
        async with self.astream(image, prompt, **options) as pieces:
            async for _ in pieces:
                pass
            return pieces.answer

    def close(self) -> None:
        """Free the model's memory once the runs under way have ended.  Closing twice is fine."""
        self._speaker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(self, request: Request) -> Stream:
        ready = self._speaker.ready(request.image, request.prompt)
        return Stream(self._speaker.begin([ready]), self._speech(ready, request.options))

    def _speech(self, ready: Ready, options: Options) -> Speech:
        speaker = self._speaker
        limit = options.max_new_tokens or speaker.max_new_tokens
        return Speech(
            speaker.tokenizer,
            options,
            prompt=ready.ids,
            limit=min(limit, speaker.max_length - len(ready.ids)),
            ends=speaker.ends,
        )
