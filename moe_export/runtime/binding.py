"""Runs of a graph on arrays that stay where they are: nothing is copied in or out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moe_export.errors import MemoryBudgetError, UsageError
from moe_export.forms import Array
from moe_export.manifest import TensorInfo
from moe_export.runtime.cancel import Cancellation, Cancelled
from moe_export.runtime.resident import in_use

if TYPE_CHECKING:
    import onnxruntime


class Binding:
    """What one run after the other reads and writes, by the graph's names.

    Arrays are read and written where they lie, and are kept until others take their places.  One
    binding belongs to one thread.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._infos = {info.name: info for info in (*inputs, *outputs)}
        self._given: dict[str, Array] = {}
        self._taken: dict[str, Array] = {}
        self._held: dict[str, _Held] = {}
        self._room = 0

    def give(self, name: str, array: Array) -> None:
        """``array`` as an input; one that is not dense in C order is copied."""
        array = np.asarray(array, order="C")
        self._check(name, array)
        self._binding.bind_cpu_input(name, array)  # where it lies, and without a device to look up
        self._given[name] = array

    def take(self, name: str, array: Array) -> None:
        """``array``, dense and of the output's own shape, as the place that it is written to.

        Raises ``UsageError`` for an array that cannot be it; a wrong shape shows when it runs.
        """
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise UsageError(f"output {name!r} cannot be written to an array that is not dense")
        self._check(name, array)
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._taken[name] = array

    def hold(self, given: str, taken: str, rows: Array) -> None:
        """``rows``, dense: ``grow`` says how many of them an input is, and how many an output.

        Raises ``UsageError`` for an array that cannot be both.
        """
        self.take(taken, rows)
        self._check(given, rows)
        self._held[given] = _Held(taken, rows.ctypes.data, rows.dtype.type, rows.shape[1:])
        self._given[given] = rows
        self._room = min(len(self._given[name]) for name in self._held)

    def grow(self, before: int, after: int) -> None:
        """Give the first ``before`` of all rows that are held, and take the first ``after``.

        Raises ``UsageError`` where there are not so many.
        """
        if self._held and not 0 <= before <= after <= self._room:
            raise UsageError(f"{before} rows cannot become {after} where {self._room} are held")
        # Once for each cache and token, when nothing of it is in the CPU's own caches: addresses
        # are known, and no view is made.
        give, take = self._binding.bind_input, self._binding.bind_output
        for name, (taken, address, dtype, sizes) in self._held.items():
            give(name, "cpu", 0, dtype, (before, *sizes), address)
            take(taken, "cpu", 0, dtype, (after, *sizes), address)

    def run(self, cancel: Cancellation | None = None) -> None:
        """Fill what was taken from what was given; errors as ``Session.run`` has them."""
        options = None if cancel is None else cancel.run_options()
        with in_use(), running(self._given, cancel):
            self._session.run_with_iobinding(self._binding, options)

    def _check(self, name: str, array: Array) -> None:
        info = self._infos.get(name)
        if info is None:
            raise UsageError(f"the graph has no {name!r}")
        if name_of(array.dtype) != info.dtype or array.ndim != len(info.shape):
            raise UsageError(f"got {array.dtype} {list(array.shape)}, expected {info}")


class _Held(NamedTuple):
    """Where the rows of an input lie, and the output that begins with them."""

    taken: str
    address: int
    dtype: type[Any]
    sizes: tuple[int, ...]
    """Of a row."""


@cache
def name_of(dtype: np.dtype[Any]) -> str:
    """NumPy's name of a type, which it puts together anew at each question."""
    return dtype.name


@contextmanager
def running(inputs: Mapping[str, Array], cancel: Cancellation | None = None) -> Iterator[None]:
    """What ONNX Runtime says of values that it cannot run on, as this package's errors.

    ``Cancelled`` for whatever it says once ``cancel`` is cancelled.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        yield
    # The last is what it makes of each of them where arrays are bound.
    except (errors.InvalidArgument, errors.RuntimeException, errors.Fail, RuntimeError) as error:
        if cancel is not None and cancel.is_cancelled:
            raise Cancelled from error
        message = first_line(error)
        if is_out_of_memory(error):
            raise MemoryBudgetError(f"the run does not fit into memory: {message}") from error
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
        raise UsageError(
            f"the model cannot run on these values: {message}",
            where=f"inputs {shapes}",
            hint="indices such as token ids must lie in the model's range",
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime found no memory."""
    return "bad allocation" in str(error) or "Failed to allocate memory" in str(error)


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says in short."""
    return str(error).strip().partition("\n")[0][:400]
