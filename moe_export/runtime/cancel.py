"""Work that is ended from another thread, in the middle of a run too."""

from __future__ import annotations

import threading
from typing import Any


class Cancelled(Exception):  # noqa: N818 - not an error: somebody wanted it
    """Work ended because it was cancelled."""


class Cancellation:
    """Ends the work that was given it.  What is cancelled stays so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._run_options: Any = None

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def cancel(self) -> None:
        """End the work: ONNX Runtime ends a run under way at its next node."""
        with self._lock:
            self._is_cancelled = True
            if self._run_options is not None:
                self._run_options.terminate = True

    def run_options(self) -> Any:
        """ONNX Runtime's options of a run that ends when it is cancelled."""
        import onnxruntime

        with self._lock:
            if self._run_options is None:
                self._run_options = onnxruntime.RunOptions()
                self._run_options.log_severity_level = 4  # nobody made a mistake
                self._run_options.terminate = self._is_cancelled
            return self._run_options

    def check(self) -> None:
        """Raise ``Cancelled`` where it was cancelled."""
        if self._is_cancelled:
            raise Cancelled
