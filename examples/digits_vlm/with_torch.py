"""The eager side of the demo: ``python -m digits_vlm.with_torch CHECKPOINT MEASURED THREADS``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

from digits_vlm.evaluate import eager_answer_fn
from digits_vlm.measure import Floats, Ids, Prompts, measure
from digits_vlm.model import build


def main(checkpoint: str, measured: str, threads: int) -> None:
    """Measure the model of ``checkpoint`` and write the file ``measured``."""
    torch.set_num_threads(threads)
    saved = torch.load(checkpoint, weights_only=True)
    model = build(**saved["config"])
    model.load_state_dict(saved["state_dict"])
    model.eval()
    tokenizer = Tokenizer.from_str(bytes(saved["assets"]["tokenizer.json"].tolist()).decode())

    @torch.inference_mode()
    def route(prompts: Prompts) -> dict[str, tuple[Floats, Ids]]:
        images, tokens = torch.from_numpy(prompts.images), torch.from_numpy(prompts.tokens)
        _, router_logits = model(images, tokens, return_router_logits=True)
        return {
            f"blocks.{number}.moe": (logits.numpy(), _chosen(logits, model.config.top_k))
            for number, logits in enumerate(router_logits)
        }

    measure(eager_answer_fn(model, tokenizer), route, tokenizer).save(Path(measured))


def _chosen(router_logits: torch.Tensor, top_k: int) -> Ids:
    """As ``SparseMoE`` chooses: ``[B * S, E]`` to ``[B * S, K]``."""
    return router_logits.softmax(dim=-1, dtype=torch.float32).topk(top_k).indices.numpy()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
