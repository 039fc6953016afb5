"""A wish that work ends, made in any thread, and heard in the middle of a run."""

from __future__ import annotations

import threading
from typing import Any


class Cancelled(Exception):  # noqa: N818 - not an error: somebody wanted it
    """Work ended because somebody wished it to."""


class Cancellation:
    """Whether the work that holds it is to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wished = False
        self._run_options: Any = None

    @property
    def wished(self) -> bool:
        return self._wished

    def wish(self) -> None:
        """End the work: ONNX Runtime ends a run under way at its next node."""
        with self._lock:
            self._wished = True
            if self._run_options is not None:
                self._run_options.terminate = True

    def run_options(self) -> Any:
        """ONNX Runtime's options of a run that ends when it is wished."""
        import onnxruntime

        with self._lock:
            if self._run_options is None:
                self._run_options = onnxruntime.RunOptions()
                self._run_options.log_severity_level = 4  # the wish is no error to print
                self._run_options.terminate = self._wished
            return self._run_options

    def check(self) -> None:
        """Raise ``Cancelled`` where it was wished."""
        if self._wished:
            raise Cancelled
