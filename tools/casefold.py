"""Print plugins/runtime/bundle/casefold.inc: how letters fold, as Python folds them.

A run is ``{first, last, step, shift}``: each ``step``-th letter from ``first`` to ``last`` becomes
the one ``shift`` further.  Letters that become several stand behind.
"""

from __future__ import annotations

import unicodedata


def main() -> None:
    runs: list[list[int]] = []
    several: list[tuple[int, str]] = []
    for code in range(128, 0x110000):
        if 0xD800 <= code < 0xE000 or (folded := chr(code).casefold()) == chr(code):
            continue
        if len(folded) > 1:
            several.append((code, folded))
            continue
        shift, last = ord(folded) - code, runs[-1] if runs else [0, 0, 0, 0]
        gap = code - last[1]
        if shift == last[3] and gap in (1, 2) and last[2] in (0, gap):
            last[1], last[2] = code, gap
        else:
            runs.append([code, code, 0, shift])
    print(f"// Made by tools/casefold.py of Unicode {unicodedata.unidata_version}.")
    print("constexpr Run kRuns[] = {")
    for first, last_code, step, shift in runs:
        print(f"    {{{first:#06x}, {last_code:#06x}, {step or 1}, {shift}}},")
    print("};\nconstexpr Several kSeveral[] = {")
    for code, folded in several:
        text = "".join(f"\\x{byte:02x}" for byte in folded.encode())
        print(f'    {{{code:#06x}, "{text}"}},')
    print("};")


if __name__ == "__main__":
    main()
