"""The manifest of a bundle, ``moe_export.json``: one owner for its writer and its reader.

``docs/bundle.md`` specifies the format.  Nothing here touches a file: text in, text out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, Self, get_args

from moe_export.errors import UnsafeInputError
from moe_export.forms import BlockRecord, Device, KernelNeeds, RoundingCost, Source
from moe_export.moe.quantize import Precision
from moe_export.strict_json import decode, encode, parse, render

FILE_NAME = "moe_export.json"
SCHEMA_VERSION = 7

PIECE_BYTES = 2**26
"""Of a large file; the last of its pieces may be shorter."""

# A model of 200 000 tensors and 1000 MoE layers needs about 1 MiB; more is not a manifest.
MAX_BYTES = 16 * 2**20
MAX_FILES = 10_000
# What ext4, XFS, APFS and NTFS allow for one name, and Linux for a path less a folder to put it in.
_MAX_SEGMENT = 255
_MAX_PATH = 2048

Verdict = Literal["not validated", "passed", "failed"]
Role = Literal["x", "y", "router_logits", "topk_ids", "topk_weights", "experts_y"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_DIGEST = "0" * 64


def check_path(path: str) -> str:
    """``path``, if it names a place inside a bundle on every system.

    Relative, with ``/`` between segments; no segment empty, ``.`` or ``..``; no backslash, colon or
    control character; at most 255 bytes a segment.  Raises ``ValueError``.
    """
    if not path:
        raise ValueError("an empty path")
    if path.startswith("/"):
        raise ValueError(f"path {path!r} is absolute")
    if any(letter in "\\:" or ord(letter) < 32 or ord(letter) == 127 for letter in path):
        raise ValueError(f"path {path!r} holds a backslash, a colon or a control character")
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            raise ValueError(f"path {path!r} has a segment {segment!r}")
        if len(segment.encode()) > _MAX_SEGMENT:
            raise ValueError(f"path {path[:40]!r}... has a segment over {_MAX_SEGMENT} bytes")
    if len(path.encode()) > _MAX_PATH:
        raise ValueError(f"path {path[:40]!r}... is over {_MAX_PATH} bytes")
    return path


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """The SHA-256 and size of a file.

    One of more than ``PIECE_BYTES`` may have those of its pieces too, in order: they can be checked
    side by side.
    """

    sha256: str
    bytes: int
    pieces: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(map(_SHA256.fullmatch, (self.sha256, *self.pieces))):
            raise ValueError("sha256 is not 64 lower-case hexadecimal digits")
        if self.bytes < 0:
            raise ValueError("bytes is negative")
        count = -(-self.bytes // PIECE_BYTES)
        if self.pieces and len(self.pieces) != max(count, 2):
            raise ValueError(f"{len(self.pieces)} pieces of {self.bytes} bytes")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """The program that wrote the bundle."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class OpSet:
    """The custom operators that the graphs use, and their version."""

    domain: str
    version: int


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """An input or output of a graph.

    A dimension is a number, the name of a symbolic one, or ``None`` where nothing is known.
    """

    name: str
    dtype: str
    """A NumPy name: ``float32``, ``int64``, ``bool``, ... or ``bfloat16``."""

    shape: tuple[int | str | None, ...]

    def __post_init__(self) -> None:
        if any(isinstance(dim, int) and dim < 0 for dim in self.shape):
            raise ValueError(f"{self.name!r} has a negative dimension")

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name} {self.dtype} [{dims}]"


@dataclass(frozen=True, kw_only=True)
class ComponentRecord:
    """One graph of the model, the graphs beside it, and its weights, by path in the bundle."""

    graph: str
    probe_graph: str
    """The same graph, with the values named in ``probes`` as further outputs."""

    expert_graph: str
    """Each MoE layer's experts op alone."""

    replay_graph: str
    """The probe graph with the routing of every MoE layer as input."""

    engine_graph: str | None
    """The graph that engines are built of; ``None`` where the target runs the graph itself."""

    plugins: tuple[str, ...]
    """Nodes of the engine graph that have to become plugins."""

    data: str
    """The weights of all graphs, as ONNX external data."""

    also_reads: tuple[str, ...]
    """Weights of other components in which numbers of this one's lie."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    probes: Mapping[str, Mapping[str, str]]
    """By MoE layer and role, the value's name in the probe graph."""

    layers: tuple[str, ...]
    """The MoE layers in the order in which the graph computes them."""

    modules: Mapping[str, str]
    """By path, the modules that hold MoE layers, and these: ``file.py:line`` of the class."""

    dense: tuple[str, ...]
    """Weights in the dense precision, as the source names them."""

    in_place: Mapping[str, str]
    """Outputs that begin with an input and may be written where it lies, to that input's name."""

    def __post_init__(self) -> None:
        kinds = {info.name: info.dtype for info in self.inputs}
        made = {info.name: info.dtype for info in self.outputs}
        if len(set(self.in_place.values())) < len(self.in_place):
            raise ValueError("in_place has two outputs in one place")
        for output, given in self.in_place.items():
            if output not in made or kinds.get(given) != made[output]:
                raise ValueError(f"in_place has {output!r} where {given!r} lies")
        for layer, roles in self.probes.items():
            for role in roles:
                if role not in get_args(Role):
                    raise ValueError(f"layer {layer!r} has a probe {role!r}")
        if sorted(self.layers) != sorted(self.probes):
            raise ValueError("layers and probes are not of the same MoE layers")

    @property
    def graphs(self) -> tuple[str, ...]:
        made = (self.graph, self.probe_graph, self.expert_graph, self.replay_graph)
        return (*made, *(() if self.engine_graph is None else (self.engine_graph,)))

    @property
    def data_files(self) -> tuple[str, ...]:
        """All that the graphs may read."""
        return (self.data, *self.also_reads)


Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The smallest, the best and the largest shape of an input."""


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """A plan: one component compiled for one kind of GPU."""

    component: str
    plan: str
    """Its path in the bundle."""

    sm: int
    """The compute capability it was built for, as 10 * major + minor."""

    tensorrt: str
    """The version of TensorRT that built it, and that it needs."""

    plugins_sha256: str | None
    """Of the plugin library it was built with; ``None`` where it has no plugins."""

    embeds_plugins: bool
    """Whether the library lies inside the plan."""

    profiles: tuple[Mapping[str, Shapes], ...]
    """By input, the sizes it runs with."""

    def __post_init__(self) -> None:
        if self.plugins_sha256 is not None and not _SHA256.fullmatch(self.plugins_sha256):
            raise ValueError("plugins_sha256 is not 64 lower-case hexadecimal digits")
        for shapes in self.profiles:
            for name, (least, best, most) in shapes.items():
                sizes = list(zip(least, best, most, strict=True))
                if not all(0 <= low <= middle <= high for low, middle, high in sizes):
                    raise ValueError(f"a profile has sizes of {name!r} out of order")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle holds and where it came from.  Equal models give equal manifests."""

    tool: Tool
    versions: Mapping[str, str]
    """Of the packages that took part in the export."""

    source: Source
    target: str
    kernels: KernelNeeds | None
    """What the graphs need beyond ONNX Runtime; ``None`` where that is nothing."""

    precision: Precision
    """Of the experts' weights, and of the rows that meet them."""

    dense_precision: Precision
    """The same of all other products but a router's."""

    rounding: RoundingCost | None
    """What the precision costs; ``None`` where the model keeps its own numbers."""

    ops: OpSet
    components: Mapping[str, ComponentRecord]
    engines: tuple[EngineRecord, ...]
    blocks: tuple[BlockRecord, ...]
    unused: Mapping[str, str]
    functions: Mapping[str, str]
    parameters: int
    assets: tuple[str, ...]
    golden: str
    verdict: Verdict
    files: Mapping[str, FileRecord]
    """Every file of the bundle but the manifest, by path."""

    device: Device = "cpu"
    """Where the MoE layers are meant to run."""

    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict {self.verdict!r} is not one of {get_args(Verdict)}")
        if self.device not in get_args(Device):
            raise ValueError(f"device {self.device!r} is not one of {get_args(Device)}")
        if self.parameters < 0:
            raise ValueError("parameters is negative")
        if not self.components:
            raise ValueError("components is empty")
        _check_file_names(self.files)
        plans = (engine.plan for engine in self.engines)
        for path in (self.golden, *self.assets, *plans, *self._component_files()):
            if path not in self.files:
                raise ValueError(f"{path!r} is not in files")
        stored = {component.data for component in self.components.values()}
        for name, component in self.components.items():
            others = stored - {component.data}
            if not others.issuperset(component.also_reads):
                raise ValueError(f"{name!r} also reads what is no other component's data")

    def _component_files(self) -> Iterable[str]:
        for component in self.components.values():
            yield from (*component.graphs, component.data)

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest with zeros in place of its digest: the bundle's identity."""
        return hashlib.sha256(self._render(_NO_DIGEST).encode()).hexdigest()

    def to_json(self) -> str:
        """The canonical text, with its own digest.  Equal manifests give equal text."""
        return self._render(self.digest)

    def _render(self, digest: str) -> str:
        return render({**encode(self), "digest": digest})

    @classmethod
    def from_json(cls, content: bytes | str, file: str = FILE_NAME) -> Self:
        """The manifest in ``content``, or ``UnsafeInputError`` naming ``file`` and the field."""
        content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        if len(content) > MAX_BYTES:
            raise UnsafeInputError(f"a manifest of more than {MAX_BYTES} bytes", where=file)
        value = parse(content, file)
        if not isinstance(value, dict):
            raise UnsafeInputError("a manifest is a JSON object", where=file)
        _check_schema_version(value.get("schema_version"), file)
        digest = value.pop("digest", None)
        manifest = decode(cls, value, file)
        _check_digest(content, digest, file)
        return manifest


def _check_file_names(files: Mapping[str, FileRecord]) -> None:
    """No two names meet on a file system that ignores case, and none is a folder of another."""
    if len(files) > MAX_FILES:
        raise ValueError(f"files names more than {MAX_FILES} files")
    folders = {str(parent) for path in files for parent in PurePosixPath(check_path(path)).parents}
    names = {name.casefold() for name in files} | {FILE_NAME.casefold()}
    if len(names) <= len(files):
        raise ValueError("files names one file twice, or the manifest itself")
    for folder in folders:
        if folder.casefold() in names:
            raise ValueError(f"files has {folder!r} as a file and as a folder")


def _check_schema_version(version: Any, file: str) -> None:
    if type(version) is int and version == SCHEMA_VERSION:
        return
    raise UnsafeInputError(
        f"unknown schema version {version!r:.40}; this release reads {SCHEMA_VERSION}",
        where=f"{file}, field schema_version",
        hint="a newer moe-export may read this bundle",
    )


def _check_digest(content: bytes, digest: Any, file: str) -> None:
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise UnsafeInputError(
            "not 64 lower-case hexadecimal digits", where=f"{file}, field digest"
        )
    blank = content.replace(digest.encode(), _NO_DIGEST.encode())
    if hashlib.sha256(blank).hexdigest() != digest:
        raise UnsafeInputError(
            "the manifest was changed after it was written",
            where=f"{file}, field digest",
            hint="export the model again, or fetch the bundle again",
        )
