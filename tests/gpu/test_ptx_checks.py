"""What a kernel may not do is an error that names the place."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tools.ptx.device import InOut, Input, KernelError, Module, Output
from tools.ptx.forms import PtxError
from tools.ptx.reader import read_module
from tools.ptx.translate import translate_module

HEAD = """.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 smem[];
"""
# x and y hold 64 numbers of 32 bits, and there are two warps.
BEGIN = """.visible .entry {name}(.param .u64 x, .param .u64 y) .reqntid 64 {{
.reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<16>; .reg .b64 %rd<16>;
ld.param.b64 %rd1, [x];
ld.param.b64 %rd2, [y];
mov.u32 %r1, %tid.x;
mad.wide.u32 %rd3, %r1, 4, %rd1;
mad.wide.u32 %rd4, %r1, 4, %rd2;
shl.b32 %r2, %r1, 2;
mov.b32 %r3, smem;
add.s32 %r2, %r3, %r2;
xor.b32 %r4, %r1, 32;
shl.b32 %r4, %r4, 2;
add.s32 %r4, %r3, %r4;
setp.lt.u32 %p1, %r1, 32;
"""
END = "\nret;\n}\n"

# Through shared memory, each number to the other warp's place.
SWAP = """ld.global.b32 %r5, [%rd3];
st.shared.b32 [%r2], %r5;
bar.sync 0;
ld.shared.b32 %r5, [%r4];
st.global.b32 [%rd4], %r5;"""

COPY = """cp.async.ca.shared.global [%r2], [%rd3], 4;
cp.async.commit_group;
cp.async.wait_group 0;
bar.sync 0;
ld.shared.b32 %r5, [%r4];
st.global.b32 [%rd4], %r5;"""

RIGHT = {
    "swap": SWAP,
    "copy": COPY,
    "diverge": """mov.b32 %r6, 0;
and.b32 %r7, %r1, 3;
again:
setp.eq.b32 %p2, %r7, 0;
@%p2 bra done;
add.s32 %r6, %r6, %r1;
sub.s32 %r7, %r7, 1;
bra again;
done:
shfl.sync.idx.b32 %r8, %r6, 3, 31, -1;
add.s32 %r6, %r6, %r8;
st.global.b32 [%rd4], %r6;""",
    "switch": """ways: .branchtargets one, two, three;
rem.u32 %r5, %r1, 3;
brx.idx %r5, ways;
one: mov.b32 %r6, 10; bra met;
two: mov.b32 %r6, 20; bra met;
three: mov.b32 %r6, 30;
met: shfl.sync.bfly.b32 %r6, %r6, 1, 31, -1;
st.global.b32 [%rd4], %r6;""",
    "some-leave": """and.b32 %r5, %r1, 1;
setp.eq.b32 %p2, %r5, 1;
st.global.b32 [%rd4], %r5;
@%p2 exit;
st.global.b32 [%rd4], 7;""",
}

# Body, and what the message has to say.
WRONG = {
    "reads-too-far": ("ld.global.b32 %r5, [%rd3+256];", "reads 4 bytes at 0x.*outside of every"),
    "reads-before": ("ld.global.b32 %r5, [%rd3+-4];", "outside of every buffer"),
    "not-aligned": ("ld.global.b64 %rd5, [%rd3];", "lane 1.*not aligned"),
    "writes-input": ("st.global.b32 [%rd3], 1;", "which is read-only"),
    "reads-unwritten": ("ld.global.b32 %r5, [%rd4];", "which nobody has written"),
    "store-not-reached": ("@%p1 st.global.b32 [%rd4], 1;", "byte 128 of buffer 1 was never"),
    "shared-too-far": ("st.shared.b32 [%r2+256], 1;", "shared byte 256 .*the launch has 256"),
    "shared-below": ("st.shared.b32 [%r2+-4], 1;", "shared byte -4"),
    "shared-unwritten": ("ld.shared.b32 %r5, [%r2];", "shared byte 0, which nobody has written"),
    "no-barrier": (SWAP.replace("bar.sync 0;", ""), "nobody has written|no barrier in between"),
    "barrier-for-some": ("@%p1 bra skip;\nbar.sync 0;\nskip:", "waits at barrier 0 for ever"),
    "barrier-in-some-lanes": (
        "setp.lt.u32 %p2, %r1, 9;\n@!%p2 bra skip;\nbar.sync 0;\nskip:",
        "runs in lanes 0x1ff only",
    ),
    "write-after-read": (
        SWAP + "\nst.shared.b32 [%r2], %r1;",
        "warp 0 wrote|which warp 1 read with no barrier|which warp 0 read with no barrier",
    ),
    "two-write": (
        "shr.u32 %r6, %r1, 5;\nst.shared.b32 [%r3], %r6;",
        "which warp 0 wrote otherwise with no barrier in between",
    ),
    "no-wait": (COPY.replace("cp.async.wait_group 0;", ""), "cp.async may not have written yet"),
    "late-wait": (COPY.replace("wait_group 0", "wait_group 1"), "may not have written yet"),
    "wait-without-barrier": (COPY.replace("bar.sync 0;", ""), "nobody|no barrier|not have written"),
    "copy-too-far": (
        COPY.replace("[%rd3]", "[%rd3+4]"), "lane 31.*reads 4 bytes at .*outside of every buffer",
    ),
    "shuffle-with-the-absent": (
        "setp.lt.u32 %p2, %r1, 9;\n@!%p2 bra skip;\nshfl.sync.bfly.b32 %r5, %r1, 1, 31, -1;\nskip:",
        "names lanes 0xfffffe00, which are elsewhere",
    ),
    "never-ends": ("again: bra again;", "does not end"),
    "way-too-far": (
        "ways: .branchtargets one, two;\nbrx.idx %r1, ways;\none:\ntwo:", "takes way 2 of 2",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def module() -> Module:
    """All of them in one file."""
    bodies = {f"right_{i}": body for i, body in enumerate(RIGHT.values())}
    bodies |= {f"wrong_{i}": body for i, (body, _) in enumerate(WRONG.values())}
    text = "".join(BEGIN.format(name=name) + body + END for name, body in bodies.items())
    return Module.of_text(HEAD + text, "checks.ptx")


def launch(module: Module, kernel: str) -> np.ndarray:
    x, y = np.arange(64, dtype=np.int32) * 3, np.zeros(64, np.int32)
    module.launch(kernel, [Input(x), Output(y)], grid=[1], threads=64, shared=256)
    return y


TRUE = {
    "swap": lambda i: 3 * (i ^ 32),
    "copy": lambda i: 3 * (i ^ 32),
    "diverge": lambda i: i * (i & 3) + (i // 32 * 32 + 3) * 3,
    "switch": lambda i: 10 + 10 * ((i ^ 1) % 3),
    "some-leave": lambda i: np.where(i % 2, 1, 7),
}


@pytest.mark.parametrize("reversed_", [False, True])
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_runs_in_any_order(module: Module, name: str, reversed_: bool) -> None:
    module.runtime.library.ptx_reverse(int(reversed_))
    try:
        found = launch(module, f"right_{list(RIGHT).index(name)}")
    finally:
        module.runtime.library.ptx_reverse(0)
    np.testing.assert_array_equal(found, TRUE[name](np.arange(64)))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_place(module: Module, name: str) -> None:
    kernel = f"wrong_{list(WRONG).index(name)}"
    with pytest.raises(KernelError) as caught:
        launch(module, kernel)
    words = str(caught.value)
    assert re.search(WRONG[name][1], words, re.DOTALL), words
    assert words.startswith(kernel)
    if "never" not in name and name not in ("store-not-reached", "barrier-for-some"):
        assert re.search(r"block 0,0,0, warp [01].*checks\.ptx:\d+", words), words


def test_blocks_that_write_different_numbers_are_found() -> None:
    body = "mov.u32 %r5, %ctaid.x;\nst.global.b32 [%rd4], %r5;"
    module = Module.of_text(HEAD + BEGIN.format(name="race") + body + END, "race.ptx")
    x, y = np.zeros(64, np.int32), np.zeros(64, np.int32)
    with pytest.raises(KernelError, match="which block 0 wrote in the same launch"):
        module.launch("race", [Input(x), InOut(y)], grid=[2], threads=64, shared=256)


REFUSED = {
    "an-opcode": ("tex.2d.v4.f32.f32 {%r1, %r2, %r3, %r4}, [%rd1];", "tex.2d.v4.f32.f32"),
    "a-form": ("add.rz.f32 %r1, %r1, %r2;", ".rz is not known of add"),
    "a-type": ("add.f16x4 %r1, %r1, %r2;", "f16x4 is not known"),
    "a-space": ("ld.b32 %r1, [%rd1];", "generic addresses"),
    "a-register": ("mov.b32 %q1, 0;", "register %q1 is not known"),
    "another-width": ("add.s32 %r1, %rd1, %r2;", "needs a register of 32 bits"),
    "no-label": ("bra nowhere;", "branches to no label"),
    "a-directive": (".local .align 4 .b8 depot[16];", "directive .local is not known"),
    "a-special-register": ("mov.u32 %r1, %clock;", "register %clock is not known"),
    "too-many-registers": ("ld.global.v2.b32 {%r1, %r2, %r3, %r4}, [%rd1];", "4 registers for 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_stops_the_translation_with_its_line(name: str) -> None:
    body, words = REFUSED[name]
    text = HEAD + BEGIN.format(name="refused") + body + END
    line = text[: text.index(body)].count("\n") + 1
    with pytest.raises(PtxError) as caught:
        translate_module(read_module(text, "refused.ptx"))
    assert words in str(caught.value)
    assert f"refused.ptx:{line}:" in str(caught.value)
