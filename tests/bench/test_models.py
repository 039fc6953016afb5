"""tools/bench/models.py and exports.py: their arithmetic, tables and readers, on given numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools" / "bench"


@pytest.fixture(autouse=True)
def _tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    yield
    for name in [name for name in sys.modules if name.startswith("model_") or name == "exports"]:
        del sys.modules[name]


def test_the_parameters_of_sizes_are_those_of_the_model():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from model_sizes import SMALL, Sizes

    for sizes in (SMALL, Sizes(), Sizes(layers=4, experts=32)):
        with torch.device("meta"):
            config = transformers.Qwen3VLMoeConfig(**sizes.config())
            model = transformers.Qwen3VLMoeForConditionalGeneration(config)
        assert sum(each.numel() for each in model.parameters()) == sizes.parameters
        assert sum(each.numel() for each in model.model.visual.parameters()) == sizes.vision


def test_the_default_model_has_the_size_that_the_page_says():
    from model_sizes import Sizes

    assert round(Sizes().parameters / 1e9, 2) == 1.44
    assert round(Sizes().met_by_a_token / 1e9, 2) == 0.22


def test_special_tokens_are_the_last_of_the_vocabulary():
    from model_sizes import SMALL, SPECIAL

    ids = [SMALL.id_of(token) for token in SPECIAL]
    assert ids == list(range(SMALL.vocabulary - len(SPECIAL), SMALL.vocabulary))


def test_a_directory_and_its_prompt_are_read_by_transformers(tmp_path):
    pytest.importorskip("transformers")
    np = pytest.importorskip("numpy")
    from model_directory import make_prompt, tokenizer
    from model_sizes import SMALL
    from transformers import Qwen3VLMoeConfig

    Qwen3VLMoeConfig(**SMALL.config()).save_pretrained(tmp_path)
    tokenizer(SMALL).save_pretrained(tmp_path)
    make_prompt(SMALL, tmp_path, side=128, tokens=128)
    facts = json.loads((tmp_path / "prompt.json").read_text())
    with np.load(tmp_path / "prompt.npz") as prompt:
        ids = prompt["input_ids"]
        assert ids.shape == (1, facts["tokens"])
        assert (ids == SMALL.id_of("<|image_pad|>")).sum() == SMALL.image_tokens(128)
        assert prompt["position_ids"].shape == (3, 1, 128)


def test_turns_go_forwards_and_backwards():
    from model_turns import turns

    assert list(turns(["a", "b", "c"], 2)) == [
        (0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a"),
    ]  # fmt: skip


def test_a_bundle_that_was_put_there_by_hand_is_kept_when_asked(tmp_path):
    from model_contenders import chosen
    from model_turns import Stage

    (ours,) = chosen(["moe-export"], ["int4"])
    stage = Stage(tmp_path, tmp_path, tmp_path, 1, (_core(),), 1, 1.0, print, keep=True)
    bundle = tmp_path / ours.folder / "model.moe" / "moe_export.json"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("{}")
    assert stage.prepare(ours) is None
    assert stage.files(ours) == [bundle]
    assert stage.cost(ours) is None


SAID = """\
0.02.120.500 I main: loading model: /tmp/model.gguf
0.03.900.000 I mtmd batch encoding done in 1725 ms
0.09.000.000 I common_perf_print:        load time =    5108.81 ms
0.09.000.001 I common_perf_print: prompt eval time =    2000.50 ms /   256 tokens (    7.81 ms)
0.09.000.002 I common_perf_print:        eval time =    1260.00 ms /    63 runs   (   20.00 ms)
0.09.000.003 I common_perf_print:       total time =    9000.00 ms /   319 tokens
"""


def test_llama_cpp_timings_become_seconds():
    from model_llama import measured

    found = measured(SAID, SAID, 2880.0)
    assert found.first == pytest.approx(2.0005)
    assert found.prefill == pytest.approx(2.0005 - 1.725)
    assert found.prompt_tokens == 256
    assert found.decode == pytest.approx(0.020)
    assert found.vision == pytest.approx(1.725)
    assert found.load == pytest.approx(2.1205)


def test_an_answer_of_llama_cpp_without_an_image_is_not_a_measurement():
    from model_job import NotRunError
    from model_llama import measured

    with pytest.raises(NotRunError, match="encoded no image"):
        measured(SAID.replace("batch encoding", "nothing"), SAID, 1.0)


def test_llama_bench_tells_one_speed():
    from model_llama_bench import speed

    assert speed('[{"n_prompt": 256, "avg_ts": 333.5}]') == 333.5


def test_the_first_token_is_not_part_of_the_decode_time():
    from model_job import paced

    clock = iter([0.0, 2.0, 5.0])
    first, each, tokens = paced(lambda: iter(range(9)), 3, lambda: next(clock))
    assert (first, each, tokens) == (2.0, 1.0, (0, 1, 2, 3))


def test_an_answer_that_ends_early_is_not_a_measurement():
    from model_job import NotRunError, paced

    with pytest.raises(NotRunError, match="behind 3 tokens"):
        paced(lambda: iter(range(3)), 3)


def _turn(prefill, decode, first):
    return {
        "load": 1.0, "prefill": prefill, "decode": decode, "vision": None, "first": first,
        "peak_mib": 100.0, "prompt_tokens": 256, "tokens": [1, 2],
    }  # fmt: skip


def test_ratios_are_taken_within_rounds():
    """The machine is twice as slow in the second round, for both."""
    from model_contenders import Contender
    from model_table import row

    ours = {0: _turn(1.0, 0.01, 1.5), 1: _turn(2.0, 0.02, 3.0)}
    peer = {0: _turn(3.0, 0.02, None), 1: _turn(6.0, 0.04, None)}
    made = row(Contender("peer", "int8", "engine"), peer, ours=ours, file_bytes=2**20)
    assert made.ratios == {"prefill": 3.0, "decode": 2.0, "first": None}
    assert made.prefill_per_second == pytest.approx(256 / 4.5)
    assert made.decode_per_second == pytest.approx(1 / 0.03)


def test_a_contender_that_did_not_run_is_in_the_table_with_its_reason():
    from model_contenders import Contender
    from model_table import row, table

    ours = {0: _turn(1.0, 0.01, 1.5)}
    rows = [row(Contender("moe-export", "int8", "model_ours"), ours, ours=ours, file_bytes=0)]
    lines = table(rows, {"torch eager int8": "no int8 experts"})
    assert lines[-1] == "not run: torch eager int8: no int8 experts"
    assert lines[1].split()[:6] == ["int8", "moe-export", "256", "1.00", "100.0", "1.00"]


def test_every_contender_has_a_folder_of_its_own_and_its_precision_one_of_ours():
    from model_contenders import CONTENDERS, chosen

    assert len({each.folder for each in CONTENDERS}) == len(CONTENDERS)
    reference = {each.precision for each in CONTENDERS if each.is_reference}
    assert reference == {each.precision for each in CONTENDERS}
    assert [each.label for each in chosen(["torch eager bf16"], ["bf16"])] == ["torch eager bf16"]
    with pytest.raises(ValueError, match="no contender is called"):
        chosen(["torhc"], ["bf16"])


def test_the_cost_of_a_command_is_its_own(tmp_path):
    from model_process import last_json, reason, run

    done = run([sys.executable, "-c", "print('talk'); print('{\"a\": 1}')"], cores=[_core()])
    assert (done.code, last_json(done.output)) == (0, {"a": 1})
    assert done.cpu_seconds > 0
    assert done.peak_mib > 1
    failed = run([sys.executable, "-c", "raise ValueError('such is life')"], cores=[_core()])
    assert reason(failed) == "exit 1: ValueError: such is life"


def test_a_command_that_takes_too_long_is_ended():
    from model_process import reason, run

    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert reason(run(slow, cores=[_core()], limit=0.5)) == "longer than 0 s"


def _core():
    import os

    return min(os.sched_getaffinity(0))


def test_the_table_of_exports_compares_with_ours():
    from exports import Cost, table

    costs = [
        Cost("2x32", 10, "moe-export", 10.0, 500.0, 1.0),
        Cost("2x32", 10, "transformers onnx", 25.0, 1000.0, 2.0),
    ]
    lines = table(costs, {"4x8, transformers onnx": "exit 1"})
    assert lines[2].split() == ["2x32", "transformers", "onnx", "25.0", "2.50", "1000", "2.00", "2"]
    assert lines[-1] == "not run: 4x8, transformers onnx: exit 1"
