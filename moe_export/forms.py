"""The types on the arrows of the line: one frozen dataclass for each form of the model.

``ExportSpec -> LoadedModel -> MarkedModel -> PortableModel -> TargetModel -> Bundle -> Report``

Stages import these and never each other.  At run time this module imports neither torch nor onnx.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import LayerSpec
from moe_export.moe.quantize import Precision
from moe_export.moe.recipe import Recipe

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from moe_export.ondisk import Spool

Array = npt.NDArray[Any]

# What of a weight is in memory at a time, where it need not be whole.
_PIECE_BYTES = 1 << 24

OWN_NUMBERS = Precision("f32")
"""The precision that leaves a model's numbers as they are."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model came from, without machine paths."""

    description: str
    """``model.pt`` or ``package.module:factory`` or a class name: the user's word for it."""

    fingerprint: str
    """SHA-256 over names, dtypes, shapes and bytes of the parameters and buffers."""


MAIN_COMPONENT = "model"
"""What the graph of a model is called that is one graph."""

MODALITIES = ("any", "text", "image", "padding")
"""What a token may be of; where tensors say it, by its place here.  ``any``: nobody knows."""

ANY, TEXT, IMAGE, PADDING = range(len(MODALITIES))


def _no_codes() -> Array:
    return np.zeros((0, 0), np.uint8)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt as the components of a Transformers model take it."""

    ids: Array
    """``[1, S]``, int64."""

    positions: Array
    """``[1, S]`` or, for three kinds of them, ``[3, 1, S]``, int64."""

    modality: Array
    """``[1, S]``, uint8: what each token is of, as ``MODALITIES`` counts."""

    images: Mapping[str, Array] = field(default_factory=dict)
    """What ``vision`` takes, by name; nothing where the prompt has no image."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a user has a model and its bundle compared on: arrays, or questions."""

    arrays: Mapping[str, Mapping[str, Mapping[str, Array]]] = field(default_factory=dict)
    """By component, by what to call the case, by input."""

    asked: Mapping[str, Asked] = field(default_factory=dict)
    """By what to call the case: each is a case of every component that it goes through."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """An eager model in eval mode on the CPU, with inputs that it accepts.

    A model that becomes several graphs has one of these for each: this one, and those ``beside``.
    Each of their modules holds all the tensors of the source, under the source's names.
    """

    module: torch.nn.Module
    example_inputs: Mapping[str, torch.Tensor]
    """By the name of the ``forward`` parameter, in its order."""

    dynamic_shapes: Mapping[str, Mapping[int, str]] | None
    """Symbolic axes by input and axis; ``None`` lets every axis vary that the model lets vary."""

    assets: Mapping[str, bytes]
    """Files that travel into the bundle unchanged (tokenizer, preprocessor, generation config)."""

    source: Source
    component: str = MAIN_COMPONENT
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tensors of the source that are no part of the model, by name, each with the reason."""

    cases: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    """Inputs of other sizes than the example's, by what to call them; none: the example resized."""

    beside: tuple[LoadedModel, ...] = ()
    spool_folder: Path | None = None
    """Where weights are kept once they are quantised; ``None`` is where the system keeps files."""

    narrow_block: Callable[[str], torch.nn.Module | None] = lambda _: None
    """By path, a block of the same code with narrower experts and other weights, if there is one:
    what is shown of the code may be shown there."""

    modality: Mapping[str, Array] = field(default_factory=dict)
    """Of the tokens ``[B, S]`` of a case, as ``MODALITIES`` counts; the example's by ``example``.
    None where the source cannot say."""

    asked: Mapping[str, Asked] = field(default_factory=dict)
    """Prompts that the model goes on from, by what to call them; for the first of several parts."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was shown before a block was replaced: numbers in float64."""

    cases: tuple[str, ...]
    tokens: int
    max_error: float
    tolerance: float
    experts_reached: int
    shown_on: str | None = None
    """The path of the block that was run, where it was not this one but one of the same code."""

    intermediate_size: int | None = None
    """Of the experts that were run, where they were narrower than the block's."""


ROOT_NAME = "model"
"""What a block is called that is the whole model: its path is empty."""


@dataclass(frozen=True, kw_only=True)
class BlockRecord:
    """What became of one mixture-of-experts block of the source model."""

    path: str
    kind: str
    """The class of the block in the source model."""

    status: str
    """``proven`` (replaced by ops), ``unfused`` (exported as it is) or ``refused``."""

    found_by: str
    """``structure``, or ``registered`` by the user."""

    layer: LayerSpec | None = None
    proof: Proof | None = None
    reason: str | None = None
    """Why the block was not replaced, or why its router was kept."""

    @property
    def name(self) -> str:
        """What the block's values, golden tensors and reports are filed under."""
        return self.path or ROOT_NAME


class Pass(NamedTuple):
    """One of the times that a block runs in a run of the model; most blocks run once."""

    path: str
    number: int = 1

    @property
    def name(self) -> str:
        """What the values, golden tensors and reports of this pass are filed under."""
        return pass_name(self.path or ROOT_NAME, self.number)


def pass_name(block: str, number: int) -> str:
    """The name of an MoE layer: that of its block, and for a later pass its number behind it."""
    return block if number == 1 else f"{block}@{number}"


def block_name(layer: str, blocks: Container[str]) -> str:
    """The name, of those of ``blocks``, of the block that an MoE layer is a pass over."""
    return layer if layer in blocks else layer.rpartition("@")[0]


def shared_words(lists: Iterable[Sequence[str]]) -> int:
    """How many words all of the lists begin with."""
    columns = list(zip(*lists, strict=False))
    return next((i for i, words in enumerate(columns) if len(set(words)) > 1), len(columns))


class MoELayer(Protocol):
    """A proven block as it stands in a marked model; rows are ``[T, H]``."""

    logits: torch.nn.Module
    """From rows to ``router_logits``."""

    kept: torch.nn.Module | None
    """From rows and logits to ``topk_weights`` and ``topk_ids``, where no op says how."""

    correction_bias: torch.Tensor | None
    replayed: Callable[[], Mapping[str, torch.Tensor]] | None
    """When set, it gives what an earlier run saw, whose ``topk_ids [T, K]`` are taken instead of
    the router's choice.  It is asked once in each pass.

    This, the shift and what was seen are those of one run: every thread has its own.
    """

    edge_shift: float
    """How far the edges at which rows are rounded are moved, in parts of the largest number of what
    is rounded together; 0 is where they belong."""

    @property
    def seen(self) -> dict[str, torch.Tensor]:
        """What the last pass saw, by role: ``x``, ``router_logits``, ``topk_ids``, …, ``y``."""

    def __call__(self, x: torch.Tensor) -> Any:
        """What the original block returns for ``x [..., H]``."""

    def watch(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """``x``, ``router_logits``, ``topk_ids`` and ``topk_weights`` of the rows."""

    def mix(
        self, hidden: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor
    ) -> torch.Tensor:
        """The routed sum ``[T, Hout]`` of the experts alone."""


class Edges(threading.local):
    """How far the edges at which rows are rounded are moved, as ``MoELayer.edge_shift`` says.

    Every thread that runs the model has its own.
    """

    shift: float = 0.0


class Choices(threading.local):
    """What a run keeps of much: the keys that an index picks, in the order of its choosing.

    ``settle`` hears of each choice and gives the one that counts; every thread has its own.
    """

    settle: Callable[[torch.Tensor], torch.Tensor] | None = None

    def made(self, choice: torch.Tensor) -> torch.Tensor:
        """The choice that counts."""
        return choice if self.settle is None else self.settle(choice)


CHOICES = Choices()
"""Of the run that is at work."""


@dataclass(frozen=True, kw_only=True)
class MarkedModel:
    """The model twice: as it was, and with each proven block as a router op and an experts op.

    ``marked`` shares its tensors with ``loaded.module``; the stacked weights of the ops are
    placeholders without storage, and ``recipes`` says how each is made.
    """

    loaded: LoadedModel
    marked: torch.nn.Module
    recipes: Mapping[str, Recipe]
    """By qualified parameter name in ``marked``."""

    blocks: tuple[BlockRecord, ...]
    layers: Mapping[str, MoELayer]
    """The replacements in ``marked``, by the path of the block they stand for."""

    real_layer: Callable[[str, torch.nn.Module, torch.dtype, Precision], MoELayer]
    """The proven block at a path with its weights built, its experts' in a precision and all else
    of a copy of the block in that dtype."""

    dense_weight: Callable[[str, Precision], torch.Tensor]
    """A matrix of the source in a precision, by name: what meets it in a product is rounded."""

    edges: Edges
    """Of what meets such a matrix."""

    spool: Spool
    """The quantised weights of the model."""

    beside: tuple[MarkedModel, ...] = ()
    """The models beside this one, as ``loaded`` has them."""

    @property
    def parts(self) -> tuple[MarkedModel, ...]:
        """What becomes one graph each."""
        return (self, *self.beside)

    @property
    def proven(self) -> tuple[BlockRecord, ...]:
        """The blocks that were replaced."""
        return tuple(block for block in self.blocks if block.status == "proven")


@dataclass(frozen=True, kw_only=True)
class LayerTensors:
    """One MoE layer of the eager model on one golden case.

    ``x [T,H]`` enters the experts and ``y [T,Hout]`` leaves the block; ``*_reference`` is the same
    in float64 with the eager model's own choice of experts.  ``margin [T]`` is how far a token is
    from another choice, ``noise [T]`` how far rounding moved its scores from the reference.
    ``*_edge_error []`` is the largest difference from the reference when the edges at which rows
    are rounded are moved by a hair; 0 where rows are not rounded.  ``*_rewritten_error []`` is that
    of the rewritten model, its blocks as ops in PyTorch in float32, with the eager model's choice
    of experts; NaN where the eager model is itself made of such layers, as a rounded one is.
    """

    x: Array
    y: Array
    router_logits: Array
    topk_ids: Array
    topk_weights: Array
    x_reference: Array
    y_reference: Array
    router_logits_reference: Array
    topk_weights_reference: Array
    margin: Array
    noise: Array
    x_edge_error: Array
    y_edge_error: Array
    router_logits_edge_error: Array = field(default_factory=lambda: np.zeros(()))
    topk_weights_edge_error: Array = field(default_factory=lambda: np.zeros(()))
    x_rewritten_error: Array = field(default_factory=lambda: np.full((), np.nan))
    y_rewritten_error: Array = field(default_factory=lambda: np.full((), np.nan))
    rivals: Array = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    modality: Array = field(default_factory=lambda: np.zeros(0, np.uint8))


@dataclass(frozen=True, kw_only=True)
class GoldenCase:
    """One run of the eager model: its inputs, outputs, and what its MoE layers saw and chose."""

    name: str
    component: str = MAIN_COMPONENT
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    outputs_reference: Mapping[str, Array]
    """The outputs in float64, routed as the eager model routed."""

    outputs_edge_error: Mapping[str, Array]
    """As ``LayerTensors`` has it for its tensors."""

    layers: Mapping[str, LayerTensors]
    outputs_rewritten_error: Mapping[str, Array] = field(default_factory=dict)
    """The same; none: not recorded."""
    modality: Array = field(default_factory=_no_codes)
    """``[B, S]``, as ``MODALITIES`` counts: of a decoder's tokens, or of the rows of a model of one
    graph; empty where nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What the eager model says behind a prompt: the likeliest token, and again behind that."""

    name: str
    asked: Asked
    likeliest: Array
    """``[N, 5]``, int64: the likeliest tokens of each step; the first of them is the one said."""

    log_probabilities: Array
    """``[N, 5]``, float64: theirs, in nats."""

    margins: Mapping[str, Array]
    """By MoE layer ``[N]``: the smallest routing margin of the tokens that each step ran on."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """What it says."""
        return tuple(int(token) for token in self.likeliest[:, 0])


@dataclass(frozen=True, kw_only=True)
class ExpertCase:
    """One block on synthetic tokens that visit every expert.

    The experts op alone, with the routing given: ``y`` in the model's dtype as PyTorch computes
    it, ``y_reference`` in float64.  ``y_edge_error`` is as in ``LayerTensors``.
    """

    x: Array
    topk_ids: Array
    topk_weights: Array
    y: Array
    y_reference: Array
    y_edge_error: Array


@dataclass(frozen=True, kw_only=True)
class Golden:
    """All tensors recorded from the eager model."""

    cases: tuple[GoldenCase, ...]
    experts: Mapping[str, ExpertCase] = field(default_factory=dict)
    """By block, for every pass over it."""

    continuations: tuple[Continuation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OutputCost:
    """How far rounding took one output from the model's own numbers, over all golden cases."""

    relative_error: float
    """The largest difference over the largest absolute value."""

    cosine: float
    """The smallest."""


@dataclass(frozen=True, kw_only=True)
class RoundingCost:
    """What a precision costs: the rounded eager model beside the eager model as it was."""

    outputs: Mapping[str, OutputCost]
    routing: Mapping[str, float]
    """By MoE layer, the share of tokens that choose the same experts."""

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("the cost of rounding has an output at least")


Device = Literal["cpu", "cuda"]
"""Where the MoE layers of a bundle are meant to run, for a target that has a choice."""


@dataclass(frozen=True, kw_only=True)
class KernelNeeds:
    """What a bundle needs of the native library: equal numbers, or it cannot run there."""

    abi: int
    """Of the ops and their attributes, ``moe_export_ort_abi()`` of the library."""

    panels: int
    """The version of ``docs/panels.md``."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight of a graph: its facts, the source tensors it is made of, and how to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sources: tuple[str, ...]
    read: Callable[[], Array]
    rows: Callable[[int, int], Array] | None = None
    """What is at those indices of the leading axis, where that takes less memory than ``read``."""

    pieces: Callable[[], Iterator[Array]] | None = None
    """The same bytes one after the other, where that takes less memory than ``read``."""

    origin: Hashable = None
    """What its numbers are and how they are stored: weights of equal origins have equal bytes.
    ``None`` is equal to nothing."""

    def part(self, start: int, stop: int) -> Array:
        """What is at those indices of the leading axis."""
        return self.read()[start:stop] if self.rows is None else self.rows(start, stop)

    def in_pieces(self) -> Iterator[Array]:
        """All numbers in order, as few in memory at a time as the weight allows."""
        if self.pieces is not None:
            yield from self.pieces()
        elif self.rows is not None and self.shape:
            step = max(1, _PIECE_BYTES * self.shape[0] // max(self.nbytes, 1))
            for start in range(0, self.shape[0], step):
                yield self.rows(start, min(start + step, self.shape[0]))
        else:
            yield self.read()

    @property
    def nbytes(self) -> int:
        """Of all its numbers, in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the bytes of a weight begin within one that is stored."""

    component: str
    weight: str
    start: int = 0
    """In bytes."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One graph of a model, its weights and the names by which its insides are watched."""

    graph: ir.Model
    """Initializers have types and shapes and no bytes: those are in ``weights``."""

    weights: Mapping[str, Weight]
    probes: Mapping[str, Mapping[str, str]]
    """By MoE layer: ``x``, ``y``, ``router_logits``, ``topk_ids``, ``topk_weights`` and
    ``experts_y`` to the value's name in the graph."""

    dense: tuple[str, ...] = ()
    """Weights in the dense precision, as the source names them."""

    in_place: Mapping[str, str] = field(default_factory=dict)
    """Outputs that begin with an input and may be written where it lies, to that input's name."""

    borrowed: Mapping[str, Place] = field(default_factory=dict)
    """Weights that are not stored for this component, since another stores their bytes."""

    modules: Mapping[str, str] = field(default_factory=dict)
    """By path, the PyTorch modules that hold MoE layers, and these: ``file.py:line`` of the class.
    Those whose source nobody has are left out."""


@dataclass(frozen=True, kw_only=True)
class PortableModel:
    """The model in ``moe_export`` ops and standard ONNX; no target has been heard of."""

    components: Mapping[str, Component]
    golden: Golden
    blocks: tuple[BlockRecord, ...]
    unused: Mapping[str, str]
    """Source tensors that no graph holds, each with the reason."""

    parameters: int
    assets: Mapping[str, bytes]
    source: Source
    precision: Precision = OWN_NUMBERS
    """Of the experts' weights and of the rows that meet them."""

    dense_precision: Precision = OWN_NUMBERS
    """The same of all other products but a router's."""

    rounding: RoundingCost | None = None
    """``None`` where the model keeps its own numbers."""


@dataclass(frozen=True, kw_only=True)
class TargetModel:
    """The model in the ops of one target, weights still unread."""

    target: str
    portable: PortableModel
    components: Mapping[str, Component]
    probe_graphs: Mapping[str, ir.Model]
    """By component: the same graph with the probes as further outputs."""

    expert_graphs: Mapping[str, ir.Model]
    """By component: each MoE layer's experts op alone, routing as input."""

    replay_graphs: Mapping[str, ir.Model]
    """By component: the probe graph with the routing of every MoE layer as input."""

    functions: Mapping[str, str]
    """Op and overload to the attributes it was made for, for people who read the graph."""

    engine_graphs: Mapping[str, ir.Model] = field(default_factory=dict)
    """By component: the graph that the target's compiler reads, where it reads another one."""

    plugins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By component: the nodes of the engine graph that have to become plugins."""

    kernels: KernelNeeds | None = None
    """``None`` where any ONNX runtime will do."""

    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True)
class TensorParity:
    """How near one tensor of the bundle is to the eager model's."""

    case: str
    name: str
    kind: str
    """``output``, ``layer`` or ``expert``."""

    elements: int
    max_error: float
    """Largest absolute difference from the float64 reference."""

    relative_error: float
    """``max_error`` over the largest absolute value of the reference."""

    cosine: float
    eager_error: float
    """The eager model's own largest difference from the reference."""

    tolerance: float
    passed: bool
    edge_error: float = 0.0
    """The same with rounding edges moved; 0 where rows are not rounded."""

    rewritten_error: float | None = None
    """That of the rewritten model, its blocks as ops in PyTorch; ``None``: not recorded."""

    replayed_error: float | None = None
    """The bundle's own where it was given the eager model's routing; ``None`` where it was not."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One token whose set of experts differs between the eager model and the bundle."""

    token: int
    eager: tuple[int, ...]
    bundle: tuple[int, ...]
    margin: float
    noise: float
    explained: bool
    """Whether the margin lies within the numeric noise at this router's input."""


@dataclass(frozen=True, kw_only=True)
class RoutingParity:
    """The routing of one MoE layer on one golden case."""

    case: str
    layer: str
    tokens: int
    agreement: float
    """Share of tokens whose set of experts is equal."""

    flips: tuple[Flip, ...]
    passed: bool
    weight_error: float = 0.0
    """Largest difference of ``topk_weights`` from the float64 reference, of tokens that agree."""

    weight_tolerance: float = math.inf


@dataclass(frozen=True, kw_only=True)
class ExpertLoad:
    """Whom one MoE layer of the bundle chose, for the tokens of one modality, over all cases."""

    layer: str
    modality: str
    """``image`` or ``text``, ``any`` where nobody knows.  Padding is nobody's load."""

    tokens: int
    choices: tuple[int, ...]
    """By expert, how many of the tokens chose it."""


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Two experts of a layer between which tokens were nearly undecided."""

    layer: str
    chosen: int
    runner_up: int
    tokens: int
    """Whose margin between the two was small, as ``validate`` says what is small."""

    smallest_margin: float


@dataclass(frozen=True, kw_only=True)
class LogitsParity:
    """Next-token distributions of the bundle beside the eager model's, for one modality."""

    case: str
    modality: str
    positions: int
    mean_divergence: float
    """Kullback-Leibler divergence of the bundle's distribution from the eager model's, in nats."""

    largest_divergence: float
    same_top1: float
    """Share of positions whose likeliest token is the same."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One token that might come next."""

    token: int
    text: str | None
    probability: float


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Greedy continuation of one prompt by both."""

    case: str
    steps: int
    agreed: int
    """Tokens from the first on that are the same."""

    eager: tuple[Candidate, ...] = ()
    """The five likeliest at the first step that differs; none where none does."""

    bundle: tuple[Candidate, ...] = ()
    explained: bool = True
    """Whether the two likeliest were as near as rounding may move them."""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The first place where a case left its envelope, and what on the line from eager did it."""

    case: str
    component: str
    cause: str
    """``rewrite``, ``lowering``, ``kernel``, ``router``, ``input`` or ``unknown``."""

    layer: str
    """The MoE layer or output that is first beyond."""

    module: str
    """Path of the PyTorch module behind it."""

    source: str | None
    """``file.py:line`` of that module's class, without machine paths."""

    words: str
    """One sentence: what was compared, and what it says."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The verdict of a validation and every number behind it."""

    source: str
    target: str
    against: str
    """``golden``, or ``live`` with the source's name and whose inputs: fresh or given ones."""

    tensors: tuple[TensorParity, ...]
    routing: tuple[RoutingParity, ...]
    not_run: Mapping[str, str] = field(default_factory=dict)
    """Checks that were not run, each with the reason.  They count neither way."""

    precision: str = "f32"
    rounding: RoundingCost | None = None
    """What the precision costs, for information: the eager model compared with is rounded too."""

    loads: tuple[ExpertLoad, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    logits: tuple[LogitsParity, ...] = ()
    generation: tuple[Generation, ...] = ()
    attribution: tuple[Attribution, ...] = ()
    nbytes: Mapping[str, int] = field(default_factory=dict)
    """Of the bundle on disk, by what they are for: ``weights``, ``graphs``, ``golden`` ..."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """What the validation took, by step."""

    @property
    def passed(self) -> bool:
        return (
            bool(self.tensors)
            and all(tensor.passed for tensor in self.tensors)
            and all(layer.passed for layer in self.routing)
            and all(each.explained for each in self.generation)
        )


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """What an engine has to run with at most."""

    max_batch: int = 4
    max_tokens: int = 4096
    """Of a text with its cache."""

    max_image_tokens: int = 4096
    """Features that all images of a run become."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What engines are asked for."""

    sms: tuple[int, ...] = ()
    """Compute capabilities, as 10 * major + minor; none is that of the GPU that is here."""

    limits: EngineLimits = field(default_factory=EngineLimits)
    embed_plugins: bool = False
    """Whether the plugin library lies inside the plans."""


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What the user asked for, checked once."""

    source: Any
    """A path, ``package.module:factory`` or an ``nn.Module``."""

    target: str
    output: Path
    precision: Precision = OWN_NUMBERS
    dense_precision: Precision = OWN_NUMBERS
    example_inputs: tuple[Any, ...] | None = None
    dynamic_shapes: Any = None
    python_path: tuple[Path, ...] = ()
    trust_pickle: bool = False
    force: bool = False
    max_memory: int | None = None
    """Bytes that the export may have in use; ``None`` is as many as there are."""

    all_logits: bool = False
    """Whether a decoder gives the logits of all its tokens, not of the last alone."""

    engines: EngineSpec | None = None
    """``None`` for a target that runs none."""

    device: Device = "cpu"
