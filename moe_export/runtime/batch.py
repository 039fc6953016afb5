"""Several answers at once: a token for each of them is one run."""

from __future__ import annotations

from collections.abc import Sequence

from moe_export.runtime.cancel import Cancellation, Cancelled
from moe_export.runtime.speaker import Decoding
from moe_export.runtime.speech import Answer, Speech


def answered(decoding: Decoding, speeches: Sequence[Speech], cancel: Cancellation) -> list[Answer]:
    """The answers, each the row of ``decoding`` at its place; one that has ended leaves the batch.

    Where ``cancel`` is cancelled, those under way end as they are.  Raises what a run raises.
    """
    under_way = list(speeches)
    try:
        while under_way:
            cancel.check()
            for speech, logits in zip(under_way, decoding.logits(cancel), strict=True):
                speech.take(logits)
            rows = [row for row, speech in enumerate(under_way) if speech.finish_reason is None]
            under_way = [under_way[row] for row in rows]
            if under_way:
                decoding.follow(rows, [speech.last for speech in under_way])
    except Cancelled:
        for speech in under_way:
            speech.cancel()
    finally:
        decoding.close()
    answers = zip(speeches, decoding.reused, strict=True)
    return [speech.answer(reused) for speech, reused in answers]
