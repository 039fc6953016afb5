"""llama.cpp's ``convert_hf_to_gguf.py`` for a tokenizer that it does not know by its hash.

``model_gguf.py SOURCES DIRECTORY OPTIONS…``.  The tokenizers of these models split words as Qwen's
do (``model_directory.py``), and are said to be one.  Experts are turned: Transformers writes them
as its modules hold them, ``[E, out, in]``, and the script takes them as Qwen published its own.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    sources, *arguments = sys.argv[1:]
    sys.path[:0] = [sources, str(Path(sources) / "gguf-py")]
    from conversion.base import TextModel
    from conversion.qwen3vl import Qwen3VLMoeTextModel

    published = Qwen3VLMoeTextModel.modify_tensors

    def turned(self: Any, values: Any, name: str, block: int | None) -> Any:
        is_expert = name.endswith(("mlp.experts.gate_up_proj", "mlp.experts.down_proj"))
        return published(self, values.transpose(1, 2) if is_expert else values, name, block)

    Qwen3VLMoeTextModel.modify_tensors = turned
    TextModel.get_vocab_base_pre = lambda *_: "qwen2"
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    runpy.run_path(str(Path(sources) / "convert_hf_to_gguf.py"), run_name="__main__")


if __name__ == "__main__":
    main()
