"""PTX text to :class:`~tools.ptx.forms.Module`.

A directive, a type or an operand that is not known stops the reading with its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from .forms import (
    Address,
    Immediate,
    Instruction,
    Kernel,
    Kind,
    Label,
    Module,
    Not,
    Operand,
    Pair,
    Parameter,
    PtxError,
    Register,
    Sink,
    Special,
    Symbol,
    Variable,
    Vector,
)

TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<float>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16})
      | (?P<number>0[xX][0-9a-fA-F]+U?|\d+U?)
      | (?P<string>"[^"\n]*")
      | (?P<name>[.%$_A-Za-z][\w$]*(?:(?:\.|::)[\w$]+)*)
      | (?P<mark>[-{}\[\](),;:|!@+=<>])""",
    re.VERBOSE | re.DOTALL,
)
KINDS: dict[str, Kind] = {
    ".pred": "pred",
    **dict.fromkeys((".b8", ".u8", ".s8"), "b8"),
    **dict.fromkeys((".b16", ".u16", ".s16", ".f16", ".bf16"), "b16"),
    **dict.fromkeys((".b32", ".u32", ".s32", ".f32", ".f16x2", ".bf16x2"), "b32"),
    **dict.fromkeys((".b64", ".u64", ".s64", ".f64"), "b64"),
}
SIZES = {f".{letter}{bits}": bits // 8 for letter in "busf" for bits in (8, 16, 32, 64)}
SPECIALS = {"%laneid", "%warpid", "%nwarpid"} | {
    f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"
}


@dataclass(frozen=True)
class Token:
    """A word of the text, at its line and offset."""

    kind: str
    text: str
    line: int
    at: int


def read_module(text: str, file: str) -> Module:
    """The kernels of a PTX file; raises :class:`PtxError` where it is not understood."""
    return _Reader(text, file).module()


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.tokens = list(self._scan())
        self.next = 0
        self.scopes: list[dict[str, Register]] = []

    def _scan(self) -> list[Token]:
        tokens, at, line = [], 0, 1
        while at < len(self.text):
            match = TOKEN.match(self.text, at)
            if match is None:
                raise PtxError("not PTX", file=self.file, line=line, text=self._line_at(at))
            if match.lastgroup != "space":
                tokens.append(Token(str(match.lastgroup), match.group(), line, at))
            line += match.group().count("\n")
            at = match.end()
        return tokens

    def _line_at(self, at: int) -> str:
        end = self.text.find("\n", at)
        return self.text[self.text.rfind("\n", 0, at) + 1 : len(self.text) if end < 0 else end]

    # ---------------------------------------------------------------- tokens

    def peek(self) -> str:
        return self.tokens[self.next].text if self.next < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> Token:
        if self.next >= len(self.tokens):
            self.fail("ends too early")
        token = self.tokens[self.next]
        if expected is not None and token.text != expected:
            self.fail(f"{token.text!r} where {expected!r} should be")
        self.next += 1
        return token

    def fail(self, what: str) -> NoReturn:
        token = self.tokens[min(self.next, len(self.tokens) - 1)]
        raise PtxError(what, file=self.file, line=token.line, text=self._line_at(token.at))

    def skip_line(self) -> None:
        line = self.tokens[self.next].line
        while self.next < len(self.tokens) and self.tokens[self.next].line == line:
            self.next += 1

    def number(self) -> int:
        sign = -1 if self.peek() == "-" else 1
        if sign < 0:
            self.take()
        token = self.take()
        if token.kind == "float":
            return sign * int(token.text[2:], 16)
        if token.kind != "number":
            self.next -= 1
            self.fail(f"{token.text!r} where a number should be")
        return sign * int(token.text.rstrip("U"), 0)

    # ---------------------------------------------------------------- the module

    def module(self) -> Module:
        module = Module(file=self.file, target="", kernels=[], dynamic_shared=set(), constants=[])
        while self.next < len(self.tokens):
            word = self.peek()
            if word == ".target":
                self.take()
                module.target = self.peek()
                self.skip_line()
            elif word in (".version", ".address_size", ".file"):
                self.skip_line()
            elif word == ".section":
                self.section()
            elif word in (".visible", ".weak"):
                self.take()
            elif word == ".entry":
                module.kernels.append(self.kernel())
            elif word == ".extern":
                self.take()
                module.dynamic_shared.add(self.shared_variable().name)
            elif word in (".global", ".const"):
                self.take()
                module.constants.append(self.variable())
            else:
                self.fail(f"directive {word} is not known")
        return module

    def section(self) -> None:
        while self.take().text != "{":
            pass
        while self.take().text != "}":
            pass

    def shared_variable(self) -> Variable:
        self.take(".shared")
        return self.variable()

    def variable(self) -> Variable:
        alignment = 1
        if self.peek() == ".align":
            self.take()
            alignment = self.number()
        type_ = self.take().text
        if type_ not in SIZES:
            self.fail(f"variables of type {type_} are not known")
        name, count = self.take().text, 1
        if self.peek() == "[":
            self.take()
            count = 0 if self.peek() == "]" else self.number()
            self.take("]")
        data = self.initial(SIZES[type_], count) if self.peek() == "=" else None
        self.take(";")
        size = count * SIZES[type_]
        return Variable(name, size, max(alignment, SIZES[type_]), data)

    def initial(self, size: int, count: int) -> bytes:
        self.take("=")
        if self.peek() != "{":
            values = [self.number()]
        else:
            self.take()
            values = [self.number()]
            while self.peek() == ",":
                self.take()
                values.append(self.number())
            self.take("}")
        mask = (1 << 8 * size) - 1
        data = b"".join((v & mask).to_bytes(size, "little") for v in values)
        return data.ljust(size * count, b"\0")

    # ---------------------------------------------------------------- a kernel

    def kernel(self) -> Kernel:
        self.take(".entry")
        kernel = Kernel(name=self.take().text, parameters=self.parameters())
        while self.peek() != "{":
            self.kernel_directive(kernel)
        self.take("{")
        self.scopes = [{}]
        while self.scopes:
            self.statement(kernel)
        return kernel

    def kernel_directive(self, kernel: Kernel) -> None:
        word = self.take().text
        if word in (".reqntid", ".maxntid"):
            threads = self.number()
            while self.peek() == ",":
                self.take()
                threads *= self.number()
            kernel.max_threads, kernel.exact_threads = threads, word == ".reqntid"
        elif word in (".minnctapersm", ".maxnreg"):
            self.number()
        else:
            self.next -= 1
            self.fail(f"directive {word} is not known")

    def parameters(self) -> list[Parameter]:
        parameters: list[Parameter] = []
        offset = 0
        self.take("(")
        while self.peek() != ")":
            words = []
            while self.peek() not in (",", ")"):
                words.append(self.take().text)
            if words[0] != ".param" or words[1] not in SIZES:
                self.fail(f"parameter {' '.join(words)} is not known")
            size = SIZES[words[1]]
            offset = -(-offset // size) * size
            parameters.append(Parameter(words[-1], offset, size))
            offset += size
            if self.peek() == ",":
                self.take()
        self.take(")")
        return parameters

    def statement(self, kernel: Kernel) -> None:
        word = self.peek()
        if word in ("{", "}", ";"):
            self.take()
            if word == "{":
                self.scopes.append({})
            elif word == "}":
                self.scopes.pop()
        elif word.startswith("."):
            self.directive(kernel, word)
        elif self.tokens[self.next + 1].text == ":":
            self.label(kernel)
        else:
            kernel.body.append(self.instruction())

    def directive(self, kernel: Kernel, word: str) -> None:
        if word == ".reg":
            self.declare_registers(kernel)
        elif word == ".shared":
            kernel.shared.append(self.shared_variable())
        elif word == ".loc":
            self.skip_line()
        elif word == ".pragma":
            while self.take().text != ";":
                pass
        else:
            self.fail(f"directive {word} is not known")

    def label(self, kernel: Kernel) -> None:
        name = self.take().text
        self.take(":")
        if self.peek() != ".branchtargets":
            kernel.body.append(Label(name))
            return
        self.take()
        kernel.tables[name] = [self.take().text]
        while self.take().text == ",":
            kernel.tables[name].append(self.take().text)

    def declare_registers(self, kernel: Kernel) -> None:
        self.take(".reg")
        type_ = self.take().text
        if type_ not in KINDS:
            self.fail(f"registers of type {type_} are not known")
        kind = KINDS[type_]
        while True:
            name, names = self.take().text, []
            if self.peek() == "<":
                self.take()
                names = [f"{name}{i}" for i in range(self.number())]
                self.take(">")
            for each in names or [name]:
                self.scopes[-1][each] = Register(each, kind, kernel.registers[kind])
                kernel.registers[kind] += 1
            if self.take().text == ";":
                return

    # ---------------------------------------------------------------- an instruction

    def instruction(self) -> Instruction:
        start, guard = self.next, None
        if self.peek() == "@":
            self.take()
            negated = self.peek() == "!"
            if negated:
                self.take()
            register = self.operand()
            if not isinstance(register, Register) or register.kind != "pred":
                self.fail("a guard is a predicate")
            guard = Not(register) if negated else register
        opcode = self.take()
        if opcode.kind != "name" or opcode.text[0] in ".%$_":
            self.next -= 1
            self.fail(f"{opcode.text!r} where an instruction should be")
        operands: list[Operand] = []
        while self.peek() != ";":
            operands.append(self.operand())
            if self.peek() != ";":
                self.take(",")
        end = self.take(";")
        text = " ".join(self.text[self.tokens[start].at : end.at + 1].split())
        return Instruction(
            opcode=opcode.text, operands=tuple(operands), guard=guard, line=opcode.line, text=text
        )

    def operand(self) -> Operand:
        first = self.single_operand()
        if self.peek() != "|":
            return first
        self.take()
        return Pair(first, self.single_operand())

    def single_operand(self) -> Operand:
        word = self.peek()
        if word == "{":
            return self.vector()
        if word == "[":
            return self.address()
        if word == "!":
            self.take()
            register = self.operand()
            if not isinstance(register, Register):
                self.fail("only a predicate can be negated")
            return Not(register)
        if word == "-" or self.tokens[self.next].kind in ("number", "float"):
            return Immediate(self.number())
        return self.named(self.take().text)

    def named(self, name: str) -> Operand:
        if name == "_":
            return Sink()
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        if name in SPECIALS:
            return Special(name)
        if name.startswith("%"):
            self.next -= 1
            self.fail(f"register {name} is not known")
        return Symbol(name)

    def vector(self) -> Vector:
        self.take("{")
        items = [self.operand()]
        while self.peek() == ",":
            self.take()
            items.append(self.operand())
        self.take("}")
        return Vector(tuple(items))

    def address(self) -> Address:
        self.take("[")
        base = self.operand()
        if not isinstance(base, Register | Symbol):
            self.fail("an address begins with a register or a name")
        offset = 0
        if self.peek() in ("+", "-"):
            if self.peek() == "+":
                self.take()
            offset = self.number()
        self.take("]")
        return Address(base, offset)
