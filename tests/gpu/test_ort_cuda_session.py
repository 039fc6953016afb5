"""The GPU kernels' custom ops in the ONNX Runtime of this machine, which has no CUDA provider.

A twin of the library has the same ops for the CPU provider, over kernels for the host: what ONNX
Runtime does with them, with types, optional inputs, functions and memory, is the real thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from house.pages import ROOT
from moe_export.errors import MissingEnvironmentError
from moe_export.forms import GoldenCase, TensorParity
from moe_export.moe.schema import DOMAIN, OPS, VERSION
from moe_export.runtime import cuda_kernels
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.session import Session
from moe_export.validate import validate
from moe_export.validate.tensors import compare
from problems import Problem

from .ort_harness import CPU_PROVIDER_LIBRARY, GPU_LIBRARY
from .plugin_harness import require
from .plugin_nodes import ROW_TYPES, ROWS, PluginNode, node_of
from .test_plugin_results import PROBLEMS, require_close

Array = npt.NDArray[Any]

PRECISIONS = ("f32", "bf16", "int4:32")


@pytest.fixture(scope="module")
def cpu_provider_library() -> Path:
    require([CPU_PROVIDER_LIBRARY])
    return CPU_PROVIDER_LIBRARY


def session(
    model: str | bytes, library: Path | None, provider: str = "CPUExecutionProvider"
) -> ort.InferenceSession:
    """On that provider alone."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if library is not None:
        options.register_custom_ops_library(str(library))
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(model, options, providers=[provider])


def require_solved(problem: Problem, row_type: str, library: Path, provider: str) -> None:
    """The problem's node on ``provider`` gives what the op is defined to give."""
    node = node_of(problem, row_type)
    made = session(graph_of(node), library, provider)
    feeds = {
        value.name: node.inputs[value.name].astype(np.float32)
        if value.name in ROWS
        else node.inputs[value.name]
        for value in made.get_inputs()
    }
    got = made.run(None, feeds)
    if problem.op in ("Experts", "GroupedMatMul", "Combine"):
        with np.errstate(over="ignore"):
            got = [got[0].astype(ROW_TYPES[row_type])]  # exact: it was widened from there
    require_close(problem, got, row_type)


def graph_of(node: PluginNode) -> bytes:
    """One node; rows come and go as float32 and are cast, for NumPy has no bfloat16."""
    schema = OPS[node.op]
    fed, constants, nodes = [], [], []
    values: dict[str, ir.Value] = {}
    row = ir.DataType.FLOAT
    for port in schema.inputs:
        if port.name not in node.inputs:
            continue
        tensor = ir.tensor(node.inputs[port.name])
        value = ir.Value(name=port.name, type=ir.TensorType(tensor.dtype))
        values[port.name] = value
        if port.type in ("weight", "scale"):
            value.shape, value.const_value = tensor.shape, tensor
            constants.append(value)
            continue
        value.shape = ir.Shape([f"{port.name}_{axis}" for axis in range(len(tensor.shape))])
        fed.append(value)
        if port.name in ROWS and tensor.dtype != ir.DataType.FLOAT:
            row, value.type = tensor.dtype, ir.TensorType(ir.DataType.FLOAT)
            nodes.append(ir.node("Cast", [value], {"to": row}))
            values[port.name] = nodes[-1].outputs[0]
    arguments = [values.get(port.name) for port in schema.inputs]
    while arguments[-1] is None:
        arguments.pop()
    made = [
        ir.Value(
            name=port.name,
            type=ir.TensorType(ir.DataType.INT32 if port.type == "int32" else row),
        )
        for port in schema.outputs
    ]
    attributes = ir.convenience.convert_attributes(dict(node.attributes))
    nodes.append(ir.Node(DOMAIN, node.op, arguments, attributes, outputs=made, name="layers.0"))
    if row != ir.DataType.FLOAT:
        nodes.append(ir.node("Cast", [made[0]], {"to": ir.DataType.FLOAT}))
        made = [nodes[-1].outputs[0]]
        made[0].name, made[0].type = "wide", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        fed,
        made,
        nodes=nodes,
        initializers=constants,
        opset_imports={"": 21, DOMAIN: VERSION},
        name=node.op,
    )
    return ir.serde.serialize_model(ir.Model(graph, ir_version=10)).SerializeToString()


@pytest.mark.parametrize(("name", "row_type"), PROBLEMS)
def test_an_op_solves_the_problem_in_onnx_runtime(
    cpu_provider_library: Path, name: str, row_type: str
) -> None:
    problem = PROBLEMS[name, row_type]
    require_solved(problem, row_type, cpu_provider_library, "CPUExecutionProvider")


@pytest.fixture(scope="module", params=PRECISIONS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model of two MoE layers, and one that is exported as it is written, for the device cuda."""
    import moe_export

    return moe_export.export(
        "tiny_vlm:tiny",
        output=tmp_path_factory.mktemp("cuda") / "tiny.moe",
        python_path=[ROOT / "tests" / "cli" / "models"],
        device="cuda",
        precision=request.param,
    )


def test_the_bundle_says_that_it_is_for_a_gpu_and_needs_none(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.target, manifest.device, manifest.kernels) == ("ort", "cuda", None)
    assert manifest.verdict == "passed"
    assert str(manifest.precision).endswith("@bf16") == (str(manifest.precision)[:3] == "int")


def test_the_kernels_win_over_the_bodies_and_agree(
    bundle: Bundle, cpu_provider_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(bundle.graph_path("model", "main"))
    kernels = session(path, cpu_provider_library)
    for case in bundle.golden().cases:
        with Session(bundle) as bodies:
            expected = bodies.run(case.inputs)
        got = dict(zip(expected, kernels.run(list(expected), dict(case.inputs)), strict=True))
        for name in case.outputs:
            for made in (got, expected):
                assert _compared(case, name, made).passed
    monkeypatch.setenv("MOE_EXPORT_TEST_NO_GPU", "1")
    with pytest.raises(errors.InvalidArgument, match=r"node 'moes.*no CUDA driver was found"):
        kernels.run(None, dict(bundle.golden().cases[0].inputs))


def _compared(case: GoldenCase, name: str, made: Mapping[str, Array]) -> TensorParity:
    return compare(
        case.name,
        name,
        "output",
        bundle=made[name],
        eager=case.outputs[name],
        reference=case.outputs_reference[name],
        edge_error=float(case.outputs_edge_error[name]),
    )


def test_where_only_the_library_is_there_the_bodies_are_hidden(bundle: Bundle) -> None:
    """Why a session registers it only for the CUDA provider: an op that is known has no body."""
    require([GPU_LIBRARY])
    with pytest.raises(errors.NotImplemented, match=r"Could not find an implementation for Router"):
        session(str(bundle.graph_path("model", "main")), GPU_LIBRARY)


def test_registering_the_library_leaves_other_graphs_alone() -> None:
    require([GPU_LIBRARY])
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    node = ir.node("Add", [x, x])
    node.outputs[0].name, node.outputs[0].type = "y", x.type
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 21}, name="g")
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10)).SerializeToString()
    (y,) = session(model, GPU_LIBRARY).run(None, {"x": np.ones(3, np.float32)})
    np.testing.assert_array_equal(y, np.full(3, 2, np.float32))


def test_validation_says_what_it_did_not_run(bundle: Bundle) -> None:
    if cuda_kernels.PROVIDER in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has a CUDA provider")
    report = validate(bundle)
    assert report.passed
    assert report.not_run == {"CUDA kernels": "this ONNX Runtime has no CUDAExecutionProvider"}


def test_a_session_that_is_told_to_use_the_gpu_says_what_is_missing(bundle: Bundle) -> None:
    if cuda_kernels.PROVIDER in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has a CUDA provider")
    with pytest.raises(MissingEnvironmentError, match="has no CUDAExecutionProvider"):
        Session(bundle, providers=(cuda_kernels.PROVIDER,))


@pytest.mark.parametrize("what", ["missing", "no library", "of something else", "another ABI"])
def test_a_library_that_is_not_the_right_one_is_named(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require([GPU_LIBRARY])
    file = tmp_path / "library.so"
    named, words = {
        "missing": (file, f"the library of GPU kernels is not there.*{file}"),
        "no library": (file, "cannot be loaded"),
        "of something else": (Path(np._core._multiarray_umath.__file__), "moe_export_ort_cuda_abi"),
        "another ABI": (GPU_LIBRARY, "have ABI 1, this moe-export needs 2"),
    }[what]
    if what == "no library":
        file.write_text("not a library\n")
    if what == "another ABI":
        monkeypatch.setattr(cuda_kernels, "ABI", 2)
    monkeypatch.setenv("MOE_EXPORT_ORT_CUDA_LIBRARY", str(named))
    with pytest.raises(MissingEnvironmentError) as caught:
        cuda_kernels.register(ort.SessionOptions())
    assert re.search(words, str(caught.value), re.DOTALL)


def test_the_library_is_accepted_by_this_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    require([GPU_LIBRARY])
    monkeypatch.setenv("MOE_EXPORT_ORT_CUDA_LIBRARY", str(GPU_LIBRARY))
    cuda_kernels.register(ort.SessionOptions())
