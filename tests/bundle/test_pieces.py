"""Large files have a digest for each piece, which are checked side by side."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from moe_export.bundle.disk import HashedFile
from moe_export.errors import UnsafeInputError
from moe_export.manifest import PIECE_BYTES, FileRecord
from moe_export.runtime import verify

# Two pieces and a bit, that repeat nowhere near a border.
CONTENT = bytes(range(251)) * (2 * PIECE_BYTES // 251 + 100)


def written(path: Path, content: bytes, step: int) -> FileRecord:
    """The record of a file that was written in steps of so many bytes."""
    with HashedFile(path) as file:
        for start in range(0, len(content), step):
            file.write(content[start : start + step])
    return file.record


@pytest.mark.parametrize("step", [len(CONTENT), PIECE_BYTES, 10_000_019])
def test_a_large_file_has_a_digest_for_each_piece(tmp_path: Path, step: int) -> None:
    record = written(tmp_path / "large", CONTENT, step)
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert record.pieces == tuple(
        hashlib.sha256(CONTENT[start : start + PIECE_BYTES]).hexdigest()
        for start in range(0, len(CONTENT), PIECE_BYTES)
    )
    verify._check_digests({tmp_path / "large": record})


@pytest.mark.parametrize("count", [0, 1, PIECE_BYTES])
def test_a_file_of_one_piece_has_none(tmp_path: Path, count: int) -> None:
    record = written(tmp_path / "small", CONTENT[:count], 2**20)
    assert record == FileRecord(
        sha256=hashlib.sha256(CONTENT[:count]).hexdigest(), bytes=count, pieces=()
    )
    verify._check_digests({tmp_path / "small": record})


@pytest.mark.parametrize("place", [0, PIECE_BYTES - 1, PIECE_BYTES, len(CONTENT) - 1])
def test_a_byte_that_changed_is_found_in_its_piece(tmp_path: Path, place: int) -> None:
    record = written(tmp_path / "large", CONTENT, 2**24)
    with (tmp_path / "large").open("r+b") as file:
        file.seek(place)
        file.write(bytes([CONTENT[place] ^ 1]))
    start = place - place % PIECE_BYTES
    with pytest.raises(UnsafeInputError, match=f"SHA-256 from byte {start} is") as refusal:
        verify._check_digests({tmp_path / "large": record})
    assert refusal.value.where == str(tmp_path / "large")


@pytest.mark.parametrize(
    ("size", "pieces"), [(7, 1), (PIECE_BYTES + 1, 1), (PIECE_BYTES + 1, 3), (PIECE_BYTES, 1)]
)
def test_a_record_has_as_many_pieces_as_its_size_says(size: int, pieces: int) -> None:
    with pytest.raises(ValueError, match=f"{pieces} pieces of {size} bytes"):
        FileRecord(sha256="00" * 32, bytes=size, pieces=("00" * 32,) * pieces)
