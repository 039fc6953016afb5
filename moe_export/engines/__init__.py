"""Engines: a bundle's components compiled by TensorRT, each in a process of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_export.engines.ask import Request, ask, capabilities
from moe_export.engines.flavours import FLAVOURS, Flavour, flavour_of, require
from moe_export.engines.gpu import compute_capability
from moe_export.engines.libraries import plugin_library
from moe_export.engines.profiles import Sizes, profiles_of, sizes_in
from moe_export.errors import MissingEnvironmentError, UnsupportedError, UsageError
from moe_export.forms import EngineSpec, Golden
from moe_export.manifest import EngineRecord, Manifest

_LEAST_SM = 80

__all__ = ["FLAVOURS", "build", "can_build", "flavour_of"]


def can_build(target: str, wish: EngineSpec) -> None:
    """Refuse with ``MissingEnvironmentError`` what cannot be built on this machine."""
    flavour = _flavour(target)
    require(flavour)
    _sms(flavour, wish)
    plugin_library()


def build(place: Path, manifest: Manifest, golden: Golden, wish: EngineSpec) -> list[EngineRecord]:
    """Build engines of all components into ``engines/`` of the bundle in ``place``.

    The manifest is left alone.  Raises ``MissingEnvironmentError`` where TensorRT, the plugins or
    the GPU are not here, and ``UnsupportedError`` for what TensorRT refuses, naming the node.
    """
    flavour = _flavour(manifest.target)
    require(flavour)
    library = plugin_library()
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    made = []
    for sm in _sms(flavour, wish):
        for name, record in sorted(manifest.components.items()):
            if record.engine_graph is None:
                raise AssertionError(f"{name} has no graph to build an engine of")
            plan = f"engines/{manifest.target}/sm{sm}/{name}.plan"
            (place / plan).parent.mkdir(parents=True, exist_ok=True)
            profiles = profiles_of(record, _seen(golden, name, manifest), wish.limits)
            answer = ask(
                flavour,
                Request(
                    component=name,
                    graph=place / record.engine_graph,
                    plugins=(library,) if record.plugins else (),
                    layers=record.plugins,
                    embed=wish.embed_plugins and bool(record.plugins),
                    sm=None if flavour.needs_gpu else sm,
                    profiles=profiles,
                    output=place / plan,
                ),
            )
            made.append(
                EngineRecord(
                    component=name,
                    plan=plan,
                    sm=sm,
                    tensorrt=answer.version,
                    plugins_sha256=digest if record.plugins else None,
                    embeds_plugins=wish.embed_plugins and bool(record.plugins),
                    profiles=profiles,
                )
            )
    return made


def _flavour(target: str) -> Flavour:
    flavour = flavour_of(target)
    if flavour is None:
        raise UsageError(
            f"a bundle for {target!r} has no engines",
            hint=f"those for {' and '.join(FLAVOURS)} have",
        )
    return flavour


def _sms(flavour: Flavour, wish: EngineSpec) -> Sequence[int]:
    here = compute_capability()
    if flavour.needs_gpu:
        if here is None:
            raise MissingEnvironmentError(
                f"{flavour.title} builds engines for the GPU that is here, and there is none",
                where=f"target {flavour.target}",
                hint="run this on the device, or use --target trt-rtx, which needs none",
            )
        if wish.sms and wish.sms != (here,):
            raise UsageError(
                f"{flavour.title} builds for the GPU that is here, of SM {here}", where="--sm"
            )
        return (here,)
    if wish.sms:
        _require_sms(flavour, wish.sms)
        return wish.sms
    if here is None:
        raise UsageError(
            "no GPU is here, so the engines' has to be named",
            where="--sm",
            hint="for example --sm 89 (RTX 40) or --sm 120 (RTX 50); it may be given several times",
        )
    return (here,)


def _require_sms(flavour: Flavour, sms: Sequence[int]) -> None:
    for sm in sms:
        if sm < _LEAST_SM:
            raise UnsupportedError(
                f"the plugins run on SM {_LEAST_SM} and newer, not on SM {sm}",
                where=f"--sm {sm}",
                hint="bfloat16 and the matrix instructions that they use begin there",
            )
    known = capabilities(flavour)
    for sm in sms:
        if sm not in known:
            raise UnsupportedError(
                f"{flavour.title} builds no engine for SM {sm}",
                where=f"--sm {sm}",
                hint=f"it does for {', '.join(str(each) for each in known if each >= _LEAST_SM)}",
            )


def _seen(golden: Golden, component: str, manifest: Manifest) -> list[Sizes]:
    """The sizes of the golden cases' inputs."""
    inputs = manifest.components[component].inputs
    cases = (case.inputs for case in golden.cases if case.component == component)
    shapes: list[Mapping[str, Sequence[int]]] = [{n: x.shape for n, x in c.items()} for c in cases]
    return [sizes_in(inputs, each) for each in shapes]
