"""What turns of whole models become: medians, ratios to ours, and one table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model_contenders import Contender

Turn = Mapping[str, Any]
"""Of one contender in one round, the fields of ``Measured``."""

_SECONDS = ("load", "vision", "prefill", "first", "decode")
COMPARED = ("prefill", "decode", "first")


@dataclass(frozen=True)
class Row:
    """A contender; medians over its rounds, in seconds, MiB and tokens per second."""

    name: str
    precision: str
    remark: str
    rounds: int
    prefill_per_second: float
    decode_per_second: float
    seconds: dict[str, float | None]
    quartiles: dict[str, tuple[float, float] | None]
    """Of the same seconds."""

    ratios: dict[str, float | None]
    """How many times as long as moe-export in the same precision, the median of the rounds'."""

    peak_mib: float
    file_mib: float
    tokens: tuple[int, ...]

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def row(
    contender: Contender,
    found: Mapping[int, Turn],
    *,
    ours: Mapping[int, Turn],
    file_bytes: int,
) -> Row:
    """A row of the turns of ``contender`` by round, beside those of moe-export."""
    every = list(found.values())
    seconds = {name: _median([turn[name] for turn in every]) for name in _SECONDS}
    prefill, decode = seconds["prefill"], seconds["decode"]
    if not prefill or not decode:
        raise ValueError(f"{contender.label} has a prefill or a decode without a time")
    return Row(
        name=contender.name,
        precision=contender.precision,
        remark=contender.remark,
        rounds=len(every),
        prefill_per_second=every[0]["prompt_tokens"] / prefill,
        decode_per_second=1 / decode,
        seconds=seconds,
        quartiles={name: _quartiles([turn[name] for turn in every]) for name in _SECONDS},
        ratios={name: ratio(found, ours, name) for name in COMPARED},
        peak_mib=statistics.median(turn["peak_mib"] for turn in every),
        file_mib=file_bytes / 2**20,
        tokens=tuple(every[0]["tokens"]),
    )


def ratio(found: Mapping[int, Turn], ours: Mapping[int, Turn], name: str) -> float | None:
    """How many times as long as ours, taken within each round."""
    return _median(
        [
            found[number][name] / ours[number][name]
            for number in sorted(set(found) & set(ours))
            if found[number][name] is not None and ours[number][name] is not None
        ]
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _quartiles(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    low, _, high = statistics.quantiles(known, n=4, method="inclusive")
    return low, high


_HEAD = (
    "weights", "contender", "prefill t/s", "x ours", "decode t/s", "x ours", "first s", "x ours",
    "vision s", "load s", "peak MiB", "files MiB",
)  # fmt: skip


def table(rows: Sequence[Row], not_run: Mapping[str, str]) -> list[str]:
    """A line for each row, and one with the reason for everybody who did not run."""
    lines = [_HEAD, *(_line(each) for each in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    text = [
        "  ".join(
            word.ljust(width) if column < 2 else word.rjust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    remarks = [f"{each.name} {each.precision}: {each.remark}" for each in rows if each.remark]
    missing = [f"not run: {label}: {why}" for label, why in not_run.items()]
    return [*text, *(["", *remarks] if remarks else []), *(["", *missing] if missing else [])]


def _line(each: Row) -> tuple[str, ...]:
    seconds, ratios = each.seconds, each.ratios
    return (
        each.precision,
        each.name,
        f"{each.prefill_per_second:.0f}",
        _number(ratios["prefill"]),
        f"{each.decode_per_second:.1f}",
        _number(ratios["decode"]),
        _number(seconds["first"]),
        _number(ratios["first"]),
        _number(seconds["vision"]),
        _number(seconds["load"]),
        f"{each.peak_mib:.0f}",
        f"{each.file_mib:.0f}",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
