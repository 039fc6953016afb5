"""Small models made by hand, in the form that the bundle stage takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from moe_export.bundle import bundle
from moe_export.bundle.staging import publish, seal, staging
from moe_export.forms import (
    Array,
    Asked,
    BlockRecord,
    Component,
    Continuation,
    ExpertCase,
    Golden,
    GoldenCase,
    LayerTensors,
    Place,
    PortableModel,
    Proof,
    Source,
    TargetModel,
    Weight,
)
from moe_export.moe.layer import ExpertsSpec, LayerSpec, RouterSpec

# y = x @ w + bias.  ``w`` is a weight, ``bias`` stays in the graph.
LINEAR = """
<ir_version: 10, opset_import: ["" : 21]>
linear (float[batch,4] x) => (float[batch,3] y)
<float[4,3] w = {0,0,0,0,0,0,0,0,0,0,0,0}, float[3] bias = {10, 20, 30}>
{
    rows = MatMul(x, w)
    y = Add(rows, bias)
}
"""
LINEAR_PROBE = LINEAR.replace("=> (float[batch,3] y)", "=> (float[batch,3] y, float[batch,3] rows)")

W = np.arange(12, dtype=np.float32).reshape(4, 3)


def linear_model(
    weights: dict[str, Array] | None = None, *, delay_s: float = 0.0, assets: dict | None = None
) -> TargetModel:
    """``LINEAR`` with further weights that only make it large; each takes ``delay_s`` to read."""
    arrays = {"w": W} | (weights or {})
    component = Component(
        graph=graph_with(LINEAR, arrays),
        weights={name: weight(array, delay_s=delay_s) for name, array in arrays.items()},
        probes={"block": {"experts_y": "rows"}},
    )
    return target_model(
        component, graph_with(LINEAR_PROBE, arrays), graph_with(LINEAR, {"w": W}), assets or {}
    )


def graph_with(text: str, weights: dict[str, Array]) -> ir.Model:
    """The graph in ``text``, whose initializers named in ``weights`` have no bytes."""
    model = ir.from_onnx_text(text)
    for name, array in weights.items():
        if name not in model.graph.initializers:
            tensor = ir.Tensor(np.zeros(1), name=name)
            model.graph.register_initializer(ir.Value(name=name, const_value=tensor))
        value = model.graph.initializers[name]
        value.const_value = None
        value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        value.shape = ir.Shape(array.shape)
    return model


def weight(array: Array, *, delay_s: float = 0.0) -> Weight:
    def read() -> Array:
        time.sleep(delay_s)
        return array

    return Weight(shape=array.shape, dtype=array.dtype, sources=("source",), read=read)


def target_model(
    component: Component, probe: ir.Model, experts: ir.Model, assets: dict[str, bytes]
) -> TargetModel:
    portable = PortableModel(
        components={"model": component},
        golden=golden(),
        blocks=(block_record(),),
        unused={"rope.inv_freq": "recomputed in the graph"},
        parameters=12,
        assets=assets,
        source=Source(description="toy.pt", fingerprint="ab" * 32),
    )
    return TargetModel(
        target="standard",
        portable=portable,
        components={"model": component},
        probe_graphs={"model": probe},
        expert_graphs={"model": experts},
        replay_graphs={"model": probe},
        functions={"Router": "top_k=2"},
    )


def borrowing_model() -> TargetModel:
    """``LINEAR`` twice: as ``lender``, and as ``borrower`` with the other's weight."""
    made = linear_model()
    (lender,) = made.components.values()
    borrowed = {"w": Place(component="lender", weight="w")}
    components = {"lender": lender, "borrower": replace(lender, borrowed=borrowed)}
    return replace(
        made,
        portable=replace(made.portable, components=components),
        components=components,
        probe_graphs=dict.fromkeys(components, made.probe_graphs["model"]),
        expert_graphs=dict.fromkeys(components, made.expert_graphs["model"]),
        replay_graphs=dict.fromkeys(components, made.replay_graphs["model"]),
    )


def block_record() -> BlockRecord:
    layer = LayerSpec(
        router=RouterSpec(num_experts=4, top_k=2, normalize=True, normalize_eps=1e-20),
        experts=ExpertsSpec(num_experts=4, hidden_size=4, intermediate_size=8, output_size=3),
    )
    proof = Proof(
        cases=("random", "ties"), tokens=96, max_error=2e-16, tolerance=1e-13, experts_reached=4
    )
    return BlockRecord(
        path="layers.0.moe",
        kind="SparseMoE",
        status="proven",
        found_by="structure",
        layer=layer,
        proof=proof,
    )


def golden() -> Golden:
    """Awkward on purpose: a name with slashes, the root block ``""``, a view, no rows at all."""
    x = np.arange(8, dtype=np.float32).reshape(4, 2).T
    y = x[:, :3] * 2
    layer = _filled(LayerTensors, x)
    case = GoldenCase(
        name="example",
        inputs={"x": x},
        outputs={"y": y, "heads/0/scale": np.array(2.0, np.float32)},
        outputs_reference={"y": y.astype(np.float64), "heads/0/scale": np.array(2.5)},
        outputs_edge_error={"y": np.zeros(()), "heads/0/scale": np.ones(())},
        outputs_rewritten_error={"y": np.ones(()), "heads/0/scale": np.full((), np.nan)},
        layers={"": layer, "layers.0.moe": layer},
        modality=np.array([[1, 2, 3]], np.uint8),
    )
    empty = GoldenCase(
        name="no rows",
        inputs={"x": x[:0]},
        outputs={"y": y[:0]},
        outputs_reference={"y": y[:0].astype(np.float64)},
        outputs_edge_error={"y": np.zeros(())},
        outputs_rewritten_error={"y": np.zeros(())},
        layers={},
    )
    asked = Asked(
        ids=np.array([[5, 6, 7]]),
        positions=np.arange(9).reshape(3, 1, 3),
        modality=np.array([[1, 2, 1]], np.uint8),
        images={"pixel_values": x},
    )
    said = Continuation(
        name="text",
        asked=asked,
        likeliest=np.array([[3, 4], [8, 2]]),
        log_probabilities=np.array([[-0.1, -3.0], [-0.7, -0.8]]),
        margins={"": np.array([0.5, 0.25])},
    )
    experts = {"": _filled(ExpertCase, x)}
    return Golden(cases=(case, empty), experts=experts, continuations=(said,))


def _filled(kind: type, x: Array) -> object:
    """Each tensor of the record ``kind`` different from the others."""
    arrays = {field.name: x + number for number, field in enumerate(fields(kind))}
    ids = np.array([[0, 1], [3, 2]], np.int32)
    doubles = {name: y.astype(np.float64) for name, y in arrays.items() if "reference" in name}
    single = {name: np.array(y.max(), np.float64) for name, y in arrays.items() if "error" in name}
    own: dict[str, Array] = {"topk_ids": ids}
    if kind is LayerTensors:
        own |= {"modality": np.array([1, 2], np.uint8), "rivals": ids[::-1]}
    return kind(**arrays | doubles | single | own)


def tensors(value: object) -> Iterator[tuple[str, Array]]:
    """Every array inside ``value`` (dataclasses, mappings, tuples), by its path."""
    if isinstance(value, np.ndarray):
        yield "", value
        return
    if isinstance(value, tuple):
        value = dict(enumerate(value))
    items = (value if isinstance(value, Mapping) else getattr(value, "__dict__", {})).items()
    for name, item in items:
        for path, array in tensors(item):
            yield f"{name}/{path}", array


def export(model: TargetModel, output: Path, *, force: bool = False, reports=None) -> None:
    """What the pipeline does with the bundle room."""
    with staging(output, force=force) as place:
        bundle(model, place)
        seal(place, reports=reports or {"parity.json": b"{}\n"}, verdict="passed")
        publish(place, output, force=force)


VOCABULARY = {
    word: index
    for index, word in enumerate(
        ["<pad>", "<bos>", "<eos>", "which", "digit", "seven", "nine", "or", "so"]
    )
}

# A bigram model, and for each row of the batch the mean of its image on top of every logit of
# its own direction: logits[b,s,v] = table[tokens[b,s],v] + mean(image[b]) * bright[v].
BIGRAM = """
<ir_version: 10, opset_import: ["" : 21]>
bigram (int64[batch,sequence] tokens, float[batch,2,2] image)
    => (float[batch,sequence,9] logits)
<float[9,9] table = {%s}, float[9] bright = {%s}, int64[2] pixels = {1, 2}>
{
    following = Gather(table, tokens)
    light = ReduceMean(image, pixels)
    tilt = Mul(light, bright)
    logits = Add(following, tilt)
}
"""


def bigram_model(
    *,
    edit_config: Callable[[dict], None] = lambda config: None,
    edit_preprocessor: Callable[[dict], None] = lambda config: None,
    without: tuple[str, ...] = (),
) -> TargetModel:
    """Answers "seven" to "which digit" of a dark image, "nine or so" of a bright one."""
    v = VOCABULARY
    table = np.zeros((9, 9), np.float32)
    chain = {"which": "digit", "digit": "seven", "seven": "<eos>", "nine": "or", "or": "so"}
    for word, following in {**chain, "so": "<eos>", "<bos>": "which"}.items():
        table[v[word], v[following]] = 10
    table[v["digit"], v["nine"]] = 9
    bright = np.zeros(9, np.float32)
    bright[v["nine"]] = 4
    arrays = {"table": table, "bright": bright}
    text = BIGRAM % (",".join("0" * 81), ",".join("0" * 9))
    component = Component(
        graph=graph_with(text, arrays),
        weights={name: weight(array) for name, array in arrays.items()},
        probes={},
    )
    config = {
        "text_input": "tokens",
        "logits_output": None,
        "eos_token_id": v["<eos>"],
        "pad_token_id": v["<pad>"],
        "max_new_tokens": 6,
        "max_length": 12,
    }
    preprocessor = {
        "image_input": "image",
        "size": {"height": 2, "width": 2},
        "mode": "L",
        "rescale_factor": 1 / 255,
        "layout": "HW",
    }
    edit_config(config)
    edit_preprocessor(preprocessor)
    assets = {
        "generation_config.json": json.dumps(config).encode(),
        "preprocessor_config.json": json.dumps(preprocessor).encode(),
        "tokenizer.json": tokenizer().to_str().encode(),
    }
    kept = {name: content for name, content in assets.items() if name not in without}
    return target_model(component, graph_with(text, arrays), graph_with(text, arrays), kept)


def tokenizer() -> Tokenizer:
    made = Tokenizer(WordLevel(VOCABULARY, unk_token="<pad>"))  # noqa: S106 - a word
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    made.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", VOCABULARY["<bos>"])]
    )
    return made
