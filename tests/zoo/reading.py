"""The weights of a zoo block in one plain form, and the register of who reads which block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """The weights of one block, one expert after the other, and what stands beside the experts.

    ``gate``/``up [E,I,H]``, ``down [E,Hout,I]``.  ``to_router`` and ``to_experts`` make the rows
    that the two see from the block's tokens ``[T,H]``; ``beside`` is added to the routed sum.
    """

    router: Array
    down: Array
    up: Array | None = None
    gate: Array | None = None
    router_bias: Array | None = None
    up_bias: Array | None = None
    gate_bias: Array | None = None
    down_bias: Array | None = None
    correction_bias: Array | None = None
    expert_scale: Array | None = None
    to_router: Callable[[Array], Array] = lambda x: x
    to_experts: Callable[[Array], Array] = lambda x: x
    beside: Callable[[Array], Array] = lambda x: 0 * x


class Weights:
    """The state of a block by name; ``*`` stands for the expert's number or name."""

    def __init__(self, block: nn.Module) -> None:
        self._state = {name: t.double().numpy() for name, t in block.state_dict().items()}

    def __call__(self, pattern: str, names: Sequence[str] | None = None) -> Array:
        if "*" not in pattern:
            return self._state[pattern]
        keys = [pattern.replace("*", str(n)) for n in names or range(99)]
        return np.stack([self._state[key] for key in keys if key in self._state])

    def glu(self, gate: str, up: str, down: str) -> dict[str, Array]:
        return {"gate": self(gate), "up": self(up), "down": self(down)}

    def ffn(self, up: str, down: str, names: Sequence[str] | None = None) -> dict[str, Array]:
        found = {"up": self(f"{up}.weight", names), "down": self(f"{down}.weight", names)}
        if f"{up}.bias".replace("*", str((names or [0])[0])) in self._state:
            found["up_bias"] = self(f"{up}.bias", names)
            found["down_bias"] = self(f"{down}.bias", names)
        return found


Reader = Callable[[Weights], Reading]
_READERS: dict[str, Reader] = {}


def reads(*names: str) -> Callable[[Reader], Reader]:
    """Enter a function as the reader of the zoo blocks of these names."""

    def enter(reader: Reader) -> Reader:
        _READERS.update(dict.fromkeys(names, reader))
        return reader

    return enter


def read(name: str, block: nn.Module) -> Reading:
    """The weights of the zoo block called ``name``, in float64."""
    return _READERS[name](Weights(block))
