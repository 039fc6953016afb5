"""An answer that comes piece by piece, and may be ended at any time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Self

from moe_export.runtime.cancel import Cancellation, Cancelled
from moe_export.runtime.speaker import Decoding
from moe_export.runtime.speech import Answer, Speech


class Stream(Iterator[str]):
    """The pieces of one answer, each as soon as its letters are whole.

    A token is chosen when a piece is asked for.  ``close`` ends the answer where it is, ``cancel``
    does so from another thread and in the middle of a run; at the end of a ``with`` block it is
    closed.  The generator goes on from its cache only once it has ended or is closed.
    """

    def __init__(self, decoding: Decoding, speech: Speech) -> None:
        self._decoding, self._speech = decoding, speech
        self._cancel = Cancellation()
        self._lock = threading.Lock()
        self._has_begun = False

    @property
    def answer(self) -> Answer:
        """What there is of the answer; one that has not ended counts as cancelled."""
        return self._speech.answer(self._decoding.reused[0])

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        with self._lock:
            try:
                while self._speech.finish_reason is None:
                    piece = self._step()
                    if piece:
                        return piece
            except Cancelled:
                pass
            except BaseException:
                self._end()
                raise
            self._end()
        raise StopIteration

    def cancel(self) -> None:
        """End the answer soon, from any thread; whoever waits for a piece gets no more."""
        self._cancel.cancel()

    def close(self) -> None:
        """End the answer and let go of what it holds.  Closing twice is fine."""
        self.cancel()
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(self) -> str:
        """Run until the next token, and take it."""
        self._cancel.check()
        if self._has_begun:
            self._decoding.follow([0], [self._speech.last])
        self._has_begun = True
        piece = self._speech.take(self._decoding.logits(self._cancel)[0])
        if self._speech.finish_reason is not None:
            self._end()
        return piece

    def _end(self) -> None:
        self._speech.cancel()
        self._decoding.close()
