"""The words ``--device cuda``, the graphs made for it, and the library that ships."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from engines.test_lowering import QUANTIZED, ROWS, attributes, component, run, stored
from moe_export.errors import UnsupportedError, UsageError
from moe_export.lower import ort_cuda, standard
from moe_export.lower.gpu_nodes import GPU_OPS, give_gates_first, give_narrow_scales, gpu_nodes
from moe_export.moe.schema import DOMAIN
from moe_export.moe.tolerance import FLOAT32_EPS
from moe_export.spec import export_spec

from .ort_harness import GPU_LIBRARY
from .plugin_harness import require


@pytest.fixture
def numbers() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shapes = {"up": (3, 10, 6), "down": (3, 6, 5), "last": (3, 6, 6), "bias": (3, 6)}
    return {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


@pytest.fixture
def even_numbers() -> dict[str, np.ndarray]:
    """Rows of whole bytes in int4."""
    random = np.random.default_rng(5)
    shapes = {"up": (3, 12, 6), "down": (3, 6, 6), "last": (3, 6, 6), "bias": (3, 6)}
    return {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


@pytest.mark.parametrize("target", ["standard", "trt", "trt-rtx"])
def test_only_one_target_has_a_choice_of_device(target: str) -> None:
    with pytest.raises(UsageError, match="no choice of device") as caught:
        export_spec("model.pt", target=target, device="cuda")
    assert "--target ort" in str(caught.value)
    assert export_spec("model.pt", target=target).device == "cpu"


def test_a_device_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown device 'gpu'") as caught:
        export_spec("model.pt", device="gpu")
    assert "cpu, cuda" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("f32", "f32"),
        ("bf16", "bf16"),
        ("int8", "int8@bf16"),
        ("int4:32", "int4:32@bf16"),
        ("int4:64@f32", "int4:64@f32"),
    ],
)
def test_integers_meet_rows_of_bfloat16_on_a_gpu(asked: str, meant: str) -> None:
    spec = export_spec("model.pt", device="cuda", precision=asked, dense_precision=asked)
    assert (str(spec.precision), str(spec.dense_precision)) == (meant, meant)
    assert str(export_spec("model.pt", precision=asked).precision) == asked


@pytest.mark.parametrize("precision", ["f32", "int8@bf16", "int4:32@bf16"])
def test_a_graph_for_the_gpu_has_rows_narrow_scales_and_functions(
    even_numbers: dict[str, np.ndarray], precision: str
) -> None:
    if precision == "f32":
        given = component(even_numbers, ROWS, "")
    else:
        form, block = precision.partition("@")[0], 32 if ":" in precision else 0
        storage = f', weight_format = "{form[:4]}", block_size = {block}, row_format = "bf16"'
        given = component(stored(even_numbers, precision), QUANTIZED, storage)
    lowered = ort_cuda.lower_component(given).component
    graph = lowered.graph
    assert {node.op_type for node in graph.graph.all_nodes() if node.domain == DOMAIN} <= GPU_OPS
    for node in gpu_nodes(graph):
        assert (node.domain, node.op_type, node.overload) in graph.functions
        assert attributes(node).get("weight_layout", "rows") == "rows"
        assert attributes(node).get("gate_layout", "concatenated") == "concatenated"
        assert "plugin_namespace" not in node.attributes
    for name, weight in lowered.weights.items():
        assert graph.graph.initializers[name].dtype == ir.DataType.from_numpy(weight.dtype)
        if name.endswith("scales"):
            assert weight.dtype == ml_dtypes.bfloat16
    gates, values = given.weights["up"].read()[:, 0::2], given.weights["up"].read()[:, 1::2]
    np.testing.assert_array_equal(
        lowered.weights["up"].read().astype(np.float32),
        np.concatenate([gates, values], axis=1).astype(np.float32),
    )

    again = give_narrow_scales(graph, give_gates_first(graph, lowered.weights))
    assert all(again[name] is weight for name, weight in lowered.weights.items())

    random = np.random.default_rng(4)
    x = random.standard_normal((5, 6)).astype(np.float32)
    logits = random.standard_normal((5, 3)).astype(np.float32)
    made, meant = (
        run(each, x, logits) for each in (lowered, standard.lower_component(given).component)
    )
    # Three products, whose sums of 6 numbers may be taken in another order.
    np.testing.assert_allclose(made, meant, rtol=0, atol=3 * 6 * FLOAT32_EPS * np.abs(meant).max())


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("", "weights with rows of int8"),
        (', row_format = "bf16"', "rows of 5 int4 end within a byte"),
    ],
)
def test_what_gpu_kernels_cannot_do_is_refused_by_the_node_s_name(
    numbers: dict[str, np.ndarray], storage: str, words: str
) -> None:
    form = "int4" if storage else "int8"
    rows = storage or ', row_format = "int8"'
    given = component(
        stored(numbers, form), QUANTIZED, f', weight_format = "{form}", block_size = 0{rows}'
    )
    with pytest.raises(UnsupportedError, match=words) as caught:
        ort_cuda.lower_component(given)
    assert "layer1/Experts" in str(caught.value)


def output_of(*command: str) -> str:
    """Skips where the machine has no such program."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def library() -> Path:
    require([GPU_LIBRARY])
    return GPU_LIBRARY


def test_only_what_is_meant_to_be_called_is_exported(library: Path) -> None:
    symbols = output_of("nm", "-D", "--defined-only", str(library))
    assert {line.split()[-1] for line in symbols.splitlines()} == {
        "RegisterCustomOps",
        "moe_export_ort_cuda_abi",
    }


def test_the_library_links_to_no_cuda_and_brings_its_c_plus_plus_library(library: Path) -> None:
    needed = output_of("objdump", "-p", str(library))
    assert "NEEDED" in needed
    for name in ("cuda", "cudart", "nvrtc", "libstdc++", "onnxruntime"):
        assert name not in "".join(line for line in needed.splitlines() if "NEEDED" in line)
