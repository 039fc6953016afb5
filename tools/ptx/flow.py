"""Basic blocks, and where lanes that part at a branch meet again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .forms import Instruction, Kernel, Label, PtxError, Symbol

# After these a warp may have to wait for others: a block ends.
BARRIERS = ("bar.sync", "bar.cta.sync", "barrier.sync", "barrier.cta.sync", "bar.arrive")
ENDS = ("ret", "exit")


@dataclass
class Block:
    """``successors`` are blocks by number; one behind the last is the end of the kernel."""

    instructions: list[Instruction] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Flow:
    """``joins[b]``: where lanes that part at the end of block b meet again."""

    blocks: list[Block]
    labels: dict[str, int]
    joins: list[int]

    @property
    def end(self) -> int:
        return len(self.blocks)


def is_barrier(instruction: Instruction) -> bool:
    return any(
        instruction.opcode == name or instruction.opcode.startswith(name + ".") for name in BARRIERS
    )


def is_branch(instruction: Instruction) -> bool:
    return instruction.words[0] in ("bra", "brx")


def flow_of(kernel: Kernel, file: str) -> Flow:
    """The blocks in the order of the text."""
    blocks = [Block()]
    labels: dict[str, int] = {}
    for item in kernel.body:
        if isinstance(item, Label):
            if blocks[-1].instructions:
                blocks.append(Block())
            labels[item.name] = len(blocks) - 1
            continue
        if is_branch(item):
            item = _with_labels(item, kernel, file)
        blocks[-1].instructions.append(item)
        if is_branch(item) or is_barrier(item) or item.opcode in ENDS:
            blocks.append(Block())
    for number, block in enumerate(blocks):
        block.successors = _successors(block, number, labels, len(blocks))
    return Flow(blocks, labels, _joins(blocks))


def _with_labels(branch: Instruction, kernel: Kernel, file: str) -> Instruction:
    """The branch with its labels for operands; an index comes first."""
    names = {item.name for item in kernel.body if isinstance(item, Label)}
    last = branch.operands[-1]
    found = [last.name] if isinstance(last, Symbol) else []
    if branch.words[:2] == ["brx", "idx"] and branch.guard is None:
        found = kernel.tables.get(found[0], []) if found else []
    elif branch.words[0] == "brx":
        found = []
    if not found or not names.issuperset(found):
        raise PtxError("branches to no label", file=file, line=branch.line, text=branch.text)
    labels = tuple(Symbol(name) for name in found)
    return replace(branch, operands=(*branch.operands[:-1], *labels))


def targets(branch: Instruction, labels: dict[str, int]) -> list[int]:
    """The blocks that a branch names."""
    return [labels[o.name] for o in branch.operands if isinstance(o, Symbol)]


def _successors(block: Block, number: int, labels: dict[str, int], exit_block: int) -> list[int]:
    if not block.instructions:
        return [number + 1]
    last = block.instructions[-1]
    if last.opcode in ENDS:
        return [exit_block] if last.guard is None else [exit_block, number + 1]
    if not is_branch(last):
        return [number + 1]
    to = targets(last, labels)
    return to if last.guard is None else [*to, number + 1]


def _joins(blocks: list[Block]) -> list[int]:
    """For each block the first one that every way from it leads through.

    Post-dominators, as bit sets: small enough, a kernel has some hundred blocks.
    """
    count = len(blocks)
    everything = (1 << (count + 1)) - 1
    behind = [everything] * count + [1 << count]
    changed = True
    while changed:
        changed = False
        for number in reversed(range(count)):
            through = everything
            for successor in blocks[number].successors:
                through &= behind[successor]
            through |= 1 << number
            changed |= through != behind[number]
            behind[number] = through
    return [_nearest(behind, number, count) for number in range(count)]


def _nearest(behind: list[int], number: int, count: int) -> int:
    """Of the blocks behind, the one that has all the others behind it."""
    others = behind[number] & ~(1 << number)
    for candidate in range(count + 1):
        if others >> candidate & 1 and behind[candidate] & others == others:
            return candidate
    return count
