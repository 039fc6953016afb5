"""Tokenizers of every make that models have, trained on real text in many scripts."""

# ruff: noqa: RUF001 - many scripts are what is tested
from __future__ import annotations

import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

# The words of some families, as their tokenizers have them.
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re"
    r"|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = (
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
CHAT = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>")

SCRIPTS = """\
The quick brown fox doesn't jump; it's 12,345.67 times (or more) what we'll say: "naïve café"!
Привет, мир! Съешь же ещё этих мягких французских булок, да выпей чаю.
你好，世界。敏捷的棕色狐狸跳过了懒狗。こんにちは世界、カタカナとひらがな。안녕하세요 세계
नमस्ते दुनिया, यह एक परीक्षण है। مرحبا بالعالم، هذا اختبار. שלום עולם ሰላም ልዑል สวัสดีชาวโลก
ΑΣΣ İstanbul ıßſ ǅ ﬁﬀ ½ ² ① Ⅻ ㎏ é e\u0301 q\u0307\u0323 \u1e9b\u0323 각 \u1100\u1161\u11a8
👩‍👩‍👧‍👦 🇩🇪 👍🏽 \u2028 \u00a0\u3000\u200b \t\ttabs  and   spaces   \r\n\r\n x\n\n\n y
"""


@cache
def corpus() -> tuple[str, ...]:
    """Some of the sources and texts that come with Python and its packages, and many scripts."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"))[:60] + sorted(folder.glob("pydoc_data/*.py"))
    files += sorted(Path(sysconfig.get_path("purelib")).glob("*/*.rst"))[:20]
    texts = [path.read_text(encoding="utf-8", errors="ignore")[:20000] for path in files]
    return (*texts, SCRIPTS * 40)


def byte_level(pattern: str | tuple[str, ...], normalizer: Any = None, **model: Any) -> Tokenizer:
    """As Qwen, Llama 3 and 4, Kimi and DeepSeek have it."""
    made = Tokenizer(models.BPE(**model))
    made.normalizer = normalizer
    patterns = (pattern,) if isinstance(pattern, str) else pattern
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(each), "isolated") for each in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trained(made, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.add_special_tokens(list(CHAT))
    return made


def trained(made: Tokenizer, trainer: Any, size: int = 3000, **how: Any) -> Tokenizer:
    kind = trainer(vocab_size=size, show_progress=False, **how)
    # Enough to learn from; what is compared is all of it.
    made.train_from_iterator((text[:3000] for text in corpus()), kind)
    return made


def qwen() -> Tokenizer:
    made = byte_level(QWEN, normalizers.NFC())
    made.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>")])
    return made


def llama3() -> Tokenizer:
    made = byte_level(LLAMA3, ignore_merges=True)
    bos = ("<|im_start|>", made.token_to_id("<|im_start|>"))
    template = processors.TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return made


def gpt2() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trained(made, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.add_special_tokens(["<s>", "</s>"])
    ends = [(name, made.token_to_id(name)) for name in ("</s>", "<s>")]
    made.post_processor = processors.RobertaProcessing(*ends)
    made.add_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return made


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_fallback(unknown: bool = True) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    alphabet = {"limit_alphabet": 150, "special_tokens": special + (BYTES if unknown else [])}
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trained(made, trainers.BpeTrainer, **alphabet)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made


def gemma() -> Tokenizer:
    made = byte_fallback()
    made.add_special_tokens(["<start_of_turn>", "<end_of_turn>", "<image_soft_token>"])
    made.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False)])
    bos = ("<bos>", made.token_to_id("<bos>"))
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[bos]
    )
    return made


def llama2() -> Tokenizer:
    made = byte_fallback(unknown=False)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.pre_tokenizer = None
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([AddedToken("<s>", rstrip=True), AddedToken("</s>", single_word=True)])
    made.add_tokens([AddedToken("fox jump"), AddedToken("é", single_word=True)])
    return made


def mistral() -> Tokenizer:
    made = byte_fallback()
    made.normalizer = None
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.add_special_tokens(["[INST]", "[/INST]"])
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trained(
        made,
        trainers.UnigramTrainer,
        size=2000,
        unk_token="<unk>",  # noqa: S106
        special_tokens=["<unk>", "</s>"],
    )
    end = ("</s>", made.token_to_id("</s>"))
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[end]
    )
    return made


def spelled_unigram() -> Tokenizer:
    letters = [(letter, -3.0 - place / 10) for place, letter in enumerate("▁etaoinshrdlu")]
    words = [("▁the", -2.0), ("ing", -2.5), ("▁a", -2.2), ("<unk>", -1.0)]
    made = Tokenizer(
        models.Unigram([("<unk>", 0.0), *letters, *words, *((b, -9.0) for b in BYTES)], 0, True)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return made


def bert() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trained(made, trainers.WordPieceTrainer, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    ends = [(name, made.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    made.post_processor = processors.BertProcessing(*ends)
    return made


def clip() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))  # noqa: S106
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.BPEDecoder()])
    return trained(
        made,
        trainers.BpeTrainer,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def subwords() -> Tokenizer:
    prefix = "##"
    made = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix=prefix))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    return trained(
        made,
        trainers.BpeTrainer,
        continuing_subword_prefix=prefix,
        special_tokens=["<unk>"],
        limit_alphabet=120,
    )


def words() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])
    return trained(made, trainers.WordLevelTrainer, special_tokens=["<unk>", "<pad>"])


def digits_vlm() -> Tokenizer:
    """That of ``examples/digits_vlm``."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    try:
        from digits_vlm.tokenizer import train_tokenizer
    finally:
        sys.path.pop(0)
    return train_tokenizer()


MAKES: dict[str, Callable[[], Tokenizer]] = {
    "qwen": qwen,
    "llama3": llama3,
    "llama4": lambda: byte_level(GPT4O, ignore_merges=True),
    "kimi": lambda: byte_level(KIMI),
    "deepseek": lambda: byte_level(DEEPSEEK),
    "gpt2": gpt2,
    "gemma": gemma,
    "llama2": llama2,
    "mistral": mistral,
    "unigram": unigram,
    "spelled unigram": spelled_unigram,
    "bert": bert,
    "clip": clip,
    "subwords": subwords,
    "words": words,
    "digits_vlm": digits_vlm,
}

# Their normalizers and words are of tables in the library that are older than the letters since
# Unicode 9; docs/native-text-and-images.md has the list.
OLD_TABLES = ("bert", "subwords", "words")
