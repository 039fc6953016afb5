"""C++ of single instructions: operands, constants and places, for the emitters to put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from .forms import (
    BITS,
    Address,
    Immediate,
    Instruction,
    Kernel,
    Kind,
    Not,
    Operand,
    PtxError,
    Register,
    Sink,
    Special,
    Symbol,
    Vector,
)

INTEGERS = {f"{sign}{bits}": bits for sign in "us" for bits in (8, 16, 32, 64)}
UNTYPED = {f"b{bits}": bits for bits in (8, 16, 32, 64)}
FLOATS = {"f16": "F16", "bf16": "BF16", "f16x2": "F16X2", "bf16x2": "BF16X2"}
FLOATS |= {"f32": "F32", "f64": "F64"}
FLOAT_BITS = {"f16": 16, "bf16": 16, "f16x2": 32, "bf16x2": 32, "f32": 32, "f64": 64}
WIDTHS = INTEGERS | UNTYPED | FLOAT_BITS
ARRAYS: dict[Kind, str] = {"pred": "p", "b8": "b", "b16": "h", "b32": "r", "b64": "d"}


class Writer:
    """Writes the calls of one kernel."""

    def __init__(self, kernel: Kernel, file: str, symbols: dict[str, int | str]) -> None:
        self.kernel, self.file = kernel, file
        # Offsets of shared variables, and C++ names of global ones.
        self.symbols = symbols
        self.parameters = {parameter.name: parameter for parameter in kernel.parameters}
        self.constants: dict[tuple[int, int], int] = {}
        self.sites: list[tuple[int, str]] = []
        self.lines: list[str] = []
        self.instruction: Instruction

    def refuse(self, what: str) -> NoReturn:
        at = self.instruction
        raise PtxError(what, file=self.file, line=at.line, text=at.text)

    def unknown(self) -> NoReturn:
        self.refuse(f"{self.instruction.opcode} is not known in this form")

    # ---------------------------------------------------------------- words of an opcode

    def split(self, flags: set[str]) -> tuple[list[str], set[str]]:
        """Types and flags behind the first word; refuses a flag that is none of ``flags``."""
        types, found = [], set()
        for word in self.instruction.words[1:]:
            if word in WIDTHS or word in ("pred", "tf32", "e4m3x2", "f16x2", "bf16x2"):
                types.append(word)
            elif word in flags:
                found.add(word)
            else:
                self.refuse(f".{word} is not known of {self.instruction.words[0]}")
        return types, found

    def operands(self, *counts: int) -> tuple[Operand, ...]:
        if len(self.instruction.operands) not in counts:
            self.refuse(f"{len(self.instruction.operands)} operands are not known of it")
        return self.instruction.operands

    # ---------------------------------------------------------------- C++

    def call(self, function: str, *arguments: str) -> None:
        self.lines.append(f"{function}({', '.join(arguments)});")

    def mask(self) -> str:
        guard = self.instruction.guard
        if guard is None:
            return "w.active"
        register = guard.register if isinstance(guard, Not) else guard
        negated = "true" if isinstance(guard, Not) else "false"
        return f"when(w, f.p[{register.index}], {negated})"

    def site(self) -> str:
        self.sites.append((self.instruction.line, self.instruction.text))
        return f"kSites[{len(self.sites) - 1}]"

    def constant(self, value: int, bits: int) -> str:
        value &= (1 << bits) - 1
        index = self.constants.setdefault((bits, value), len(self.constants))
        return f"k{index}.v"

    def as_type(self, expression: str, type_: str, *, const: bool) -> str:
        if type_.startswith("s"):
            qualifier = "const " if const else ""
            return f"reinterpret_cast<{qualifier}{type_}*>({expression})"
        return expression

    def register(self, operand: Operand, bits: int) -> Register:
        if not isinstance(operand, Register) or BITS.get(operand.kind) != bits:
            self.refuse(f"needs a register of {bits} bits")
        return operand

    def array(self, register: Register) -> str:
        return f"f.{ARRAYS[register.kind]}[{register.index}].v"

    def target(self, operand: Operand, type_: str) -> str:
        register = self.register(operand, WIDTHS[type_])
        return self.as_type(self.array(register), type_, const=False)

    def source(self, operand: Operand, type_: str) -> str:
        bits = WIDTHS[type_]
        if isinstance(operand, Immediate):
            return self.as_type(self.constant(operand.value, bits), type_, const=True)
        if isinstance(operand, Special):
            if bits != 32:
                self.refuse(f"{operand.name} has 32 bits")
            return self.special(operand.name)
        if isinstance(operand, Symbol):
            return self.symbol(operand.name, bits)
        register = self.register(operand, bits)
        return self.as_type(self.array(register), type_, const=True)

    def special(self, name: str) -> str:
        word, _, axis = name[1:].partition(".")
        return f"w.{word}.v" if not axis else f"w.{word}['{axis}' - 'x'].v"

    def symbol(self, name: str, bits: int) -> str:
        place = self.symbols.get(name)
        if not isinstance(place, int):
            self.refuse(f"the address of {name} is not known")
        return self.constant(place, bits)

    def predicate(self, operand: Operand) -> str:
        if not isinstance(operand, Register) or operand.kind != "pred":
            self.refuse("needs a predicate")
        return self.array(operand)

    def maybe_negated(self, operand: Operand) -> tuple[str, str]:
        """A predicate, and whether it is negated, as C++."""
        if isinstance(operand, Not):
            return self.predicate(operand.register), "true"
        return self.predicate(operand), "false"

    def vector(self, operand: Operand) -> list[Operand]:
        return list(operand.items) if isinstance(operand, Vector) else [operand]

    def pointers(self, name: str, operands: list[Operand], type_: str, *, target: bool) -> str:
        """An array of pointers to registers, and its name; null for ``_``."""
        each: Callable[[Operand, str], str] = self.target if target else self.source
        items = ["nullptr" if isinstance(o, Sink) else each(o, type_) for o in operands]
        element = f"u{WIDTHS[type_]}"
        qualifier = "" if target else "const "
        self.lines.append(f"{qualifier}{element}* const {name}[] = {{{', '.join(items)}}};")
        return name

    def address(self, operand: Operand, bits: int) -> tuple[str, str]:
        """The lanes of an address's base, and its offset, as C++."""
        if not isinstance(operand, Address):
            self.refuse("needs an address")
        return self.source(operand.base, f"u{bits}"), str(operand.offset)

    def members(self, operand: Operand) -> str:
        return self.source(operand, "b32")
