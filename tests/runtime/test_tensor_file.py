"""The safetensors format, held against its own library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_export.errors import UnsafeInputError
from moe_export.runtime.tensor_file import TensorFile, tensor_file

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "uint16",
    "float16",
    "int32",
    "uint32",
    "float32",
    "float64",
    "int64",
    "uint64",
]

tensors = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
    max_size=6,
)


def made(facts: dict[str, tuple[str, list[int]]]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(len(facts))
    return {
        name: random.integers(0, 2, shape).astype(dtype)
        for name, (dtype, shape) in facts.items()
        if name != "__metadata__"
    }


@settings(deadline=None, max_examples=100)
@given(facts=tensors, text=st.text(max_size=20))
def test_what_is_written_is_what_the_library_writes(tmp_path_factory, facts, text):
    arrays, metadata = made(facts), {"key": text.encode("utf-8", "ignore").decode()}
    content = tensor_file(arrays, metadata)
    assert content == safetensors.numpy.save(arrays, metadata=metadata)
    path = tmp_path_factory.getbasetemp() / "x.safetensors"
    path.write_bytes(content)
    read = TensorFile(path)
    assert read.metadata == metadata
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_a_view_is_written_as_it_reads(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    (tmp_path / "x").write_bytes(tensor_file({"x": array}, {}))
    np.testing.assert_array_equal(TensorFile(tmp_path / "x")["x"], array)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_as_the_library_reads_it(tmp_path_factory, data):
    content = bytearray(tensor_file({"a": np.arange(3), "b": np.ones((2, 2), np.float32)}, {}))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    try:
        read = TensorFile(path)
    except UnsafeInputError:
        return
    with safetensors.safe_open(path, framework="numpy") as file:
        assert set(read) == set(file.keys())
        for name, array in read.items():
            np.testing.assert_array_equal(array, file.get_tensor(name))


def test_a_file_that_is_cut_later_says_so(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(tensor_file({"x": np.ones(100)}, {}))
    read = TensorFile(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UnsafeInputError, match="changed while it was read"):
        read["x"]


def test_a_type_without_a_name_is_refused():
    with pytest.raises(ValueError, match="complex64"):
        tensor_file({"x": np.ones(1, np.complex64)}, {})


def test_a_file_says_where_it_is(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"\x02" + bytes(7) + b"[]")
    with pytest.raises(UnsafeInputError, match="no object") as refusal:
        TensorFile(tmp_path / "x")
    assert refusal.value.where == str(tmp_path / "x")
