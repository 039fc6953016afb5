"""Tokenizers in C++ give the ids and the text of the ``tokenizers`` library."""

from __future__ import annotations

import json
import random
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from moe_export.errors import UnsafeInputError, UnsupportedError, UsageError
from moe_export.runtime.text import Pieces

from .probe import ask
from .vocabularies import CHAT, MAKES, OLD_TABLES, QWEN, SCRIPTS, corpus

# What tokenizers look for, so that random text holds it too.
MARKS = (*CHAT, "<s>", "</s>", "<mask>", "[INST]", "<bos>", "<0x41>", "\n\n", "▁", "##", "fox jump")
TRICKS = (
    "'s",
    "'LL",
    "\u017f",
    "\u212a",
    "İ",
    "ß",
    "é",
    "e\u0301",
    "\u200d",
    "👍🏽",
    "12345",
    "  ",
    " \n ",
    "\0",
)


class Native:
    """The C++ twin of a tokenizer."""

    def __init__(self, content: str | bytes) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.number = ask("open", content, where="tokenizer.json").said["tokenizer"]

    def encode(self, text: str, *, special: bool) -> list[int]:
        return ask("encode", text.encode(), tokenizer=self.number, special=special).said["ids"]

    def decode(self, ids: list[int], *, skip: bool) -> str:
        return ask("decode", tokenizer=self.number, ids=ids, skip=skip).content.decode()


@cache
def both(make: str) -> tuple[Tokenizer, Native]:
    made = MAKES[make]()
    return made, Native(made.to_str())


def require_same(theirs: Tokenizer, ours: Native, text: str) -> None:
    for special in (False, True):
        ids = theirs.encode(text, add_special_tokens=special).ids
        assert ours.encode(text, special=special) == ids, text
        for skip in (False, True):
            assert ours.decode(ids, skip=skip) == theirs.decode(ids, skip_special_tokens=skip)


def said_by(pieces: Pieces, ids: list[int]) -> list[str]:
    """The pieces that are not empty, the rest at last."""
    return [piece for piece in (*map(pieces.push, ids), pieces.finish()) if piece]


@pytest.mark.parametrize("make", MAKES)
def test_ids_and_text_of_real_text_are_the_librarys(make):
    theirs, ours = both(make)
    require_same(theirs, ours, SCRIPTS)
    for text in corpus()[::4]:
        require_same(theirs, ours, text)
    for line in SCRIPTS.splitlines(keepends=True):
        require_same(theirs, ours, line)
        for word in line.split(" "):
            require_same(theirs, ours, word)


# Letters that both have: those of Unicode 14, or of 3.2 where the library's own tables are old.
KNOWN = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
KNOWN_OF_OLD = [c for c in KNOWN if unicodedata.ucd_3_2_0.category(c) != "Cn"]
SPACES = "".join(c for c in KNOWN if c.isspace()) + "\u200b\ufeff\u180e"


def random_text(draw: random.Random, letters: list[str]) -> str:
    """Letters of one script or of all, words, spaces of all kinds, and what tokenizers look for."""
    parts: list[str] = []
    for _ in range(draw.randint(1, 12)):
        match draw.randrange(6):
            case 0:
                start = draw.randrange(len(letters))
                parts += draw.choices(letters[start : start + 200], k=draw.randint(1, 6))
            case 1:
                parts += draw.choices(letters, k=draw.randint(1, 4))
            case 2:
                parts.append(draw.choice(MARKS))
            case 3:
                parts.append(draw.choice(TRICKS))
            case 4:
                parts += draw.choices(SPACES, k=draw.randint(1, 3))
            case _:
                parts.append(draw.choice(SCRIPTS.split()))
    return draw.choice(["", " "]).join(parts)


@pytest.mark.parametrize("make", MAKES)
def test_thousands_of_random_texts_have_the_librarys_ids(make):
    theirs, ours = both(make)
    letters = KNOWN_OF_OLD if make in OLD_TABLES else KNOWN
    draw = random.Random(make)
    for _ in range(250):
        require_same(theirs, ours, random_text(draw, letters))


@pytest.mark.parametrize("make", MAKES)
def test_any_ids_have_the_librarys_text(make):
    theirs, ours = both(make)
    draw = random.Random(make)
    size = theirs.get_vocab_size()
    for _ in range(200):
        ids = [draw.randrange(size + 3) for _ in range(draw.randint(0, 12))]
        for skip in (False, True):
            assert ours.decode(ids, skip=skip) == theirs.decode(ids, skip_special_tokens=skip), ids


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["qwen", "gemma", "mistral", "gpt2"]), st.text(st.sampled_from(KNOWN)))
def test_any_text_has_the_librarys_ids(make, text):
    require_same(*both(make), text)


@pytest.mark.parametrize("make", ["qwen", "gemma", "bert", "unigram", "llama2"])
def test_an_answer_comes_in_the_python_runtimes_pieces(make):
    theirs, ours = both(make)
    draw = random.Random(make)
    texts = [*SCRIPTS.splitlines(), *(random_text(draw, KNOWN_OF_OLD) for _ in range(50))]
    for text in texts:
        ids = theirs.encode(text).ids
        ids += [draw.randrange(theirs.get_vocab_size()) for _ in range(5)]
        found = ask("pieces", tokenizer=ours.number, ids=ids).said["pieces"]
        assert found == said_by(Pieces(theirs), ids)


def test_every_talkers_tokenizer_is_read():
    """Those of the families that the project's tests talk to."""
    pytest.importorskip("transformers")
    from families.talkers import TALKERS

    draw = random.Random(0)
    for talker in TALKERS:
        theirs = talker.tokenizer().backend_tokenizer
        ours = Native(theirs.to_str())
        for token in talker.tokens:
            assert ask("id_of", token.encode(), tokenizer=ours.number).said["id"] is not None
        for _ in range(10):
            text = random_text(draw, KNOWN) + draw.choice(talker.tokens)
            require_same(theirs, ours, text)


def small(**parts: Any) -> Tokenizer:
    """Bytes, behind one part that is looked at."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    ends = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.normalizer = parts.get("normalizer")
    pre = parts.get("pre_tokenizer")
    # What a pattern found is seen where it is gone, or not joined to its neighbours.
    made.pre_tokenizer = ends if pre is None else pre_tokenizers.Sequence([pre, ends])
    return made


# Found in places of no letters too.
EMPTY = r"x*|\b"
PATTERNS = (
    QWEN,
    r"\w+",
    r"\W",
    r"\bfo",
    r"^\s*\S|x$",
    r"[^\S\n]+",
    r"[[:space:][:digit:]]",
    r"(?i:[a-f]+)",
    r"(?<=a)b|(?<!a)c|d(?=e)|f(?!g)",
    r"(?>a+)b|a{2}|b{2,}|c{,2}d|e{1,2}?",
    r"\p{^L}|\P{M}\u0301",
    r"\x41|\x{1F44D}|\t|\h",
    r"a*?b|a++b|a?+c",
    r"{|}|a{x",
    r"[\p{Lo}&&[^\p{Han}]]|[^a&&\w]",
    r"\.\-\[[\]\-^]",
    EMPTY,
)
BEHAVIORS = ("isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_found_where_the_library_finds_them(pattern):
    draw = random.Random(pattern)
    letters = [*"aabbccddeefgxX 19.-[]{}^\n\tA é\u0301👍一²①", *KNOWN[::5003]]
    texts = ["".join(draw.choices(letters, k=draw.randint(1, 20))) for _ in range(150)]
    for behavior in BEHAVIORS:
        for invert in (False, True):
            split = pre_tokenizers.Split(Regex(pattern), behavior, invert)
            # Spaces of their own between what is split show where it was.
            made = small(pre_tokenizer=pre_tokenizers.Sequence([split, pre_tokenizers.Metaspace()]))
            ours = Native(made.to_str())
            for text in texts:
                assert ours.encode(text, special=False) == made.encode(text).ids, (behavior, text)
    if pattern == EMPTY:  # the library panics where something is put in for nothing at the end
        return
    made = small(normalizer=normalizers.Replace(Regex(pattern), "<>"))
    ours = Native(made.to_str())
    for text in texts:
        assert ours.encode(text, special=False) == made.encode(text).ids, text


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(a)\1", "the escape"),
        (r"(?<name>a)", "the group"),
        (r"(?i:straße)", "ignored"),
        (r"(?i:ss)", "may be one letter"),
        (r"(?i)\p{Lu}", "a case whose case"),
        (r"a(?i)b", "does not stand first"),
        (r"a{2}+", "possessive"),
        (r"\p{Emoji}", "the property"),
        (r"\R", "the escape"),
        (r"[[:alpha:]]", "a class beside"),
        (r"(?m:.)", "the group"),
        (r"(?<=a+)b", "lookbehind"),
    ],
)
def test_patterns_that_may_mean_another_thing_are_unsupported(pattern, what):
    made = small(pre_tokenizer=pre_tokenizers.Split(Regex(pattern), "isolated"))
    with pytest.raises(UnsupportedError, match=what) as refusal:
        Native(made.to_str())
    assert refusal.value.where == "tokenizer.json"


ADDED = st.lists(
    st.builds(
        AddedToken,
        st.text("ab <é", min_size=1, max_size=4),
        single_word=st.booleans(),
        lstrip=st.booleans(),
        rstrip=st.booleans(),
        normalized=st.booleans(),
        special=st.booleans(),
    ),
    max_size=5,
    unique_by=lambda token: token.content,
)


SPACE = AddedToken(" ", lstrip=True, rstrip=True, normalized=False)


@settings(deadline=None, max_examples=200)
@example([AddedToken("<", normalized=False), SPACE], ["  ", "<  a"])
@given(ADDED, st.lists(st.text("ab <é_.", max_size=20), min_size=1, max_size=5))
def test_added_tokens_of_any_kind_are_found_as_the_library_finds_them(tokens, texts):
    made = small(normalizer=normalizers.Lowercase())
    made.add_tokens(tokens)
    ours = Native(made.to_str())
    for text in texts:
        require_same(made, ours, text)


def edited(**changes: Any) -> str:
    return json.dumps({**json.loads(small().to_str()), **changes})


BROKEN = {
    "no JSON": b"{",
    "a list": b"[]",
    "nothing": b"{}",
    "not a number": edited(model={"type": "BPE", "vocab": {"a": -1}, "merges": []}),
    "a lost half": edited(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}),
    "three halves": edited(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}),
    "no unknown": edited(model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 3}),
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_tokenizer_is_refused(content):
    with pytest.raises(UnsafeInputError):
        Native(content)


UNKNOWN = {
    "truncation": edited(truncation={"max_length": 5}),
    "padding": edited(padding={"strategy": "BatchLongest"}),
    "a new part": edited(afterthought={}),
    "a new type": edited(normalizer={"type": "Rot13"}),
    "a new setting": edited(normalizer={"type": "NFC", "strict": True}),
    "charsmap": edited(normalizer={"type": "Precompiled", "precompiled_charsmap": ""}),
    "scripts": edited(pre_tokenizer={"type": "UnicodeScripts"}),
    "dropout": edited(model={"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.1}),
    "no type": edited(model={"vocab": {}, "merges": []}),
    "another version": edited(version="2.0"),
    "one id twice": edited(model={"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}),
}


@pytest.mark.parametrize("content", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_what_this_release_does_not_know_is_unsupported(content):
    with pytest.raises(UnsupportedError):
        Native(content)


def test_bytes_that_are_no_text_are_a_usage_error():
    ours = Native(small().to_str())
    for content in (b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"):
        with pytest.raises(UsageError, match="UTF-8"):
            ask("encode", content, tokenizer=ours.number, special=False)


def test_a_word_without_a_token_is_a_usage_error():
    made = Tokenizer(models.WordLevel({"a": 0}, unk_token="?"))  # noqa: S106
    with pytest.raises(UsageError, match="has no token for"):
        Native(made.to_str()).encode("b", special=False)


def test_a_pattern_that_never_ends_is_given_up():
    made = small(pre_tokenizer=pre_tokenizers.Split(Regex(r"(?:a|aa)+$"), "isolated"))
    with pytest.raises(UsageError, match="takes too long"):
        Native(made.to_str()).encode("a" * 60 + "b", special=False)


# Each step makes the text longer: fifty of them would fill any memory.
LONGER = {
    "normalizers": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace"}] * 50}},
    "words": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 50}},
}


def twice(part: Any) -> Any:
    """``part`` with its replacements from a to aa, and its bytes as letters."""
    if isinstance(part, list):
        return [twice(each) for each in part]
    if part.get("type") == "Replace":
        return {**part, "pattern": {"String": "a"}, "content": "aa"}
    if part.get("type") == "ByteLevel":
        return {**part, "add_prefix_space": False, "use_regex": False, "trim_offsets": True}
    return {name: twice(each) if isinstance(each, list) else each for name, each in part.items()}


@pytest.mark.parametrize("changes", LONGER.values(), ids=LONGER.keys())
def test_a_text_that_grows_without_end_is_given_up(changes):
    ours = Native(edited(**{name: twice(part) for name, part in changes.items()}))
    with pytest.raises(UnsafeInputError, match="makes more than"):
        ours.encode("a\u00e9", special=False)
