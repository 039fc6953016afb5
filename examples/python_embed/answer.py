"""Answer a question about an image, word by word.

usage: python answer.py BUNDLE IMAGE QUESTION
"""

import sys

import moe_export


def main(bundle: str, image: str, question: str) -> int:
    """Write the answer to standard output as it comes; the status is that of the error kind."""
    try:
        with moe_export.Generator(bundle) as generator:
            with generator.stream(image, question, max_new_tokens=256) as pieces:
                for piece in pieces:
                    print(piece, end="", flush=True)
            answer = pieces.answer
            print(f"\n({len(answer.ids)} tokens, {answer.finish_reason})", file=sys.stderr)
    except moe_export.MoeExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
