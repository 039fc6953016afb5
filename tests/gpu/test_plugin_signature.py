"""The plugins have the signatures of ``moe_export/moe/schema.py``, and nothing else to show."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from moe_export.moe.schema import OPS

from .plugin_harness import (
    GPU_LIBRARY,
    HARNESS,
    HOST_LIBRARY,
    Harness,
    HarnessError,
    dynamic_axes,
    require,
)
from .plugin_nodes import PLUGINS, ROW_TYPES, PluginNode, gpu_problems, node_of

FLOATS = {np.dtype(dtype) for dtype in ROW_TYPES.values()}
F32, I32 = {np.dtype(np.float32)}, {np.dtype(np.int32)}
FORMATS = {
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "int4": ml_dtypes.int4,
}
NODES = {
    "Router": "Router-deepseek",
    "Experts": "Experts-biased",
    "Dispatch": "Dispatch-random",
    "GroupedMatMul": "GroupedMatMul-random-biased",
    "Combine": "Combine-random",
}


@pytest.fixture(scope="module")
def harness() -> Harness:
    require([HARNESS, HOST_LIBRARY])
    return Harness(HOST_LIBRARY)


def sample(op: str) -> PluginNode:
    return node_of(gpu_problems()[NODES[op]])


@pytest.mark.parametrize("op", PLUGINS)
def test_attributes_and_their_defaults_are_those_of_the_schema(harness: Harness, op: str) -> None:
    schema = OPS[op]
    required = ",".join(port.name for port in schema.inputs if not port.optional)
    # What must be given has a default that is refused.
    expected = {a.name: 0 if a.default is None else a.default for a in schema.attributes}
    declared = harness.declared(op)
    assert list(declared) == [*expected, "input_names"]
    assert declared.pop("input_names") == required
    for name, value in declared.items():
        default = expected[name]
        assert type(value) is type(default), name
        assert value == (np.float32(default) if isinstance(default, float) else default), name


@pytest.mark.parametrize("op", PLUGINS)
def test_a_plan_keeps_every_attribute_and_the_name(harness: Harness, op: str) -> None:
    node = sample(op)
    kept = harness.serialised(node, "layers.7.moe")
    assert kept.pop("node_name") == "layers.7.moe"
    expected = harness.declared(op) | node.all_attributes()
    assert kept == {
        name: float(np.float32(value)) if isinstance(value, float) else value
        for name, value in expected.items()
    }


@pytest.mark.parametrize("op", PLUGINS)
def test_an_op_takes_the_schema_s_inputs_and_no_others(harness: Harness, op: str) -> None:
    names = [port.name for port in OPS[op].inputs]
    required = {port.name for port in OPS[op].inputs if not port.optional}
    node = sample(op)
    for missing in required:
        inputs = {name: array for name, array in node.inputs.items() if name != missing}
        with pytest.raises(HarnessError, match="createPlugin returned null"):
            harness.live(PluginNode(op=op, attributes=node.attributes, inputs=inputs))
    more = {**node.inputs, "colour": np.zeros(1, np.float32)}
    with pytest.raises(HarnessError, match="createPlugin returned null"):
        harness.live(PluginNode(op=op, attributes=node.attributes, inputs=more))
    # Any order of inputs will do, as long as the node says which is which.
    backwards = {name: node.inputs[name] for name in reversed(names) if name in node.inputs}
    turned = harness.live(PluginNode(op=op, attributes=node.attributes, inputs=backwards))
    for one, other in zip(turned, harness.live(node), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("op", PLUGINS)
def test_every_tensor_takes_its_type_and_no_other(harness: Harness, op: str) -> None:
    """Over all types and formats; the harness fails where a format is taken that is not linear."""
    node, schema = sample(op), OPS[op]
    first_row = next(
        (i for i, name in enumerate(node.inputs) if name in ("x", "x_sorted", "y_sorted")), None
    )
    for position, name in enumerate(node.inputs):
        taken = harness.types_taken(node, position)
        if position == first_row:
            assert taken == FLOATS
        elif name in ("topk_ids", "order", "expert_offsets"):
            assert taken == I32
        else:  # the weights of the samples are float32
            assert taken == F32, name
    for index, output in enumerate(schema.outputs):
        taken = harness.types_taken(node, len(node.inputs) + index)
        assert taken == (I32 if output.type == "int32" else F32)


@pytest.mark.parametrize("weights", FORMATS)
def test_weights_have_the_type_of_their_format(harness: Harness, weights: str) -> None:
    integers = weights in ("int4", "int8")
    inputs = {
        "x_sorted": np.zeros((3, 64), ml_dtypes.bfloat16),
        "expert_offsets": np.zeros(3, np.int32),
        "weights": np.zeros((2, 5, 64), FORMATS[weights]),
    }
    if integers:
        inputs["scales"] = np.zeros((2, 5, 2 if weights == "int4" else 1), ml_dtypes.bfloat16)
    attributes = {"weight_format": weights, "block_size": 32 if weights == "int4" else 0}
    node = PluginNode(op="GroupedMatMul", attributes=attributes, inputs=inputs)
    assert harness.types_taken(node, 2) == {np.dtype(FORMATS[weights])}
    if integers:
        assert harness.types_taken(node, 3) == {np.dtype(ml_dtypes.bfloat16)}
    last = len(inputs)
    assert harness.types_taken(node, last) == {np.dtype(ml_dtypes.bfloat16)}


def test_what_varies_with_the_tokens_is_named_in_every_op() -> None:
    for op in PLUGINS:
        assert dynamic_axes(sample(op))


def test_a_machine_without_a_gpu_is_told_so(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOE_EXPORT_TEST_NO_GPU", "1")
    with pytest.raises(HarnessError, match="enqueue returned 1"):
        harness.live(sample("Router"), name="layers.3.router")
    words = "error: moe_export.Router node 'layers.3.router': no CUDA driver was found\n"
    assert capfd.readouterr().err == words


def test_a_node_without_tokens_needs_no_gpu(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_EXPORT_TEST_NO_GPU", "1")
    node = node_of(gpu_problems()["Experts-T0"])
    (y,) = harness.live(node)
    assert y.shape == (0, 33)


@pytest.mark.parametrize("library", [HOST_LIBRARY, GPU_LIBRARY], ids=["host", "gpu"])
def test_a_library_shows_two_entry_points_and_needs_the_system_alone(library: Path) -> None:
    require([library])
    listed = run("nm", "--dynamic", "--defined-only", str(library))
    assert {line.split()[-1] for line in listed.splitlines()} == {"getCreators", "setLoggerFinder"}
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "--dynamic", str(library)))
    system = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2"}
    assert set(needed) <= system


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
