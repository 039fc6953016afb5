"""Train the model: ``python -m digits_vlm.train --out DIR``."""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from digits_vlm.batch import Batch, batches
from digits_vlm.data import Digits, split_digits
from digits_vlm.evaluate import accuracy, eager_answer_fn, held_out_questions
from digits_vlm.losses import answer_loss, load_balancing_loss
from digits_vlm.model import DigitsVLM, DigitsVLMConfig
from digits_vlm.outputs import expert_usage, parameters, save_metrics, save_model, save_samples
from digits_vlm.tokenizer import train_tokenizer


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to learn."""

    steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    balance_weight: float = 0.01
    max_gradient_norm: float = 1.0

    def rate(self, step: int) -> float:
        """The learning rate: linear warm-up, then a cosine to zero at ``steps``."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def losses(model: DigitsVLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The answer loss, and the load-balancing loss averaged over the blocks."""
    logits, router_logits = model(batch.image, batch.tokens, return_router_logits=True)
    counted = batch.counted(model.config.num_patches)
    balance = [load_balancing_loss(block, model.config.top_k, counted) for block in router_logits]
    return answer_loss(logits, batch.targets), torch.stack(balance).mean()


def train(
    model: DigitsVLM, digits: Digits, tokenizer: Tokenizer, *, schedule: Schedule, seed: int
) -> float:
    """Fit ``model`` in place and return the mean answer loss of the last tenth of the steps."""
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=schedule.weight_decay, fused=True
    )
    stream = batches(digits, tokenizer, schedule.batch_size, seed)
    started, history = time.perf_counter(), []
    model.train()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        answering, balance = losses(model, next(stream))
        optimizer.zero_grad()
        (answering + schedule.balance_weight * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.max_gradient_norm)
        optimizer.step()
        history.append(answering.item())
        if (step + 1) % 100 == 0:
            say(
                f"step {step + 1:5d}/{schedule.steps}  answer loss {np.mean(history[-100:]):.4f}"
                f"  balance {balance.item():.3f}  {time.perf_counter() - started:4.0f} s"
            )
    model.eval()
    return float(np.mean(history[-max(1, schedule.steps // 10) :]))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Train, judge on the held-out images, and write the results to a folder."""
    parser = argparse.ArgumentParser(prog="python -m digits_vlm.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for model.pt and the rest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Schedule.steps)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    # One thread: of matrices as small as these a second one takes no work worth its waiting.  And a
    # sum split among another number of threads rounds differently: weights depend on it.
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(arguments.seed)

    training, held_out = split_digits()
    tokenizer = train_tokenizer()
    model = DigitsVLM(DigitsVLMConfig(vocab_size=tokenizer.get_vocab_size()))
    started = time.perf_counter()
    schedule = Schedule(steps=arguments.steps)
    train(model, training, tokenizer, schedule=schedule, seed=arguments.seed)
    seconds = time.perf_counter() - started

    questions = held_out_questions()
    judged = accuracy(eager_answer_fn(model, tokenizer), questions)
    save_model(arguments.out / "model.pt", model, tokenizer)
    save_samples(arguments.out, held_out)
    metrics = {
        "seed": arguments.seed,
        "steps": arguments.steps,
        "train_seconds": round(seconds, 1),
        "held_out": asdict(judged),
        "parameters": parameters(model),
        "expert_usage": expert_usage(model, tokenizer, questions),
    }
    save_metrics(arguments.out / "metrics.json", metrics)
    say(f"{judged.overall:.2%} of {judged.count} held-out questions right, {seconds:.0f} s")


if __name__ == "__main__":
    main()
