"""A vision-language model as small as it can be: image and question in, next word out."""

import json

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

import moe_export

WORDS = ["<pad>", "<eos>", "which", "digit", "is", "it", "zero", "one", "two", "three"]
HIDDEN = 8
EXPERTS = 4


class SparseMoE(nn.Module):
    """Top-2 of four gated experts."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, 12))
        self.gated = nn.Parameter(torch.randn(EXPERTS, HIDDEN, 12))
        self.down = nn.Parameter(torch.randn(EXPERTS, 12, HIDDEN) / 12)

    def forward(self, x):
        rows = x.reshape(-1, HIDDEN)
        weights, ids = self.gate(rows).softmax(-1).topk(2)
        dense = torch.zeros_like(rows[:, :EXPERTS]).scatter(1, ids, weights)
        inner = F.silu(rows @ self.gated) * (rows @ self.up)
        return torch.einsum("te,eth->th", dense, inner @ self.down).view_as(x)


class SmoothMoE(SparseMoE):
    """A look-alike: it chooses nobody, and weighs all by squares, which no router here does."""

    def forward(self, x):
        rows = x.reshape(-1, HIDDEN)
        dense = self.gate(rows).softmax(-1).square()
        inner = F.silu(rows @ self.gated) * (rows @ self.up)
        return torch.einsum("te,eth->th", dense, inner @ self.down).view_as(x)


class TinyVLM(nn.Module):
    """Two alike MoE layers, a look-alike, and a parameter that nothing reads."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Linear(4, HIDDEN)
        self.embed = nn.Embedding(len(WORDS), HIDDEN)
        self.moes = nn.ModuleList([SparseMoE(), SparseMoE()])
        self.strange = SmoothMoE()
        self.head = nn.Linear(HIDDEN, len(WORDS))
        self.forgotten = nn.Parameter(torch.ones(3))

    def forward(self, image, tokens):
        x = self.embed(tokens) + self.patch(image.flatten(1))[:, None]
        for moe in (*self.moes, self.strange):
            x = x + moe(x)
        return self.head(x)


class TinyText(TinyVLM):
    """The same without eyes."""

    def forward(self, tokens):
        return self.head(self.embed(tokens))


@moe_export.model_factory
def tiny_vlm():
    return TinyVLM()


def tiny():
    """What ``tiny_vlm:tiny`` names: the seeded model with inputs."""
    torch.manual_seed(0)
    return TinyVLM(), (torch.rand(3, 2, 2), torch.randint(2, 10, (3, 5)))


def other_weights():
    torch.manual_seed(1)
    return TinyVLM(), (torch.rand(3, 2, 2), torch.randint(2, 10, (3, 5)))


def other_layers():
    model, inputs = tiny()
    model.moes[1] = nn.Identity()
    return model, inputs


def other_inputs():
    torch.manual_seed(0)
    return TinyText(), (torch.randint(2, 10, (3, 5)),)


def other_width():
    model, (_, tokens) = tiny()
    return model, (torch.rand(3, 2, 3), tokens)


def broken():
    raise RuntimeError("the weights are on the moon")


def assets():
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = Whitespace()
    generation = {
        "text_input": "tokens",
        "logits_output": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "max_new_tokens": 4,
        "max_length": 12,
    }
    preprocessor = {
        "image_input": "image",
        "size": {"height": 2, "width": 2},
        "mode": "L",
        "rescale_factor": 1 / 255,
        "layout": "HW",
    }
    return {
        "tokenizer.json": tokenizer.to_str(),
        "generation_config.json": json.dumps(generation),
        "preprocessor_config.json": json.dumps(preprocessor),
    }


def save(path):
    """Write the model as the checkpoint ``path``."""
    model, inputs = tiny()
    return moe_export.save_checkpoint(
        model, path, factory="tiny_vlm:tiny_vlm", config={}, example_inputs=inputs, assets=assets()
    )
