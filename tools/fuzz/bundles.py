"""Damage a bundle again and again, and see that the C++ loader refuses it as Python's does.

usage: python -m tools.fuzz.bundles [BUNDLE] [--count 10000] [--seed 0] [--driver PROGRAM]

Without a bundle it is one of the tests' own, small and quick.  The driver is ``moe_embed_driver``,
built with sanitizers or without.  Files that are not as they were written have to be refused.  A
manifest that was changed by somebody who can compute a hash has to be refused or taken as Python's
reader refuses or takes it.  Exits with 0 where nothing was found and with 4 where something was.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]

from embed.driver import Driver  # noqa: E402
from moe_export.errors import MoeExportError  # noqa: E402
from moe_export.runtime import Bundle  # noqa: E402
from tools.fuzz.corrupt import DAMAGES, LIES, MANIFEST, Damage  # noqa: E402


def same(root: Path, pristine: Path) -> bool:
    """Whether nothing was changed after all."""
    names = sorted(path.relative_to(pristine) for path in pristine.rglob("*"))
    here = sorted(path.relative_to(root) for path in root.rglob("*"))
    files = [name for name in names if (pristine / name).is_file()]
    return names == here and all(
        (root / name).is_file()
        and not (root / name).is_symlink()
        and (root / name).read_bytes() == (pristine / name).read_bytes()
        for name in files
    )


def verdict(opens: object) -> int:
    """The exit code of what opening says; 0 where it opens."""
    try:
        opens()  # type: ignore[operator]
    except MoeExportError as error:
        return error.exit_code
    return 0


def search(bundle: Path, count: int, seed: int, driver: Driver) -> tuple[Counter[str], list[str]]:
    """How often each thing happened, and in words what should not have."""
    happened: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(bundle, Path(folder) / "bundle"))
        for number in range(count):
            draw = random.Random(f"{seed} {number}")  # noqa: S311
            lies = draw.random() < 0.4
            change = draw.choice(LIES if lies else DAMAGES)
            with Damage(root) as damage:
                words = change(damage, draw)
                made = verdict(lambda: driver.ask("open", path=str(root)))
                expected = verdict(lambda: Bundle.open(root)) if lies else 7
                if not lies and made == 0 and same(root, bundle):
                    expected = 0
                if not lies and words.startswith(f"{MANIFEST} removed"):
                    expected = 2  # no bundle at all
            happened[f"{change.__name__}: {made}"] += 1
            if made != expected:
                wrong.append(f"{number}: {words}: {made}, not {expected}")
    driver.ask("open", path=str(bundle))
    return happened, wrong


def small_bundle(path: Path) -> Path:
    from bundle.toy import bigram_model, export

    export(bigram_model(), path)
    return path


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("bundle", type=Path, nargs="?")
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--driver", type=Path)
    chosen = options.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Driver(chosen.driver) as driver:
        bundle = chosen.bundle or small_bundle(Path(folder) / "bundle")
        happened, wrong = search(bundle, chosen.count, chosen.seed, driver)
    for name, times in sorted(happened.items()):
        print(f"{times:7} {name}")
    print(f"{chosen.count} changes in {time.monotonic() - begun:.0f} s, {len(wrong)} taken wrongly")
    print("\n".join(wrong[:20]))
    return 4 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
