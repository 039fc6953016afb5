"""What several components read is stored once; a table that a product has in panels, there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from moe_export.capture.precision import DENSE, give_precision
from moe_export.forms import Array, Component, Place, Weight
from moe_export.lower.once import store_once
from moe_export.lower.ort import give_panels
from moe_export.lower.tables import read_in_panels
from moe_export.moe.quantize import parse_precision
from moe_export.ondisk import Spool

COLUMNS = 5

EMBED = """
<ir_version: 10, opset_import: ["" : 21]>
embed (int64[N,S] ids) => (float[N,S,5] y, float[N,S,5] twice)
{
    y = Gather (table, ids)
    more = Gather <axis = 0> (table, ids)
    twice = Add (y, more)
}
"""
# Other ways to read a table, each of which needs it whole or by other ids.
OTHERS = {
    "a sum": "s = ReduceSum (table) y = Gather (table, ids)",
    "columns": "y = Gather <axis = 1> (table, ids)",
    "short ids": "few = Cast <to = 6> (ids) y = Gather (table, few)",
}
HEAD = """
<ir_version: 10, opset_import: ["" : 21, "moe_export" : 1]>
head (float[T,5] x) => (float[T,V] y)
{
    y = moe_export.Linear (x, weight)
}
"""


def graph_of(text: str, name: str, array: Array) -> ir.Model:
    """The graph, with an initializer of the array's form and no bytes."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    model.graph.initializers[name].const_value = None
    return model


def numbers(rows: int) -> Array:
    """Rows that are all different, some of which are no finite numbers."""
    made = np.random.default_rng(rows).standard_normal((rows, COLUMNS)).astype(np.float32)
    made[1::7] = np.nan
    made[2::7] = np.inf
    made[3::7, 0] = -0.0
    return made


def components(array: Array, text: str = EMBED, **facts: Any) -> dict[str, Component]:
    """A table and a head of the same numbers, the head in panels."""
    weight = Weight(
        shape=array.shape, dtype=array.dtype, sources=("s",), read=lambda: array, origin="numbers"
    )
    head = graph_of(HEAD, "weight", array)
    stored = give_precision(
        head, {"weight": weight}, parse_precision(facts.get("dense", "f32")), Spool(), DENSE
    )
    panels = give_panels(head, stored)
    table = replace(weight, origin=facts.get("origin", "numbers"))
    return {
        "embed": Component(
            graph=graph_of(text, "table", array), weights={"table": table}, probes={}
        ),
        "head": Component(graph=head, weights=panels, probes={}),
    }


def run(component: Component, inputs: Mapping[str, Array]) -> list[Array]:
    """What stock ONNX Runtime makes of a component's graph with its weights in it."""
    model = component.graph.clone()
    for name, weight in component.weights.items():
        model.graph.initializers[name].const_value = ir.Tensor(weight.read(), name=name)
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


@pytest.mark.parametrize("rows", [1, 16, 37, 320])
def test_rows_from_panels_are_those_of_the_table_to_the_bit(rows: int) -> None:
    array = numbers(rows)
    made = read_in_panels(components(array))
    random = np.random.default_rng(0)
    for shape in ((1, 1), (2, 9), (1, 0)):
        ids = random.integers(0, rows, shape)
        y, _ = run(made["embed"], {"ids": ids})
        assert y.tobytes() == array[ids].tobytes()
    every = np.arange(rows)[None]
    assert run(made["embed"], {"ids": every})[0].tobytes() == array.tobytes()


@pytest.mark.parametrize("wrong", [-1, -17, 37, 47, 48, 2**40])
def test_an_id_that_is_no_row_s_fails(wrong: int) -> None:
    made = read_in_panels(components(numbers(37)))
    with pytest.raises(Exception, match="out of data bounds"):
        run(made["embed"], {"ids": np.array([[0, wrong]])})


def test_the_table_is_no_weight_any_more_and_its_numbers_are_borrowed() -> None:
    before = components(numbers(37))
    made = read_in_panels(before)["embed"]
    assert made.weights.keys() == made.borrowed.keys() == {"table.panels"}
    assert made.borrowed["table.panels"] == Place(component="head", weight="weight", start=64)
    weight = made.weights["table.panels"]
    assert weight.shape == weight.read().shape == (3 * 16 * COLUMNS,)
    assert "table" not in made.graph.graph.initializers
    assert [value.name for value in made.graph.graph.outputs] == ["y", "twice"]
    assert before["embed"].weights.keys() == {"table"}, "components are left alone"


def test_a_second_run_does_nothing() -> None:
    made = store_once(read_in_panels(components(numbers(37))))
    again = store_once(read_in_panels(made))
    assert again == made
    texts = [onnx.printer.to_text(ir.to_proto(each["embed"].graph)) for each in (made, again)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("dense", ["bf16", "f16", "int8", "int4"])
def test_rounded_panels_hold_other_numbers_than_the_table(dense: str) -> None:
    before = components(numbers(16)[:1].repeat(16, 0), dense=dense)
    assert store_once(read_in_panels(before)) == before


@pytest.mark.parametrize("origin", ["others", None])
def test_other_numbers_are_not_looked_up(origin: str | None) -> None:
    before = components(numbers(37), origin=origin)
    assert store_once(read_in_panels(before)) == before


@pytest.mark.parametrize("how", OTHERS)
def test_a_table_that_is_read_otherwise_stays_one(how: str) -> None:
    text = EMBED[: EMBED.index("{")].replace(", float[N,S,5] twice", "")
    before = components(numbers(37), text + "{" + OTHERS[how] + "}")
    assert store_once(read_in_panels(before)) == before


def plain(*weights: str, **more: Weight) -> Component:
    """Weights of no graph, whose origins are these words."""
    array = np.ones(3, np.float32)
    made = {
        word: Weight(
            shape=(3,), dtype=array.dtype, sources=(word,), read=lambda: array, origin=word
        )
        for word in weights
    }
    return Component(graph=graph_of(EMBED, "table", array), weights={**made, **more}, probes={})


def test_weights_of_one_origin_are_stored_by_the_first_that_has_them() -> None:
    made = store_once({"c": plain("x", "z"), "a": plain("x", "y"), "b": plain("y", "z")})
    assert list(made) == ["a", "b", "c"]
    assert made["a"].borrowed == {}
    assert made["b"].borrowed == {"y": Place(component="a", weight="y")}
    assert made["c"].borrowed == {
        "x": Place(component="a", weight="x"),
        "z": Place(component="b", weight="z"),
    }


def test_equal_origins_in_another_form_or_of_nothing_known_are_stored_apart() -> None:
    (weight,) = plain("x").weights.values()
    other = replace(weight, dtype=np.dtype(np.float16))
    unknown = replace(weight, origin=None)
    components = {"a": plain(x=weight, u=unknown), "b": plain(x=other, u=unknown)}
    assert store_once(components) == components
