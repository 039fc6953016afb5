"""llama.cpp's ``convert_hf_to_gguf.py`` for a tokenizer that it does not know by its hash.

``model_gguf.py SOURCES DIRECTORY OPTIONS…``.  The tokenizers of these models split words as Qwen's
do (``model_directory.py``), and are said to be one.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    sources, *arguments = sys.argv[1:]
    sys.path[:0] = [sources, str(Path(sources) / "gguf-py")]
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda *_: "qwen2"
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    runpy.run_path(str(Path(sources) / "convert_hf_to_gguf.py"), run_name="__main__")


if __name__ == "__main__":
    main()
