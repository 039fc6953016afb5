"""The colours of a page, in a light and a dark scheme.

Charts name colours as CSS variables, so that one drawing serves both schemes.  The ramp gets
further from the page's colour with each step, in lightness, which readers of any colour vision see:
more is always more contrast.  The other marks differ in shape or words too.
"""

from __future__ import annotations

from collections.abc import Mapping

RAMP = tuple(f"var(--ramp{step})" for step in range(9))
"""From least to most.  In OKLCH, lightness in equal steps, .955 to .30 and .24 to .93."""

LEAN = tuple(f"var(--lean{step})" for step in range(7))
"""From one side over the middle to the other; orange and blue, which colour-blind readers tell
apart, and further from the page's colour at either end."""

PAGE = "var(--page)"
INK = "var(--ink)"
GRID = "var(--line)"
BUNDLE = "var(--bundle)"
BEYOND = "var(--beyond)"
EAGER = "var(--eager)"
ENVELOPE = "var(--envelope)"
REWRITTEN = "var(--rewritten)"
REPLAYED = "var(--replayed)"

LIGHT: Mapping[str, str] = {
    "page": "#ffffff",
    "card": "#f7f8fa",
    "ink": "#1b1f24",
    "muted": "#57606a",
    "line": "#d5dae0",
    "link": "#0b5cad",
    "good": "#116329",
    "bad": "#b3261e",
    "bundle": "#0b62b8",
    "beyond": "#c2410c",
    "eager": "#4b5563",
    "envelope": "#cfdcec",
    "rewritten": "#0f766e",
    "replayed": "#7c3aed",
    "ramp0": "#e6f3f7",
    "ramp1": "#b8dceb",
    "ramp2": "#8cc4e0",
    "ramp3": "#61abd7",
    "ramp4": "#3590ce",
    "ramp5": "#2274b8",
    "ramp6": "#17599f",
    "ramp7": "#1c417c",
    "ramp8": "#182b58",
    "lean0": "#954200",
    "lean1": "#b67a50",
    "lean2": "#cdb4a4",
    "lean3": "#e6ecf3",
    "lean4": "#aabbd1",
    "lean5": "#628dc3",
    "lean6": "#1c5da8",
}

DARK: Mapping[str, str] = {
    "page": "#14171b",
    "card": "#1b1f24",
    "ink": "#e6e8eb",
    "muted": "#a3acb6",
    "line": "#3a424c",
    "link": "#7cb8ff",
    "good": "#5fd38a",
    "bad": "#ff8f80",
    "bundle": "#6cb6ff",
    "beyond": "#ff9d5c",
    "eager": "#c3cad2",
    "envelope": "#2f4159",
    "rewritten": "#4fd1c5",
    "replayed": "#c4a7ff",
    "ramp0": "#0f1d3f",
    "ramp1": "#103363",
    "ramp2": "#004d87",
    "ramp3": "#006aa5",
    "ramp4": "#0087bb",
    "ramp5": "#33a4c8",
    "ramp6": "#70bed2",
    "ramp7": "#a4d6de",
    "ramp8": "#d7edee",
    "lean0": "#e3a982",
    "lean1": "#b17246",
    "lean2": "#684b38",
    "lean3": "#23272c",
    "lean4": "#40546e",
    "lean5": "#5985bd",
    "lean6": "#92baee",
}


def properties(scheme: Mapping[str, str]) -> str:
    """The scheme as declarations of CSS."""
    return " ".join(f"--{name}: {colour};" for name, colour in scheme.items())
