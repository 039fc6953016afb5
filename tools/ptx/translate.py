"""A PTX kernel as a C++ function that runs a warp from barrier to barrier."""

from __future__ import annotations

import json

from . import arithmetic, collectives, conversions, memory
from .flow import ENDS, Block, Flow, flow_of, is_barrier, is_branch, targets
from .forms import Instruction, Kernel, Module, Not, PtxError, Register
from .writer import Writer

EMITTERS = arithmetic.EMITTERS | conversions.EMITTERS | memory.EMITTERS | collectives.EMITTERS
SHARED_BASE = 1024  # kSharedBase of runtime/machine.h


def translate(module: Module, kernel: Kernel) -> str:
    """One translation unit; raises :class:`PtxError` where an instruction is not known."""
    symbols, shared = _places(module, kernel)
    writer = Writer(kernel, module.file, symbols)
    flow = flow_of(kernel, module.file)
    body: list[str] = []
    for number, block in enumerate(flow.blocks):
        body.append(f"      case {number}: {{")
        body += [f"        {line}" for line in _block(writer, block, number, flow)]
        body.append("      }")
    return "\n".join([*_head(writer), *body, *_tail(writer, shared)])


def _places(module: Module, kernel: Kernel) -> tuple[dict[str, int | str], int]:
    """Where shared variables lie, and the bytes of those whose size is known."""
    places: dict[str, int | str] = {}
    offset = 0
    for variable in kernel.shared:
        offset = -(-offset // variable.alignment) * variable.alignment
        places[variable.name] = SHARED_BASE + offset
        offset += variable.size
    offset = -(-offset // 16) * 16
    for name in module.dynamic_shared:
        places[name] = SHARED_BASE + offset
    return places, offset


def _block(writer: Writer, block: Block, number: int, flow: Flow) -> list[str]:
    lines: list[str] = []
    for instruction in block.instructions:
        writer.instruction, writer.lines = instruction, []
        if is_branch(instruction):
            return [*lines, *_branch(writer, number, flow)]
        if is_barrier(instruction):
            collectives.barrier(writer, number + 1)
            return [*lines, *writer.lines]
        if instruction.opcode in ENDS:
            return [*lines, *_end(writer, number, flow)]
        _emit(writer, instruction)
        one = len(writer.lines) == 1
        lines.append(writer.lines[0] if one else "{ " + " ".join(writer.lines) + " }")
    return [*lines, *_go("kEnd" if number + 1 == flow.end else str(number + 1))]


def _go(block: str) -> list[str]:
    return [f"next = {block};", "break;"]


def _leave() -> list[str]:
    return ["next = leave(w);", "if (next < 0) return Stop::exited;", "break;"]


def _emit(writer: Writer, instruction: Instruction) -> None:
    words = instruction.words
    if words[:2] == ["bar", "warp"]:
        collectives.warp_barrier(writer)
        return
    emitter = EMITTERS.get(words[0])
    if emitter is None or (words[0] == "cp" and not memory.is_copy(instruction)):
        raise PtxError(
            f"{instruction.opcode} is not known", file=writer.file, line=instruction.line,
            text=instruction.text,
        )  # fmt: skip
    try:
        emitter(writer)
    except (IndexError, ValueError) as error:
        # An opcode with more or fewer words than its emitter unpacks.
        raise PtxError(
            f"{instruction.opcode} is not known in this form", file=writer.file,
            line=instruction.line, text=instruction.text,
        ) from error  # fmt: skip


def _guard(writer: Writer, guard: Register | Not) -> str:
    register = guard.register if isinstance(guard, Not) else guard
    return f"f.p[{register.index}], {'true' if isinstance(guard, Not) else 'false'}"


def _branch(writer: Writer, number: int, flow: Flow) -> list[str]:
    branch = writer.instruction
    to = targets(branch, flow.labels)
    if branch.words[0] == "brx":
        ways = ", ".join(str(block) for block in to)
        index = writer.source(branch.operands[0], "b32")
        choice = f"choose(w, {writer.site()}, {index}, kWays, {len(to)}, {flow.joins[number]})"
        return [
            f"static const int kWays{number}[] = {{{ways}}};",
            *_go(choice.replace("kWays", f"kWays{number}")),
        ]
    if branch.guard is None:
        return _go(str(to[0]))
    ways = f"{to[0]}, {number + 1}, {flow.joins[number]}"
    return _go(f"branch(w, {_guard(writer, branch.guard)}, {ways})")


def _end(writer: Writer, number: int, flow: Flow) -> list[str]:
    """The end of lanes; where only some lanes end, they branch to the end."""
    guard = writer.instruction.guard
    if guard is None:
        return _leave()
    ways = f"kEnd, {number + 1}, {flow.joins[number]}"
    return _go(f"branch(w, {_guard(writer, guard)}, {ways})")


def _head(writer: Writer) -> list[str]:
    sites = [f"    {{{line}, {json.dumps(text)}}}," for line, text in writer.sites]
    constants = [
        f"const Lanes<u{bits}> k{index} = all<u{bits}>({value}u{'ll' if bits == 64 else ''});"
        for (bits, value), index in writer.constants.items()
    ]
    count = writer.kernel.registers
    return [
        f"// {writer.kernel.name} of {writer.file}, translated.",
        '#include "ops.h"',
        "",
        "namespace ptx {",
        "namespace {",
        "",
        "template <class T>",
        "Lanes<T> all(T value) {",
        "  Lanes<T> lanes;",
        "  for (T& lane : lanes.v) lane = value;",
        "  return lanes;",
        "}",
        "",
        "struct Registers {",
        f"  Predicate p[{count['pred'] + 1}];",
        f"  Lanes<u8> b[{count['b8'] + 1}];",
        f"  Lanes<u16> h[{count['b16'] + 1}];",
        f"  Lanes<u32> r[{count['b32'] + 1}];",
        f"  Lanes<u64> d[{count['b64'] + 1}];",
        "};",
        "",
        *constants,
        "",
        "const Site kSites[] = {",
        *sites,
        '    {0, ""},',
        "};",
        "",
        "constexpr int kEnd = 1 << 30;",
        "",
        "Stop run(Warp& w) {",
        "  Registers& f = *static_cast<Registers*>(w.registers);",
        "  int next = w.block;",
        "  for (;;) {",
        "    next = enter(w, next);",
        "    switch (next) {",
    ]


def _tail(writer: Writer, shared: int) -> list[str]:
    kernel = writer.kernel
    parameters = ", ".join(f"{{{p.offset}, {p.size}}}" for p in kernel.parameters)
    size = max((p.offset + p.size for p in kernel.parameters), default=0)
    name, file = json.dumps(kernel.name), json.dumps(writer.file)
    exact = "true" if kernel.exact_threads else "false"
    return [
        "      default:",
        *[f"        {line}" for line in _leave()],
        "    }",
        "  }",
        "}",
        "",
        f"const Parameter kParameters[] = {{{parameters}{', ' if parameters else ''}{{0, 0}}}};",
        "",
        "}  // namespace",
        "",
        f"extern const Kernel kernel_{kernel.name};",
        f"const Kernel kernel_{kernel.name} = {{",
        f"    {name}, {file}, kParameters, {len(kernel.parameters)}, {size}, {shared},",
        f"    {kernel.max_threads}, {exact}, sizeof(Registers), run}};",
        "",
        "}  // namespace ptx",
        "",
    ]


def translate_module(module: Module) -> dict[str, str]:
    """C++ by the name of a file: one for each kernel, the last of which names them all."""
    files = {f"{kernel.name}.cc": translate(module, kernel) for kernel in module.kernels}
    names = [kernel.name for kernel in module.kernels]
    if not names:
        raise PtxError("has no kernel", file=module.file, line=1, text="")
    files[f"{names[-1]}.cc"] += "\n".join(
        [
            "",
            "namespace ptx {",
            *[f"extern const Kernel kernel_{name};" for name in names],
            "}",
            "",
            "static const ptx::Kernel* kernels() {",
            "  static const ptx::Kernel all[] = {",
            *[f"      ptx::kernel_{name}," for name in names],
            "  };",
            "  return all;",
            "}",
            "",
            'extern "C" const ptx::Kernel* ptx_kernels(size_t* count) {',
            f"  *count = {len(names)};",
            "  return kernels();",
            "}",
            "",
            'extern "C" int ptx_launch(const char* kernel, const unsigned grid[3],',
            "                          const unsigned block[3], unsigned shared, void** arguments,",
            "                          char* error, size_t size) {",
            f"  return ptx::launch(kernels(), {len(names)}, kernel, grid, block, shared,",
            "                     arguments, error, size);",
            "}",
            "",
        ]
    )
    return files
