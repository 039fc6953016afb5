"""A file chooses among the functions that their authors marked, and nothing else runs."""

import importlib
import sys

import pytest
import torch

from moe_export import UnsafeInputError, UsageError, model_factory
from moe_export.load import load
from moe_export.load.resolve import marked_factory, without_current_folder
from moe_export.spec import export_spec

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def naming(saved):
    """A checkpoint that names another factory than it was saved with."""

    def name(factory):
        _, path = saved("plain")
        torch.save(torch.load(path, weights_only=True) | {"factory": factory}, path)
        return path

    return name


@pytest.mark.parametrize(
    "factory",
    [
        "os:system",
        "posix:system",
        "builtins:exec",
        "subprocess:run",
        "sys:exit",
        "antigravity:fly",
        "this:s",
        "loadable:unmarked",
        "loadable:Plain",
        "loadable:model_factory",
        "moe_export:model_factory",
        "moe_export.load.factory:model_factory",
        "loadable:torch",
        "no_such_module:plain",
        "loadable.inner:plain",
        "loadable:plain.__globals__",
        "loadable:plain.__globals__['os'].system",
        "loadable:",
        ":plain",
        "loadable",
        "",
        ".loadable:plain",
        "..loadable:plain",
        "loadable :plain",
        "loadable:plain\n",
        "/loadable:plain",
        "loadable/../loadable:plain",
        "lоadable:plain",  # noqa: RUF001 - a Cyrillic letter
    ],
)
def test_a_file_cannot_name_what_is_not_marked(naming, factory):
    already = set(sys.modules)
    with pytest.raises(UnsafeInputError) as refusal:
        load(export_spec(naming(factory)))
    assert "model.pt" in str(refusal.value)
    assert not {"antigravity", "this"} & (set(sys.modules) - already)


@pytest.mark.parametrize(
    "definition",
    [
        "def make(width): ...",
        "make = print",
        "class make: ...",
        "async def make(width): ...",
        "@other.model_factory\ndef make(width): ...",
        "@model_factory\ndef make(width): ...",  # the name is not imported from moe_export
        "from other import model_factory\n@model_factory\ndef make(width): ...",
        "from .moe_export import model_factory\n@model_factory\ndef make(width): ...",
        "import moe_export\n@moe_export.model_factory\ndef other(width): ...",
        "import moe_export\ndef outer():\n  @moe_export.model_factory\n  def make(width): ...",
        "import moe_export\nclass A:\n  @moe_export.model_factory\n  def make(width): ...",
        "'''import moe_export\n@moe_export.model_factory\ndef make(width): ...'''",
        "import moe_export\n@moe_export.model_factory[0]\ndef make(width): ...",
    ],
)
def test_a_module_that_marks_nothing_is_not_imported(naming, write_module, tmp_path, definition):
    canary = tmp_path / "canary"
    folder = write_module(f"open({str(canary)!r}, 'w').close()\n{definition}\n")
    with pytest.raises(UnsafeInputError, match="not a top-level function marked"):
        load(export_spec(naming("written:make"), python_path=[folder]))
    assert not canary.exists()
    assert "written" not in sys.modules


@pytest.mark.parametrize(
    "head",
    [
        "from moe_export import model_factory\n@model_factory",
        "from moe_export import model_factory\n@model_factory()",
        "from moe_export import model_factory as door\n@door",
        "import moe_export\n@moe_export.model_factory",
        "import moe_export as me\n@me.model_factory()",
        "import moe_export.load.factory\n@moe_export.load.factory.model_factory",
        "from moe_export.load.factory import model_factory\n@model_factory",
    ],
)
def test_every_way_of_writing_the_mark_is_understood(naming, write_module, head):
    folder = write_module(
        f"import torch\n{head}\n"
        "def make(width):\n"
        "    module = torch.nn.Module()\n"
        "    module.proj = torch.nn.Linear(width, width)\n"
        "    module.forward = lambda x: module.proj(x)\n"
        "    return module\n"
    )
    assert load(export_spec(naming("written:make"), python_path=[folder])).module.proj is not None


def test_a_parent_package_is_not_imported_for_an_unmarked_child(naming, write_module, tmp_path):
    canary = tmp_path / "canary"
    write_module(f"open({str(canary)!r}, 'w').close()", name="parcel/__init__.py")
    folder = write_module("def make(width): ...", name="parcel/inner.py")
    with pytest.raises(UnsafeInputError, match="not a top-level function marked"):
        load(export_spec(naming("parcel.inner:make"), python_path=[folder]))
    assert not canary.exists()


@pytest.mark.parametrize("initialised", [True, False], ids=["package", "namespace"])
def test_a_factory_deep_in_a_package_is_found(naming, write_module, loadable, initialised):
    source = """
        import loadable
        from moe_export import model_factory

        @model_factory
        def make(width):
            return loadable.Plain(width)
    """
    folder = write_module(source, name="parcel/inner/deep.py")
    if initialised:
        write_module("", name="parcel/__init__.py")
        write_module("", name="parcel/inner/__init__.py")
    loaded = load(export_spec(naming("parcel.inner.deep:make"), python_path=[folder]))
    assert type(loaded.module).__module__ == "loadable"


def test_a_mark_that_is_replaced_at_import_is_not_trusted(naming, write_module, tmp_path):
    canary = tmp_path / "canary"
    folder = write_module(f"""
        import moe_export

        @moe_export.model_factory
        def make(width): ...

        def make(width):
            open({str(canary)!r}, "w").close()
    """)
    with pytest.raises(UnsafeInputError, match="not a top-level function marked"):
        load(export_spec(naming("written:make"), python_path=[folder]))
    assert not canary.exists()


def test_a_marked_function_of_another_module_is_not_called_by_this_name(naming, write_module):
    folder = write_module("""
        from loadable import plain
        import moe_export

        @moe_export.model_factory
        def make(width): ...

        make = plain
    """)
    with pytest.raises(UnsafeInputError, match="not a top-level function marked"):
        load(export_spec(naming("written:make"), python_path=[folder]))


def test_the_current_folder_is_not_searched_for_a_factory(
    naming, write_module, monkeypatch, tmp_path
):
    canary = tmp_path / "canary"
    folder = write_module(f"""
        import moe_export
        open({str(canary)!r}, "w").close()

        @moe_export.model_factory
        def make(width): ...
    """)
    monkeypatch.chdir(folder)
    # As an interactive session has it, and as an explicit source of earlier left it.
    monkeypatch.setattr(sys, "path", ["", *sys.path, ""])
    with pytest.raises(UnsafeInputError, match="no Python source file") as refusal:
        load(export_spec(naming("written:make")))
    assert "--python-path" in refusal.value.hint
    assert not canary.exists()
    assert sys.path[0] == ""


def test_the_folder_that_python_m_adds_is_not_searched_either(monkeypatch, tmp_path):
    # pytest may or may not have been started by -m itself: pretend that it was.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", importlib.util.find_spec("os"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/elsewhere"])
    with without_current_folder():
        assert sys.path == ["/elsewhere"]
    assert sys.path == [str(tmp_path), "/elsewhere"]


def test_a_python_path_that_is_the_current_folder_is_searched(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", importlib.util.find_spec("os"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path), "/elsewhere"])
    with without_current_folder():
        assert sys.path == [str(tmp_path), "/elsewhere"]


def test_a_python_path_entry_wins_over_what_is_installed(naming, write_module):
    # A package of the same name further down the path must not be taken.
    source = "import loadable, moe_export\n@moe_export.model_factory\ndef make(width): {}\n"
    first = write_module(source.format("return loadable.Plain(width)"), folder="first")
    second = write_module(source.format("raise SystemExit(0)"), folder="second")
    loaded = load(export_spec(naming("written:make"), python_path=[first, second]))
    assert type(loaded.module).__name__ == "Plain"


def test_a_module_that_fails_to_import_says_so(naming, write_module):
    folder = write_module("""
        import moe_export
        import no_such_dependency

        @moe_export.model_factory
        def make(width): ...
    """)
    with pytest.raises(UsageError, match="No module named 'no_such_dependency'"):
        load(export_spec(naming("written:make"), python_path=[folder]))


def test_a_module_that_does_not_parse_says_so(naming, write_module):
    folder = write_module("def make(width:\n")
    with pytest.raises(UsageError, match=r"written:make.* cannot be read"):
        load(export_spec(naming("written:make"), python_path=[folder]))


def test_an_exit_inside_a_factory_is_an_error(naming, write_module):
    folder = write_module("""
        import sys
        import moe_export

        @moe_export.model_factory
        def make(width):
            sys.exit(0)
    """)
    with pytest.raises(UsageError, match="SystemExit: 0"):
        load(export_spec(naming("written:make"), python_path=[folder]))


def test_a_compiled_module_without_source_is_not_run(naming, write_module):
    import py_compile

    folder = write_module("import moe_export\n@moe_export.model_factory\ndef make(width): ...\n")
    py_compile.compile(str(folder / "written.py"), cfile=str(folder / "written.pyc"))
    (folder / "written.py").unlink()
    with pytest.raises(UnsafeInputError, match="no Python source file"):
        load(export_spec(naming("written:make"), python_path=[folder]))


def test_a_changed_factory_is_told_by_the_names_that_differ(saved, loadable, monkeypatch):
    _, path = saved("plain")
    torch.save(torch.load(path, weights_only=True) | {"factory": "loadable:tied"}, path)
    with pytest.raises(UsageError, match=r"missing .*embed.weight.*unexpected proj.weight"):
        load(export_spec(path))


def test_values_that_the_factory_ties_must_be_one_tensor(saved):
    _, path = saved("untied")
    torch.save(torch.load(path, weights_only=True) | {"factory": "loadable:tied"}, path)
    with pytest.raises(UsageError, match=r"ties 'head.weight' to 'embed.weight'"):
        load(export_spec(path))


@pytest.mark.parametrize("candidate", [print, lambda: None, 7, torch.nn.Linear])
def test_only_a_top_level_function_can_be_marked(candidate):
    with pytest.raises(UsageError, match="not a top-level function"):
        model_factory(candidate)


def test_a_function_inside_a_function_cannot_be_marked():
    def inner(): ...

    with pytest.raises(UsageError, match=r"inner.* is not a top-level function"):
        model_factory(inner)


def test_a_marked_function_is_itself(loadable):
    assert marked_factory("loadable:plain", where="here") is loadable.plain
    assert isinstance(loadable.plain(width=2), loadable.Plain)
