"""What a PTX module is made of once it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["pred", "b8", "b16", "b32", "b64"]
BITS: dict[Kind, int] = {"b8": 8, "b16": 16, "b32": 32, "b64": 64}


class PtxError(Exception):
    """PTX that the translator does not know, with its place and text."""

    def __init__(self, what: str, *, file: str, line: int, text: str) -> None:
        super().__init__(f"{file}:{line}: {what}\n  {text.strip()}")


@dataclass(frozen=True)
class Register:
    """``index`` counts the registers of its kind."""

    name: str
    kind: Kind
    index: int


@dataclass(frozen=True)
class Immediate:
    """Bits of a number; a negative integer is not yet cut to a width."""

    value: int


@dataclass(frozen=True)
class Special:
    """``%tid.x`` and its like."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """A name that is no register: a variable, a parameter, a label."""

    name: str


@dataclass(frozen=True)
class Sink:
    """``_``: nobody wants it."""


@dataclass(frozen=True)
class Vector:
    """Registers in braces."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Address:
    """Memory at a register or a variable, some bytes on."""

    base: Register | Symbol
    offset: int


@dataclass(frozen=True)
class Not:
    """A predicate the other way round."""

    register: Register


@dataclass(frozen=True)
class Pair:
    """``a|b``: two results."""

    first: Operand
    second: Operand


Operand = Register | Immediate | Special | Symbol | Sink | Vector | Address | Not | Pair


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line; ``guard`` is the predicate under which it runs."""

    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | Not | None
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        return self.opcode.split(".")


@dataclass(frozen=True)
class Label:
    """A place to branch to."""

    name: str


@dataclass(frozen=True)
class Parameter:
    """An argument of a kernel, at ``offset`` in the parameters' memory."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Variable:
    """Memory that a module or kernel declares; ``data`` for global constants."""

    name: str
    size: int
    alignment: int
    data: bytes | None = None


@dataclass(kw_only=True)
class Kernel:
    """What an ``.entry`` is; ``registers`` counts those of each kind."""

    name: str
    parameters: list[Parameter]
    max_threads: int = 0
    exact_threads: bool = False
    registers: dict[Kind, int] = field(
        default_factory=lambda: {"pred": 0, "b8": 0, "b16": 0, "b32": 0, "b64": 0}
    )
    body: list[Instruction | Label] = field(default_factory=list)
    shared: list[Variable] = field(default_factory=list)
    # Labels that an indexed branch chooses from, by the list's name.
    tables: dict[str, list[str]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Module:
    """What a file holds."""

    file: str
    target: str
    kernels: list[Kernel]
    dynamic_shared: set[str]
    constants: list[Variable]
