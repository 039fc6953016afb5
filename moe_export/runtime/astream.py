"""A stream for asyncio: its work runs in a thread, and ends with the task that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Self

from moe_export.errors import UsageError
from moe_export.runtime.speech import Answer
from moe_export.runtime.stream import Stream


class AsyncStream(AsyncIterator[str]):
    """The pieces of one answer, for ``async for``.

    The request is made ready with the first piece, in a thread as all of the work is: ONNX Runtime
    does not hold the interpreter while it runs.  Cancelling the task that waits for a piece ends
    the answer, in the middle of a run too; so does ``aclose``, and leaving an ``async with`` block.
    """

    def __init__(self, begin: Callable[[], Stream]) -> None:
        self._begin = begin
        self._stream: Stream | None = None
        self._is_closed = False

    @property
    def answer(self) -> Answer:
        """What there is of the answer; one that has not ended counts as cancelled."""
        if self._stream is None:
            raise UsageError("the answer has not begun")
        return self._stream.answer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._is_closed:
            raise StopAsyncIteration
        work = asyncio.get_running_loop().run_in_executor(None, self._next)
        try:
            piece = await asyncio.shield(work)
        except asyncio.CancelledError:
            await self._abandon(work)
            raise
        if piece is None:
            self._is_closed = True
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End the answer and let go of what it holds."""
        self._is_closed = True
        if self._stream is not None:
            await asyncio.to_thread(self._stream.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _next(self) -> str | None:
        """The next piece, in a thread; ``None`` at the end: no future can hold StopIteration."""
        if self._stream is None:
            self._stream = self._begin()
        if self._is_closed:
            self._stream.close()
        return next(self._stream, None)

    async def _abandon(self, work: asyncio.Future[str | None]) -> None:
        """End the work of a thread, and wait for the thread: it uses the generator until then."""
        self._is_closed = True
        if self._stream is not None:
            self._stream.cancel()
        await asyncio.wait([work])
        await self.aclose()
