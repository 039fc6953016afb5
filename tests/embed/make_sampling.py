"""Make sampling.json: what drawing tokens and stop strings have to give, in every language.

Written from the rules on docs/embedding.md with NumPy alone and none of the code that is tested:
`python -m embed.make_sampling` in tests/ writes the file anew.  No decision in it lies so near to
an edge that another machine's exp() could decide otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("sampling.json")
_NEAR = 1e-9
_MASK = 2**64 - 1


def uniform(seed: int, step: int) -> float:
    """SplitMix64 as a counter, its upper 53 bits as a fraction."""
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def draw(logits: Any, said: list[int], options: dict[str, Any], step: int) -> int:
    """The token behind the ids ``said``, prompt and answer, for ``logits [V]`` float32."""
    scores = np.asarray(logits, np.float32).astype(np.float64)
    penalty = options.get("repetition_penalty", 1.0)
    for token in set(said) if penalty != 1.0 else ():
        score = scores[token]
        scores[token] = score * penalty if score < 0 else score / penalty
    temperature = options.get("temperature", 0.0)
    if temperature == 0.0:
        return int(np.flatnonzero(scores == scores.max())[0])
    scores = scores / temperature
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    order = order[: options.get("top_k", 0) or len(order)]
    p = np.exp(scores[order] - scores[order[0]])
    p = p / np.cumsum(p)[-1]
    running = np.cumsum(p)
    top_p = options.get("top_p", 1.0)
    if top_p < 1.0:
        assert np.abs(running - top_p).min() > _NEAR, "too near to top_p"
        order = order[: int(np.argmax(running >= top_p)) + 1]
        running = running[: len(order)]
    wanted = uniform(options.get("seed", 0), step) * running[-1]
    assert np.abs(running - wanted).min() > _NEAR, "too near to the next token"
    return order[int(np.argmax(running > wanted))]


def answer(case: dict[str, Any]) -> list[int]:
    ids: list[int] = []
    for step, logits in enumerate(case["logits"]):
        row = [float(value) if value == "-Infinity" else value for value in logits]
        ids.append(draw(row, case["prompt"] + ids, case["options"], step))
    return ids


def rows(seed: int, steps: int, size: int, scale: float = 2.0) -> list[list[float]]:
    drawn = np.random.default_rng(seed).standard_normal((steps, size)) * scale
    # Eighths are float32, and some of them are equal.
    return (np.round(drawn * 8) / 8).tolist()


def cases() -> list[dict[str, Any]]:
    made = []

    def case(name: str, logits: Any, prompt: tuple[int, ...] = (), **options: Any) -> None:
        made.append({"name": name, "prompt": [*prompt], "options": options, "logits": logits})

    case("greedy", rows(1, 6, 12))
    case("greedy, two highest", [[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    case("greedy, repetition penalty", rows(2, 8, 10), (3, 4, 5), repetition_penalty=1.3)
    case("greedy, repetition is sought", rows(3, 8, 10), (3, 4), repetition_penalty=0.5)
    case("greedy, all below zero", [[-1.0, -2.0, -1.5]] * 3, (0,), repetition_penalty=1.8)
    case("temperature 1", rows(4, 16, 16), temperature=1.0, seed=1)
    case("temperature 0.2", rows(4, 16, 16), temperature=0.2, seed=1)
    case("temperature 5", rows(4, 16, 16), temperature=5.0, seed=2)
    case("top-k 1", rows(5, 8, 12), temperature=1.5, top_k=1, seed=3)
    case("top-k 4", rows(5, 16, 12), temperature=1.5, top_k=4, seed=3)
    case("top-k above the vocabulary", rows(5, 8, 12), temperature=1.5, top_k=1000, seed=3)
    case("top-k between equals", [[0.0, 1.0, 1.0, 1.0, 1.0]] * 12, temperature=1.0, top_k=2, seed=4)
    case("top-p 0.7", rows(6, 16, 20), temperature=1.0, top_p=0.7, seed=5)
    case("top-p of nearly nothing", rows(6, 8, 20), temperature=1.0, top_p=1e-6, seed=5)
    case("top-k, then top-p", rows(7, 16, 24), temperature=1.2, top_k=8, top_p=0.8, seed=6)
    case(
        "everything",
        rows(8, 24, 32),
        (1, 1, 2, 30),
        temperature=0.8,
        top_k=12,
        top_p=0.9,
        repetition_penalty=1.2,
        seed=7,
    )
    case("the largest seed", rows(9, 8, 16), temperature=1.0, seed=_MASK)
    case("seed 0", rows(9, 8, 16), temperature=1.0)
    never = "-Infinity"
    case("nothing is not drawn", [[never, 0.0, never, 1.0]] * 8, temperature=3.0, seed=8)
    case("far apart", [[1000.0, -1000.0, 999.0]] * 8, temperature=1.0, seed=9)
    case("one token", [[0.5]] * 3, temperature=1.0, seed=10)
    for made_case in made:
        made_case["ids"] = answer(made_case)
    return made


def spoken(pieces: list[str], stops: list[str]) -> dict[str, Any]:
    """What may be said behind each piece, and whether a stop string ended it."""
    whole, said, out = "", 0, []
    for piece in pieces:
        whole += piece
        found = [whole.find(stop) for stop in stops if stop in whole]
        if found:
            out.append(whole[said : min(found)])
            return {"said": out, "stopped": True}
        # As much as may be the beginning of a stop string stays behind.
        held = max(
            (n for stop in stops for n in range(1, len(stop)) if whole.endswith(stop[:n])),
            default=0,
        )
        out.append(whole[said : len(whole) - held])
        said = len(whole) - held
    out.append(whole[said:])  # behind the last piece nothing can follow
    return {"said": out, "stopped": False}


def stop_cases() -> list[dict[str, Any]]:
    given = [
        (["one", " two", " three"], []),
        (["one", " two", " three"], ["two"]),
        (["ab", "ca", "bd", "e"], ["abd"]),
        (["aaa", "aab", "c"], ["aab"]),
        (["a\n", "\n", "b"], ["\n\n"]),
        (["a\n", "b\n", "\nc"], ["\n\n"]),
        (["never ", "quite", " there"], ["quite so"]),
        (["ends with a hal", "f"], ["half stop"]),
        (["x<|e", "nd|>y"], ["<|end|>", "<|e"]),
        (["stop"], ["stop"]),
        (["h\u00e9", "l\u00e8ve"], ["\u00e8v"]),
    ]
    return [{"pieces": p, "stop": s, **spoken(p, s)} for p, s in given]


def main() -> None:
    seeds = (0, 1, 7, 2**63, _MASK)
    content = {
        "uniform": [{"seed": s, "u": [uniform(s, t) for t in range(4)]} for s in seeds],
        "cases": cases(),
        "stops": stop_cases(),
    }
    FILE.write_text(json.dumps(content, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
