"""A bundle on disk, checked before it is used."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from moe_export.errors import UsageError
from moe_export.forms import Golden
from moe_export.manifest import ComponentRecord, Manifest
from moe_export.runtime.golden import read_golden
from moe_export.runtime.verify import (
    check_files,
    check_size,
    find_bundle,
    read_checked,
    read_manifest,
)

Graph = Literal["main", "probe", "experts", "replay"]


@dataclass(frozen=True)
class Bundle:
    """A verified model on disk.  ``Bundle.open`` makes one."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Self:
        """The bundle at ``path``, after every file was found to be what the manifest says.

        ``verify=False`` leaves out the SHA-256 of the files (one pass over all bytes) and nothing
        else: names, kinds and sizes of files, the manifest's own digest and the places where the
        graphs keep their weights are always checked.  Raises ``UsageError`` where there is no
        bundle and ``UnsafeInputError`` for anything in it that is not as it was written.
        """
        root = find_bundle(path)
        manifest = read_manifest(root)
        check_files(root, manifest, digests=verify)
        return cls(root, manifest)

    def golden(self) -> Golden:
        """The tensors recorded from the eager model."""
        path = self.path / self.manifest.golden
        check_size(path, self.manifest.files[self.manifest.golden])
        return read_golden(path)

    def asset(self, name: str) -> bytes | None:
        """The content of an asset such as ``tokenizer.json``, or ``None`` where there is none."""
        if name not in self.manifest.assets:
            return None
        return read_checked(self.path / name, self.manifest.files[name])

    @classmethod
    def of(cls, bundle: Bundle | str | os.PathLike[str]) -> Bundle:
        """The bundle itself, or the one at a path, opened."""
        return bundle if isinstance(bundle, Bundle) else cls.open(bundle)

    def component(self, name: str = "model") -> ComponentRecord:
        """The record of one component, or ``UsageError`` naming those there are."""
        component = self.manifest.components.get(name)
        if component is None:
            raise UsageError(
                f"the bundle has no component {name!r}",
                where=str(self.path),
                hint=f"it has {', '.join(sorted(self.manifest.components))}",
            )
        return component

    @property
    def has_all_logits(self) -> bool:
        """Whether its decoder gives the logits of every token and not of the last alone."""
        decoder = self.manifest.components.get("decoder")
        outputs = decoder.outputs if decoder is not None else ()
        return any(
            info.name == "logits" and isinstance(size, str)
            for info in outputs
            for size in info.shape[1:2]
        )

    def component_taking(self, names: Iterable[str]) -> str:
        """Of several components the one whose inputs are ``names``; the only one takes them all.

        Raises ``UsageError`` where none does.
        """
        components = self.manifest.components
        given = set(names)
        for name, record in components.items():
            if len(components) == 1 or given == {info.name for info in record.inputs}:
                return name
        raise UsageError(
            f"no component takes {', '.join(sorted(given)) or 'nothing'}",
            where=str(self.path),
            hint=f"it has {', '.join(sorted(components))}; inspect shows what each takes",
        )

    def graph_path(self, component: str = "model", graph: Graph = "main") -> Path:
        """Where the ONNX file of a component's graph lies."""
        record = self.component(component)
        paths = {
            "main": record.graph,
            "probe": record.probe_graph,
            "experts": record.expert_graph,
            "replay": record.replay_graph,
        }
        if graph not in paths:
            raise UsageError(f"no graph {graph!r}", hint=f"the graphs are {', '.join(paths)}")
        return self.path / paths[graph]
