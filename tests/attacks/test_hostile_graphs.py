"""A graph may read its weights from one file only, and only within it."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest

from attacks.hostile import edit_manifest, replace_file
from bundle.toy import borrowing_model, export
from moe_export.errors import UnsafeInputError
from moe_export.runtime import Bundle, Session
from moe_export.runtime.wire import external_data

GRAPHS = ["onnx/model.onnx", "onnx/model.probe.onnx", "onnx/model.experts.onnx"]


def external(**facts) -> onnx.TensorProto:
    """A float tensor ``stolen [2]`` whose data is said to be where ``facts`` say."""
    tensor = onnx.TensorProto(name="stolen", data_type=onnx.TensorProto.FLOAT, dims=[2])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in facts.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def location(text: str) -> onnx.TensorProto:
    return external(location=text, offset=0, length=8)


def in_initializer(model, tensor):
    model.graph.initializer.append(tensor)


def in_attribute(model, tensor):
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["s"], value=tensor))


def in_list(model, tensor):
    node = model.graph.node.add(op_type="Constant")
    node.attribute.add(name="tensors", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)


def in_subgraph(model, tensor):
    branch = onnx.GraphProto(name="branch", initializer=[tensor])
    for _ in range(3):
        node = onnx.helper.make_node("If", ["c"], ["s"], then_branch=branch)
        branch = onnx.GraphProto(name="outer", node=[node])
    model.graph.node.extend(branch.node)


def in_graphs_attribute(model, tensor):
    node = model.graph.node.add(op_type="X")
    attribute = node.attribute.add(name="graphs", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.add(initializer=[tensor])


def in_sparse_initializer(model, tensor):
    model.graph.sparse_initializer.add(dims=[2]).values.CopyFrom(tensor)


def in_sparse_indices(model, tensor):
    node = model.graph.node.add(op_type="Constant")
    sparse = onnx.SparseTensorProto(indices=tensor)
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(sparse)
    attribute.sparse_tensors.add().CopyFrom(sparse)


def in_function(model, tensor):
    node = onnx.helper.make_node("Constant", [], ["s"], value=tensor)
    model.functions.add(name="f", domain="d").node.append(node)


def in_function_default(model, tensor):
    attribute = onnx.helper.make_attribute("a", tensor)
    model.functions.add(name="f", domain="d").attribute_proto.append(attribute)


def in_training(model, tensor):
    model.training_info.add().initialization.initializer.append(tensor)
    model.training_info.add().algorithm.initializer.append(tensor)


PLACES = [
    in_initializer,
    in_attribute,
    in_list,
    in_subgraph,
    in_graphs_attribute,
    in_sparse_initializer,
    in_sparse_indices,
    in_function,
    in_function_default,
    in_training,
]


def infect(root, name, place, tensor):
    model = onnx.load(root / name, load_external_data=False)
    place(model, tensor)
    replace_file(root, name, model.SerializeToString())


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_reference_out_of_the_bundle_is_found_wherever_it_hides(victim, place):
    infect(victim, GRAPHS[0], place, location("/etc/passwd"))
    with pytest.raises(UnsafeInputError, match="reads '/etc/passwd'") as refusal:
        Bundle.open(victim)
    assert refusal.value.where.endswith(GRAPHS[0])


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_the_bundle_is_looked_into(victim, name):
    infect(victim, name, in_initializer, location("../../secret"))
    with pytest.raises(UnsafeInputError, match=r"reads '\.\./\.\./secret'") as refusal:
        Bundle.open(victim)
    assert refusal.value.where.endswith(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../onnx/model.onnx.data",
        "./model.onnx.data",
        "model.onnx.data/",
        "model.onnx.data\0",
        "MODEL.onnx.data",
        "model.onnx",
        "../tokenizer.json",
        "*/_ORT_MEM_ADDR_/*",
        "file:///etc/passwd",
        "C:\\secret",
    ],
)
def test_no_other_file_can_be_named(victim, text):
    infect(victim, GRAPHS[0], in_initializer, location(text))
    with pytest.raises(UnsafeInputError, match="not the component's own"):
        Bundle.open(victim)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"offset": 0, "length": 10**9}, "which has"),
        ({"offset": 10**9, "length": 8}, "which has"),
        ({"offset": 2**62, "length": 2**62}, "not an offset or a length"),
        ({"offset": 10**17, "length": 10**17}, "which has"),
        ({"offset": -1, "length": 8}, "not an offset or a length"),
        ({"offset": " 0", "length": 8}, "not an offset or a length"),
        ({"offset": "0x10", "length": 8}, "not an offset or a length"),
        ({"offset": "\u0661", "length": 8}, "not an offset or a length"),
        ({"offset": 0}, "described by"),
        ({"length": 8}, "described by"),
        ({"offset": 0, "length": 8, "checksum": "x"}, "described by"),
        ({}, "described by"),
    ],
)
def test_data_must_lie_within_the_file(victim, facts, message):
    infect(victim, GRAPHS[0], in_initializer, external(location="model.onnx.data", **facts))
    with pytest.raises(UnsafeInputError, match=message):
        Bundle.open(victim)


@pytest.fixture(scope="session")
def pristine_pair(tmp_path_factory):
    """Two components, one of which borrows its weight from the other."""
    path = tmp_path_factory.mktemp("pristine") / "pair"
    export(borrowing_model(), path)
    return path


@pytest.fixture
def pair(pristine_pair, tmp_path):
    return shutil.copytree(pristine_pair, tmp_path / "pair")


def test_what_a_component_borrows_is_read_where_it_lies(pair):
    bundle = Bundle.open(pair)
    lender, borrower = (bundle.manifest.components[name] for name in ("lender", "borrower"))
    assert (lender.also_reads, borrower.also_reads) == ((), (lender.data,))
    assert bundle.manifest.files[borrower.data].bytes == 0
    x = np.eye(4, dtype=np.float32)
    made = [
        Session(bundle, component=name).run({"x": x})["y"].tobytes()
        for name in ("lender", "borrower")
    ]
    assert made[0] == made[1]


def also_reads(root, component, *paths):
    edit_manifest(root, lambda m: m["components"][component].update(also_reads=list(paths)))


def test_a_component_reads_another_s_data_only_where_the_manifest_says_so(pair):
    also_reads(pair, "borrower")
    with pytest.raises(UnsafeInputError, match="not the component's own 'onnx/borrower"):
        Bundle.open(pair)


def test_what_is_borrowed_lies_within_the_other_s_file(pair):
    facts = {"location": "lender.onnx.data", "offset": 0, "length": 10**6}
    infect(pair, "onnx/borrower.onnx", in_initializer, external(**facts))
    with pytest.raises(UnsafeInputError, match=r"of 'onnx/lender.*, which has 48"):
        Bundle.open(pair)


@pytest.mark.parametrize(
    "path",
    [
        "onnx/borrower.onnx.data",
        "onnx/lender.onnx",
        "golden/golden.safetensors",
        "../secret",
        "/etc/passwd",
        "",
    ],
)
def test_only_data_of_another_component_can_be_borrowed(pair, path):
    also_reads(pair, "borrower", path)
    with pytest.raises(UnsafeInputError, match=r"no other component's data|is not in files"):
        Bundle.open(pair)


def test_borrowed_data_that_was_changed_is_refused(pair):
    path = pair / "onnx/lender.onnx.data"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UnsafeInputError, match="SHA-256"):
        Bundle.open(pair)


def test_a_location_stated_twice_is_refused(victim):
    tensor = external(location="model.onnx.data", offset=0, length=8)
    tensor.external_data.add(key="location", value="/etc/passwd")
    infect(victim, GRAPHS[0], in_initializer, tensor)
    with pytest.raises(UnsafeInputError, match="states its 'location' twice"):
        Bundle.open(victim)


def test_a_reference_counts_even_where_the_tensor_says_it_has_none(victim):
    tensor = location("/etc/passwd")
    tensor.data_location = onnx.TensorProto.DEFAULT
    infect(victim, GRAPHS[0], in_initializer, tensor)
    with pytest.raises(UnsafeInputError, match="/etc/passwd"):
        Bundle.open(victim)


def test_a_graph_split_into_parts_that_merge_is_seen_whole(victim):
    """Protocol Buffers merge a message that occurs twice: the second half may hold the theft."""
    half = onnx.ModelProto(graph=onnx.GraphProto(initializer=[location("/etc/passwd")]))
    content = (victim / GRAPHS[0]).read_bytes() + half.SerializeToString()
    assert onnx.ModelProto.FromString(content).graph.initializer[-1].name == "stolen"
    replace_file(victim, GRAPHS[0], content)
    with pytest.raises(UnsafeInputError, match="/etc/passwd"):
        Bundle.open(victim)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x3a\x05ab", "reaches past the end"),
        (b"\x3a", "cut off"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "longer than ten"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "reaches past the end"),
        (b"\x3b\x3c", "wire type 3"),
        (b"\x02\x00", "the number 0"),
        (b"\x3a\x04\x2a\x02\x42\x01", "reaches past the end"),
        (b"\x3a\x05\x2a\x03\x42\x01\xff", "utf-8"),
    ],
)
def test_bytes_that_are_no_message_are_refused(victim, content, message):
    replace_file(victim, GRAPHS[0], content)
    if message == "utf-8":  # a name is read only where it has to be reported
        content = b""
        with pytest.raises(ValueError, match=message):
            list(external_data(b"\x3a\x05\x2a\x03\x42\x01\xff"))
        return
    with pytest.raises(UnsafeInputError, match=message):
        Bundle.open(victim)


def test_nesting_that_would_exhaust_the_stack_is_refused(victim):
    """If in If in If: node (1) -> attribute (5) -> g (6)."""
    message = b""
    for _ in range(300):
        for number in (6, 5, 1):
            message = bytes([number << 3 | 2]) + varint(len(message)) + message
    replace_file(victim, GRAPHS[0], b"\x3a" + varint(len(message)) + message)
    with pytest.raises(UnsafeInputError, match="nested deeper"):
        Bundle.open(victim)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_the_fields_are_numbered_as_the_onnx_package_numbers_them():
    """The reader knows ONNX by field numbers alone; here they meet the real definition."""
    from moe_export.runtime import wire

    for kind, children in wire._CHILDREN.items():
        descriptor = getattr(onnx, f"{kind}Proto").DESCRIPTOR
        for number, child in children.items():
            field = descriptor.fields_by_number[number]
            assert field.message_type.name == f"{child}Proto", (kind, field.name)
    leads_to_tensor = {f"{kind}Proto" for kind in (*wire._CHILDREN, "Tensor")}
    for kind, children in wire._CHILDREN.items():
        for field in getattr(onnx, f"{kind}Proto").DESCRIPTOR.fields:
            if field.message_type and field.message_type.name in leads_to_tensor:
                assert field.number in children, f"{kind}.{field.name} is never looked into"
    numbers = {field.name: field.number for field in onnx.TensorProto.DESCRIPTOR.fields}
    assert numbers["name"] == wire._TENSOR_NAME
    assert numbers["external_data"] == wire._TENSOR_EXTERNAL_DATA
    assert numbers["data_location"] == wire._TENSOR_DATA_LOCATION
    assert onnx.TensorProto.EXTERNAL == wire._EXTERNAL
