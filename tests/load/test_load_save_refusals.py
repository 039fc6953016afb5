"""``save_checkpoint`` refuses what ``load`` would refuse later, and says which word was wrong."""

import os

import pytest
import torch

import moe_export


def save(loadable, tmp_path, model=None, **words):
    given = {
        "factory": "loadable:plain",
        "config": {"width": 8},
        "example_inputs": (torch.ones(1, 8),),
        **words,
    }
    path = given.pop("path", tmp_path / "model.pt")
    return moe_export.save_checkpoint(model or loadable.plain(width=8), path, **given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"factory": "plain"}, "does not name a factory"),
        ({"factory": "loadable:plain()"}, "does not name a factory"),
        ({"factory": "loadable:Plain.make"}, "does not name a factory"),
        ({"factory": print}, "does not name a factory"),
        ({"factory": "__main__:plain"}, "running script"),
        ({"factory": "no_such_module:plain"}, "no Python source file"),
        ({"factory": "loadable:no_such_function"}, "not a top-level function marked"),
        ({"factory": "loadable:unmarked"}, "not a top-level function marked"),
        ({"factory": "loadable:not_a_module"}, "of type dict, not an nn.Module"),
        ({"factory": "loadable:tied"}, "missing .*embed.weight"),
        ({"config": {"width": 9}}, r"different proj.weight \(float32\[8, 8\]"),
        ({"config": {}}, "the factory failed: TypeError"),
        ({"config": [8]}, "not a mapping"),
        ({"config": {8: 8}}, "key 8 is not text"),
        ({"config": {"width": 8, "x": object()}}, "'x' cannot be written as JSON"),
        ({"config": {"width": 8, "x": float("nan")}}, "'x' cannot be written as JSON"),
        ({"config": {"width": 8, "x": (1, 2)}}, "'x' would come back as"),
        ({"config": {"width": 8, "x": {1: 2}}}, "'x' would come back as"),
        ({"example_inputs": ()}, "input 'x' is missing"),
        ({"example_inputs": {}}, "input 'x' is missing"),
        ({"example_inputs": torch.ones(1, 8)}, "is a Tensor"),
        ({"example_inputs": {"y": torch.ones(1, 8)}}, "no parameter 'y'"),
        ({"example_inputs": (torch.ones(1, 8), torch.ones(1))}, "takes 1 inputs, got 2"),
        ({"example_inputs": ([1.0],)}, "is a list, and only tensors"),
        ({"dynamic_shapes": {"y": {0: "batch"}}}, "no input 'y'"),
        ({"dynamic_shapes": {"x": {2: "batch"}}}, "axes 0 to 1"),
        ({"dynamic_shapes": {"x": {-1: "batch"}}}, "axes 0 to 1"),
        ({"dynamic_shapes": {"x": {0: "two words"}}}, "named 'two words'"),
        ({"dynamic_shapes": [{0: "batch"}]}, "a mapping is needed"),
        ({"assets": {"../tokenizer.json": ""}}, "not a relative file name"),
        ({"assets": {"/etc/passwd": ""}}, "not a relative file name"),
        ({"assets": {"a//b": ""}}, "not a relative file name"),
        ({"assets": {"tokenizer.json": 7}}, "not text or bytes"),
        ({"path": ""}, "not a file name"),
        ({"path": "no/such/folder/model.pt"}, "does not exist"),
    ],
)
def test_a_wrong_word_is_named(loadable, tmp_path, words, message):
    with pytest.raises(moe_export.UsageError, match=message):
        save(loadable, tmp_path, **words)
    assert os.listdir(tmp_path) == []


def test_an_untied_model_is_not_saved_under_a_factory_that_ties(loadable, tmp_path):
    with pytest.raises(moe_export.UsageError, match=r"ties 'head.weight' to 'embed.weight'"):
        save(
            loadable,
            tmp_path,
            loadable.untied(width=8),
            factory="loadable:tied",
            example_inputs=(torch.zeros(1, 2, dtype=torch.int64),),
        )


def test_a_model_without_values_is_not_saved(loadable, tmp_path):
    with torch.device("meta"):
        model = loadable.plain(width=8)
    with pytest.raises(moe_export.UsageError, match="meta device"):
        save(loadable, tmp_path, model)


def test_a_dtype_that_the_format_does_not_know_is_not_saved(loadable, tmp_path):
    model = loadable.plain(width=8)
    model.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
    with pytest.raises(moe_export.UsageError, match=r"'phase' has dtype torch.complex64"):
        save(loadable, tmp_path, model)
