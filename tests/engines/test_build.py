"""Engines by the real TensorRT-RTX, for GPUs that are not here: what a plan has, what is refused.

No engine is run: that needs a GPU.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import moe_export
from line import tiny
from moe_export import Bundle, pipeline
from moe_export.cli import program
from moe_export.engines.ask import Request, ask
from moe_export.engines.flavours import FLAVOURS
from moe_export.engines.libraries import plugin_library
from moe_export.errors import MissingEnvironmentError, UnsupportedError, UsageError
from moe_export.forms import EngineLimits, EngineSpec
from moe_export.validate import validate

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

RTX = FLAVOURS["trt-rtx"]
SMALL = EngineLimits(max_batch=2, max_tokens=64, max_image_tokens=64)
SMS = (80, 86, 89, 120)


@pytest.fixture(scope="session", autouse=True)
def _plugins_are_here():
    try:
        plugin_library()
    except MissingEnvironmentError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(autouse=True)
def _no_gpu_is_here(monkeypatch: pytest.MonkeyPatch):
    """Other tests of the process may have loaded a driver that stands for one."""
    monkeypatch.setattr("moe_export.engines.compute_capability", lambda: None)
    monkeypatch.setattr("moe_export.runtime.engine.find_gpu", lambda: "no NVIDIA driver")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session", params=["f32", "bf16", "f16", "int8", "int8:32"])
def bundle(request: pytest.FixtureRequest, folder: Path) -> Bundle:
    """The tiny model in a precision, with engines for two GPUs."""
    return export(folder / request.param.replace(":", "_"), precision=request.param, sms=(80, 120))


@pytest.fixture(scope="session")
def plain(folder: Path) -> Bundle:
    return export(folder / "plain", sms=(89,))


def export(output: Path, **words: object) -> Bundle:
    return moe_export.export(
        tiny.build(),
        output=output,
        example_inputs=tiny.example_inputs(),
        target="trt-rtx",
        max_batch=SMALL.max_batch,
        max_tokens=SMALL.max_tokens,
        **words,
    )


def plan_text(path: Path) -> str:
    """The lowered graph that lies in a plan as text."""
    content = path.read_bytes()
    assert content.startswith(b"vtrt")
    return content.decode("latin-1")


def test_every_moe_node_of_a_plan_is_a_plugin(bundle: Bundle):
    record = bundle.component()
    assert {name.rpartition("/")[2].partition("_")[0] for name in record.plugins} >= {
        "Router",
        "Experts",
    }
    for engine in bundle.manifest.engines:
        text = plan_text(bundle.path / engine.plan)
        for name in record.plugins:
            assert name in text
        assert f"sm{engine.sm}" in text


def test_the_manifest_says_what_an_engine_needs(bundle: Bundle):
    assert {engine.sm for engine in bundle.manifest.engines} == {80, 120}
    for engine in bundle.manifest.engines:
        assert engine.tensorrt.startswith("1.")
        assert engine.plugins_sha256 is not None
        assert not engine.embeds_plugins
        (profile,) = engine.profiles
        assert profile["tokens"][2] == (SMALL.max_batch, SMALL.max_tokens)


def test_a_bundle_with_engines_is_validated_where_there_is_no_gpu(bundle: Bundle):
    report = validate(Bundle.open(bundle.path))
    assert report.passed
    assert report.target == "trt-rtx"


@pytest.mark.parametrize("sm", SMS)
def test_build_puts_other_engines_into_a_bundle(plain: Bundle, sm: int):
    built = pipeline.build(plain, EngineSpec(sms=(sm,), limits=SMALL))
    assert [engine.sm for engine in built.manifest.engines] == [sm]
    assert [path for path in built.manifest.files if path.startswith("engines/")] == [
        f"engines/trt-rtx/sm{sm}/model.plan"
    ]
    assert Bundle.open(built.path).manifest == built.manifest


def test_the_library_lies_in_the_plan_where_that_is_asked_for(folder: Path):
    made = export(folder / "embedded", sms=(86,), embed_plugins=True)
    (engine,) = made.manifest.engines
    assert engine.embeds_plugins
    assert plugin_library().read_bytes() in (made.path / engine.plan).read_bytes()


class Even(nn.Module):
    """One MoE block whose rows of int4 fill whole bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.moe = tiny.Mixtral()

    def forward(self, x: Tensor) -> Tensor:
        return self.moe(x)


def test_int4_stays_half_a_byte_in_a_plan(folder: Path):
    torch.manual_seed(0)
    made = moe_export.export(
        Even().eval(),
        output=folder / "even",
        example_inputs={"x": torch.randn(2, 5, tiny.WIDTH)},
        target="trt-rtx",
        precision="int4",
        sms=(80,),
    )
    (engine,) = made.manifest.engines
    text = plan_text(made.path / engine.plan)
    # [E, I, H] = [6, 8, 12] of halves of a byte.
    assert re.search(rf"const_payload_size={6 * 8 * 12 // 2}\b", text)


def test_int4_of_an_odd_width_is_refused_by_name(folder: Path):
    with pytest.raises(UnsupportedError, match="end within a byte"):
        export(folder / "odd", precision="int4", sms=(80,))


def request(plain: Bundle, output: Path, **changes: object) -> Request:
    record = plain.component()
    words = {
        "component": "model",
        "graph": plain.path / str(record.engine_graph),
        "plugins": (plugin_library(),),
        "layers": record.plugins,
        "embed": False,
        "sm": 89,
        "profiles": plain.manifest.engines[0].profiles,
        "output": output,
    }
    return Request(**(words | changes))


def test_a_node_without_its_plugin_is_named(plain: Bundle, tmp_path: Path):
    with pytest.raises(MissingEnvironmentError, match="no plugin for the node") as caught:
        ask(RTX, request(plain, tmp_path / "plan", plugins=()))
    assert plain.component().plugins[0] in str(caught.value.where)


def test_a_node_that_did_not_become_a_plugin_is_named(plain: Bundle, tmp_path: Path):
    with pytest.raises(UnsupportedError, match="fell back") as caught:
        ask(RTX, request(plain, tmp_path / "plan", layers=("no such node",)))
    assert "no such node" in str(caught.value.where)
    assert not (tmp_path / "plan").exists()


def test_a_plugin_of_another_version_is_named(plain: Bundle, tmp_path: Path):
    graph = tmp_path / "model.engine.onnx"
    content = (plain.path / str(plain.component().engine_graph)).read_bytes()
    # The version is the string "1" of the attribute.
    changed = content.replace(b'plugin_version"\x011', b'plugin_version"\x012')
    assert changed != content
    graph.write_bytes(changed)
    (tmp_path / "model.onnx.data").symlink_to(plain.path / "onnx" / "model.onnx.data")
    with pytest.raises(MissingEnvironmentError, match="no plugin for the node"):
        ask(RTX, request(plain, tmp_path / "plan", graph=graph))


def test_a_missing_profile_is_an_error_in_words(plain: Bundle, tmp_path: Path):
    with pytest.raises(UnsupportedError, match="profile"):
        ask(RTX, request(plain, tmp_path / "plan", profiles=()))


def test_a_process_that_ends_is_an_error_in_words(plain: Bundle, tmp_path: Path):
    (tmp_path / "no_library.so").write_bytes(b"\x7fELF")
    with pytest.raises((MissingEnvironmentError, UnsupportedError)):
        ask(RTX, request(plain, tmp_path / "plan", plugins=(tmp_path / "no_library.so",)))


@pytest.mark.parametrize(
    ("sm", "words"), [(75, "SM 80 and newer"), (90, "no engine for SM 90"), (77, "SM 80 and newer")]
)
def test_a_gpu_that_has_no_engines_is_refused_before_the_export(tmp_path: Path, sm, words):
    with pytest.raises(UnsupportedError, match=words):
        export(tmp_path / "no.moe", sms=(sm,))
    assert not (tmp_path / "no.moe").exists()


def test_no_gpu_and_no_sm_is_a_wrong_request(tmp_path: Path):
    with pytest.raises(UsageError, match="has to be named"):
        export(tmp_path / "no.moe")


def test_without_tensorrt_a_bundle_is_written_and_the_hint_says_how_to_go_on(folder: Path):
    output = folder / "later.moe"
    with pytest.raises(MissingEnvironmentError, match="is written and validated") as caught:
        moe_export.export(
            tiny.build(), output=output, example_inputs=tiny.example_inputs(), target="trt"
        )
    assert f"moe-export build {output}" in str(caught.value.hint)
    written = Bundle.open(output)
    assert written.manifest.verdict == "passed"
    assert written.manifest.engines == ()


def test_build_says_what_it_made(plain: Bundle):
    result = CliRunner().invoke(program, ["build", str(plain.path), "--sm", "8.9", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == ["engines/trt-rtx/sm89/model.plan"]
