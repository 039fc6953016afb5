"""Families of Transformers with experts that have no small model here, and why."""

from __future__ import annotations

from moe_export.moe.families import OUT_OF_REACH

NOT_TRIED: dict[str, str] = dict(OUT_OF_REACH)
"""Vision-language models without a record, and what is known to stand in the way."""

NOT_TRIED_TEXT: dict[str, str] = {
    "gemma4_assistant": "it drafts tokens for a gemma4 out of that model's hidden states and keys,"
    " and answers nothing alone",
}
"""Language models."""

OTHER_TASKS: dict[str, str] = {
    **dict.fromkeys(
        ("nllb-moe", "switch_transformers"),
        "an encoder and a decoder that reads it; a bundle's decoder goes on from its own text",
    ),
    "nemo_speechlm": "it writes down speech, and a bundle reads text and images; its text model is"
    " that of nemotron_h, which works",
    "openai_privacy_filter": "it marks each token of a text, and writes none",
    "vitpose": "it finds the joints of bodies in an image, and writes no text",
}
"""What writes no text behind a cache, or reads neither text nor images to do so."""
