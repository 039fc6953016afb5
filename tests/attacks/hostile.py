"""Turn a good bundle into a hostile one whose digests are all in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ZEROS = "0" * 64


def edit_manifest(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``edit`` to the manifest and write the digest that fits what it became."""
    path = root / "moe_export.json"
    value = json.loads(path.read_text())
    edit(value)
    write_manifest(root, json.dumps(value | {"digest": ZEROS}))


def write_manifest(root: Path, text: str) -> None:
    """Write ``text``, in which the digest is zeros, with the digest that fits."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    (root / "moe_export.json").write_text(text.replace(ZEROS, digest))


def replace_file(root: Path, name: str, content: bytes) -> None:
    """Put ``content`` at ``name`` and in the manifest, as someone would who can compute a hash."""
    (root / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    record = {"sha256": digest, "bytes": len(content), "pieces": []}
    edit_manifest(root, lambda manifest: manifest["files"].update({name: record}))
