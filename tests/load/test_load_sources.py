"""Every kind of source: what it gives, and how it says that it does not."""

import os
from pathlib import Path

import pytest
import torch

from moe_export import ModelSource, UnsafeInputError, UsageError
from moe_export.load import load
from moe_export.spec import export_spec

pytestmark = pytest.mark.usefixtures("in_process")
X = torch.ones(2, 8)

MODULE = """
    import loadable
    import torch
    from moe_export import ModelSource

    x = torch.ones(2, 8)

    def module():
        return loadable.Plain(8)

    def pair():
        return loadable.Plain(8), (x,)

    def source():
        return ModelSource(
            loadable.Plain(8), {"x": x}, {"x": {0: "rows"}}, {"tokenizer.json": "{}"}
        )

    def number():
        return 7

    def fails():
        raise KeyError("no weights here")

    constant = 7
"""


def test_a_factory_named_by_the_user_may_return_a_source(write_module):
    loaded = load(export_spec("written:source", python_path=[write_module(MODULE)]))
    assert torch.equal(loaded.example_inputs["x"], X)
    assert loaded.dynamic_shapes == {"x": {0: "rows"}}
    assert loaded.assets == {"tokenizer.json": b"{}"}
    assert loaded.source.description == "written:source"
    assert not loaded.module.training


def test_a_factory_named_by_the_user_may_return_a_pair(write_module):
    loaded = load(export_spec("written:pair", python_path=[write_module(MODULE)]))
    assert torch.equal(loaded.example_inputs["x"], X)


def test_a_factory_that_returns_a_module_needs_inputs(write_module):
    folder = write_module(MODULE)
    loaded = load(export_spec("written:module", python_path=[folder], example_inputs=(X,)))
    assert list(loaded.example_inputs) == ["x"]
    with pytest.raises(UsageError, match="needs example inputs"):
        load(export_spec("written:module", python_path=[folder]))


def test_a_factory_named_by_the_user_is_found_in_the_current_folder(write_module, monkeypatch):
    monkeypatch.chdir(write_module(MODULE))
    load(export_spec("written:pair"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:pair", "there is no module 'no_such_module'"),
        ("written.inner:pair", "there is no module 'written.inner'|not a package"),
        ("written:pear", "no attribute 'pear'"),
        ("written:constant", "its type is int"),
        ("written:number", "of type int"),
        ("written:fails", "KeyError: 'no weights here'"),
    ],
)
def test_a_name_that_leads_nowhere_says_where_it_ends(write_module, name, message):
    with pytest.raises(UsageError, match=message) as error:
        load(export_spec(name, python_path=[write_module(MODULE)]))
    assert name in str(error.value)


def test_an_exception_in_the_users_code_is_chained(write_module):
    with pytest.raises(UsageError) as error:
        load(export_spec("written:fails", python_path=[write_module(MODULE)]))
    assert isinstance(error.value.__cause__, KeyError)


def test_a_missing_attribute_lists_the_factories_there_are(loadable):
    with pytest.raises(UsageError) as error:
        load(export_spec("loadable:plane"))
    assert "plain" in error.value.hint


def test_a_module_of_the_users_is_left_as_it_was(loadable):
    model = loadable.Tied(8).train()
    loaded = load(export_spec(model, example_inputs=(torch.zeros(1, 2, dtype=torch.int64),)))
    assert model.training
    assert model.embed.weight.requires_grad
    assert not loaded.module.training
    assert not loaded.module.embed.weight.requires_grad


def test_a_module_of_the_users_lends_its_tensors(loadable):
    model = loadable.Tied(8)
    loaded = load(export_spec(model, example_inputs=(torch.zeros(1, 2, dtype=torch.int64),)))
    assert loaded.module.embed.weight.data_ptr() == model.embed.weight.data_ptr()
    assert loaded.module.head.weight is loaded.module.embed.weight
    assert loaded.source.description == "Tied"


def test_a_module_needs_inputs(loadable):
    with pytest.raises(UsageError, match="needs example inputs"):
        load(export_spec(loadable.Plain(8)))


def test_a_module_without_values_is_refused(loadable):
    with torch.device("meta"):
        model = loadable.Plain(8)
    with pytest.raises(UsageError, match=r"'proj\.weight' is on meta"):
        load(export_spec(model, example_inputs=(X,)))


def test_a_pickled_module_is_loaded_on_the_users_word(tmp_path, loadable):
    model = loadable.Plain(8).eval()
    torch.save(model, tmp_path / "model.pt")
    spec = export_spec(tmp_path / "model.pt", trust_pickle=True, example_inputs=(X,))
    loaded = load(spec)
    assert torch.equal(loaded.module(X), model(X))
    assert loaded.source.description == "model.pt"


def test_a_trusted_pickle_of_the_old_format_is_loaded_too(tmp_path, loadable):
    torch.save(loadable.Plain(8), tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    spec = export_spec(tmp_path / "m.pth", trust_pickle=True, example_inputs=(X,))
    assert type(load(spec).module) is loadable.Plain


def test_a_trusted_pickle_needs_inputs(tmp_path, loadable):
    torch.save(loadable.Plain(8), tmp_path / "model.pt")
    with pytest.raises(UsageError, match="a pickled module needs example inputs"):
        load(export_spec(tmp_path / "model.pt", trust_pickle=True))


def test_a_trusted_pickle_of_something_else_is_no_model(tmp_path, loadable):
    torch.save({"model": loadable.Plain(8)}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"of type dict, not an nn\.Module"):
        load(export_spec(tmp_path / "model.pt", trust_pickle=True, example_inputs=(X,)))


def test_trust_does_not_change_how_a_checkpoint_is_read(saved, monkeypatch):
    _, path = saved("plain")
    real = torch.load

    def refuse_trust(*arguments, **words):
        assert words["weights_only"] is True
        return real(*arguments, **words)

    monkeypatch.setattr(torch, "load", refuse_trust)
    load(export_spec(path, trust_pickle=True))


def test_trust_does_not_extend_to_a_damaged_file(tmp_path, loadable):
    path = tmp_path / "model.pt"
    torch.save(loadable.Plain(8), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnsafeInputError):
        load(export_spec(path, trust_pickle=True, example_inputs=(X,)))


def test_a_folder_with_a_configuration_is_read_as_a_transformers_directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsafeInputError, match="names no model_type"):
        load(export_spec(tmp_path))


def test_another_folder_is_no_model(tmp_path):
    with pytest.raises(UsageError, match=r"folder without a config\.json"):
        load(export_spec(tmp_path))


@pytest.mark.parametrize("source", ["no/such/model.pt", Path("gone.pt"), "gone", "a.b:c.d"])
def test_a_missing_file_is_a_usage_error(source):
    with pytest.raises(UsageError, match="there is no file"):
        load(export_spec(source))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(UsageError, match="not a regular file"):
        load(export_spec(tmp_path / "model.pt"))


def test_an_object_that_is_no_model_is_a_usage_error():
    with pytest.raises(UsageError, match="a dict is not a model"):
        load(export_spec({"model": 1}))


class Free(torch.nn.Module):
    def forward(self, *tensors):
        return tensors


class Words(torch.nn.Module):
    def forward(self, x, **words):
        return x


class ByPlace(torch.nn.Module):
    def forward(self, x, /):
        return x


class Optional(torch.nn.Module):
    def forward(self, x, mask=None, scale=1.0):
        return x


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (Free(), (X,), r"forward takes \*tensors"),
        (Words(), (X,), r"forward takes \*\*words"),
        (ByPlace(), (X,), "by position only"),
        (Optional(), (), "'x' is missing"),
        (Optional(), {"mask": X}, "'x' is missing"),
        (Optional(), {"y": X}, "no parameter 'y'"),
        (Optional(), (X, X, 2.0), "'scale' is a float"),
        (Optional(), (None,), "'x' is a NoneType"),
        (Optional(), X, "is a Tensor"),
        (Optional(), (X.to("meta"),), "is on meta"),
        (Optional(), (X.to_sparse(),), "not a dense tensor"),
        (torch.nn.Module(), (X,), "forward takes"),
    ],
)
def test_inputs_that_forward_does_not_take_are_named(module, inputs, message):
    with pytest.raises(UsageError, match=message):
        load(export_spec(module, example_inputs=inputs))


def test_optional_inputs_may_be_left_out_or_given_as_none():
    for inputs in ((X,), (X, None), {"x": X}, {"x": X, "mask": None}):
        assert list(load(export_spec(Optional(), example_inputs=inputs)).example_inputs) == ["x"]
    both = load(export_spec(Optional(), example_inputs={"mask": X, "x": X}))
    assert list(both.example_inputs) == ["x", "mask"]


def test_the_assets_of_a_factory_are_checked(loadable):
    import loadable as module

    def make():
        return ModelSource(loadable.Plain(8), (X,), None, {"../x": "y"})

    module.temporary = make
    with pytest.raises(UsageError, match="not text or bytes under a relative file name"):
        load(export_spec("loadable:temporary"))
