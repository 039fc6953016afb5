"""The specification of one mixture-of-experts (MoE) layer: a router and its experts.

Letters: T tokens, K top_k, E experts, H hidden size, I intermediate size, S = T*K assignments.
The attributes have the meaning that ``docs/ops.md`` gives them; ``moe/reference/`` executes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Score = Literal["softmax", "sigmoid", "softmax_topk", "sigmoid_topk"]
GroupScore = Literal["max", "top2_sum"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "identity", "swiglu_clamped"]
GateLayout = Literal["concatenated", "interleaved"]
WeightOn = Literal["output", "input"]
WeightFormat = Literal["f32", "bf16", "f16", "int8", "int4"]
RowFormat = Literal["f32", "bf16", "int8", "int16"]

ROW_STEPS: Mapping[str, int] = {"int8": 127, "int16": 32767}
"""Rows of whole numbers: the steps between 0 and the largest number of a block."""

AttributeValue = int | float | str


@dataclass(frozen=True, kw_only=True)
class RouterSpec:
    """How ``router_logits [T, E]`` become ``topk_weights [T, K]`` and ``topk_ids [T, K]``.

    ``kept`` names the operators that do so where no attributes of the ``Router`` op say it; then
    they stay in the graph as they are, and the other attributes have no meaning and their defaults.
    Raises ``ValueError`` where the attributes contradict each other.
    """

    num_experts: int
    top_k: int
    score: Score = "softmax"
    normalize: bool = False
    normalize_eps: float = 0.0
    normalize_min: float = 0.0
    num_groups: int = 1
    topk_groups: int = 1
    group_score: GroupScore = "max"
    routed_scaling: float = 1.0
    has_correction_bias: bool = False
    has_expert_scale: bool = False
    kept: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k must be in 1..{self.num_experts}, got {self.top_k}")
        if self.score not in get_args(Score):
            raise ValueError(f"score must be one of {get_args(Score)}, got {self.score!r}")
        if self.group_score not in get_args(GroupScore):
            raise ValueError(f"group_score must be one of {get_args(GroupScore)}")
        if self.num_groups < 1 or self.num_experts % self.num_groups:
            raise ValueError(f"{self.num_experts} experts do not form {self.num_groups} groups")
        if not 1 <= self.topk_groups <= self.num_groups:
            raise ValueError(f"topk_groups must be in 1..{self.num_groups}")
        group_size = self.num_experts // self.num_groups
        if self.top_k > self.topk_groups * group_size:
            raise ValueError(f"top_k {self.top_k} exceeds the experts of {self.topk_groups} groups")
        if self.num_groups > 1 and self.group_score == "top2_sum" and group_size < 2:
            raise ValueError("group_score 'top2_sum' needs groups of at least 2 experts")
        if self.kept and replace(self, kept="") != RouterSpec(
            num_experts=self.num_experts, top_k=self.top_k
        ):
            raise ValueError("a router that is kept has no attributes of the Router op")

    def attributes(self) -> dict[str, AttributeValue]:
        """The attributes of the ``Router`` op, in schema order."""
        return {
            "top_k": self.top_k,
            "score": self.score,
            "normalize": int(self.normalize),
            "normalize_eps": self.normalize_eps,
            "normalize_min": self.normalize_min,
            "num_groups": self.num_groups,
            "topk_groups": self.topk_groups,
            "group_score": self.group_score,
            "routed_scaling": self.routed_scaling,
        }

    def describe(self) -> str:
        """The router's semantics in one line, for a person."""
        if self.kept:
            return f"kept as the model has it ({self.kept}), top-{self.top_k}"
        return self._of_the_op()

    def _of_the_op(self) -> str:
        if self.top_k == self.num_experts and self.score == "softmax" and not self.normalize:
            words = "softmax over all experts (dense mixture)"
        elif self.score.endswith("_topk"):
            words = f"top-{self.top_k} of the logits, {self.score.removesuffix('_topk')} of those"
        else:
            words = f"{self.score}, top-{self.top_k}"
        if self.has_correction_bias:
            words += ", chosen with a correction bias"
        if self.num_groups > 1:
            words += f", within the best {self.topk_groups} of {self.num_groups} groups"
            words += f" (by {self.group_score})"
        if self.normalize:
            words += ", normalized"
            if self.normalize_eps:
                words += f" (eps {self.normalize_eps:g})"
            if self.normalize_min:
                words += f" (sum at least {self.normalize_min:g})"
        if self.has_expert_scale:
            words += ", scaled per expert"
        if self.routed_scaling != 1.0:
            words += f", times {self.routed_scaling:g}"
        return words


@dataclass(frozen=True, kw_only=True)
class ExpertsSpec:
    """E feed-forward networks of one shape.

    ``intermediate_size`` is 0 where each expert is a single linear layer (``down`` only).
    ``alpha`` and ``limit`` are read by ``swiglu_clamped`` alone.  ``middle`` names the operators
    between the matrices where no activation does, and behind the last if there are any; then the
    ``Experts`` op cannot say the layer, and ``Dispatch``, ``GroupedMatMul`` and ``Combine`` carry
    it.  ``row_format`` is what rows are rounded to before each matrix multiplies them; ``int8``
    goes with ``int8`` and ``int4`` weights.
    """

    num_experts: int
    hidden_size: int
    intermediate_size: int
    output_size: int
    activation: Activation = "silu"
    gated: bool = True
    gate_layout: GateLayout = "concatenated"
    weight_on: WeightOn = "output"
    alpha: float = 1.702
    limit: float = 7.0
    weight_format: WeightFormat = "f32"
    block_size: int = 0
    row_format: RowFormat = "f32"
    has_up_bias: bool = False
    has_down_bias: bool = False
    middle: str = ""

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {get_args(Activation)}")
        if self.gate_layout not in get_args(GateLayout):
            raise ValueError(f"gate_layout must be one of {get_args(GateLayout)}")
        if self.weight_on not in get_args(WeightOn):
            raise ValueError(f"weight_on must be one of {get_args(WeightOn)}")
        if self.weight_format not in get_args(WeightFormat):
            raise ValueError(f"weight_format must be one of {get_args(WeightFormat)}")
        if self.row_format not in get_args(RowFormat):
            raise ValueError(f"row_format must be one of {get_args(RowFormat)}")
        if self.row_format in ROW_STEPS and self.weight_format not in ("int8", "int4"):
            raise ValueError(
                f"row_format {self.row_format!r} does not go with {self.weight_format!r} weights"
            )
        if self.intermediate_size == 0 and (self.gated or self.activation != "identity"):
            raise ValueError("a single linear layer per expert is gated=False, 'identity'")
        if self.activation == "swiglu_clamped" and not self.gated:
            raise ValueError("activation 'swiglu_clamped' needs a gate")

    def attributes(self) -> dict[str, AttributeValue]:
        """The attributes of the ``Experts`` op in schema order, but for ``weight_layout``.

        That one tells how a graph stores a weight, not what the layer is.
        """
        return {
            "activation": self.activation,
            "gated": int(self.gated),
            "gate_layout": self.gate_layout,
            "weight_on": self.weight_on,
            "alpha": self.alpha,
            "limit": self.limit,
            "weight_format": self.weight_format,
            "block_size": self.block_size,
            "row_format": self.row_format,
        }

    @property
    def parameters_per_expert(self) -> int:
        """Weights and biases of one expert."""
        if not self.intermediate_size:
            return self.output_size * (self.hidden_size + int(self.has_down_bias))
        up_rows = self.intermediate_size * (2 if self.gated else 1)
        up = up_rows * (self.hidden_size + int(self.has_up_bias))
        down = self.output_size * (self.intermediate_size + int(self.has_down_bias))
        return up + down

    def describe(self) -> str:
        """The experts' architecture in one line, for a person."""
        shape = f"{self.hidden_size} -> {self.intermediate_size} -> {self.output_size}"
        if not self.intermediate_size:
            return f"linear {self.hidden_size} -> {self.output_size}"
        gate = "gated " if self.gated else ""
        where = ", weight on the input" if self.weight_on == "input" else ""
        return f"{gate}{self.middle or self.activation} {shape}{where}"


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One MoE layer: what its ops are, and what stays beside them."""

    router: RouterSpec
    experts: ExpertsSpec
    has_shared_path: bool = False
    """Whether the block adds something to the routed sum: a shared expert, a residual."""

    shared_parameters: int = field(default=0)
    """Parameters of that path (the shared expert and its gate)."""

    @property
    def identity_experts(self) -> int:
        """Those that the router may choose behind the others: each gives back the row it gets."""
        return self.router.num_experts - self.experts.num_experts
