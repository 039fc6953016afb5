"""A byte-level BPE tokenizer, trained on the questions and answers of this example.

A question becomes ``<bos> question <sep>``; a question with its answer becomes
``<bos> question <sep> answer <eos>``, where type id 1 marks ``answer <eos>``.  Both templates are
part of ``tokenizer.json``, so whoever loads that file needs to know nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from digits_vlm.questions import KINDS, questions_about

PAD, BOS, EOS, SEP = "<pad>", "<bos>", "<eos>", "<sep>"

# 4 special tokens, 256 bytes and all 130 merges there are to learn: each word is one token.
VOCAB_SIZE = 390


def train_tokenizer(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """The tokenizer of this example; the same one on every call.

    Text is lower-cased and any text can be encoded, because every byte is in the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    # A word is one token wherever it stands, because a first word gets a space before it too.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS, SEP],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {SEP}",
        pair=f"{BOS}:0 $A:0 {SEP}:0 $B:1 {EOS}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BOS, SEP, EOS)],
    )
    return tokenizer


def _corpus() -> Iterator[str]:
    for digit in range(10):
        for kind in KINDS:
            for question in questions_about(digit, kind):
                yield question.text
                yield question.answer
