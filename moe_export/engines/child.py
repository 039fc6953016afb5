"""The program that builds one engine with TensorRT, in a process of its own.

It is run as ``python -B child.py < REQUEST``, imports nothing of this project and prints one JSON
object.  TensorRT ends the process for some of what it does not like; the parent lives on.

REQUEST: ``module``, ``graph``, ``plugins`` (libraries), ``embed`` (them in the plan), ``layers``
(node names that have to be plugins), ``sm`` (of the engine; ``null`` for the GPU that is here),
``profiles`` (of each input's smallest, best and largest shape), ``output``.

A request with the ``module`` alone asks for ``sms``, those that can be named.

ANSWER: what was made, or ``error`` with ``kind`` (``parse``, ``plugin``, ``build``), ``text`` and
``node``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

# What TensorRT says while it fails is many lines long; the first are the reason.
_MAX_LINES = 6


class RefusedError(Exception):
    """TensorRT does not do it: of what kind, in its words, and at which node."""

    def __init__(self, kind: str, text: str, node: str = "") -> None:
        super().__init__(text)
        self.kind, self.node = kind, node


def main() -> int:
    """Answer the request on standard input; whatever is a bug ends with a traceback."""
    request = json.load(sys.stdin)
    answer_to = os.dup(1)
    os.dup2(2, 1)  # TensorRT talks on standard output too
    trt = importlib.import_module(request["module"])
    try:
        answer = build(trt, request) if "graph" in request else {"sms": _capabilities(trt)}
    except RefusedError as error:
        answer = {"error": {"kind": error.kind, "text": str(error), "node": error.node}}
    answer["version"] = trt.__version__
    with os.fdopen(answer_to, "w") as out:
        json.dump(answer, out)
    return 0


def build(trt: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Parse, check, build, and write the plan."""
    talk = _talk(trt)
    started = time.perf_counter()
    builder = trt.Builder(talk)
    registry = builder.get_plugin_registry()
    for library in request["plugins"]:
        registry.load_library(library)
    network = builder.create_network(_flags(trt))
    _parse(trt, network, talk, request["graph"])
    _require_plugins(trt, network, request["layers"])
    _let_attention_be_taken_apart(trt, network)
    plan = builder.build_serialized_network(network, _config(trt, builder, network, request))
    if plan is None:
        raise RefusedError("build", talk.last_words() or "TensorRT gives no reason")
    with open(request["output"], "wb") as file:
        file.write(plan)
    return {
        "bytes": plan.nbytes,
        "seconds": time.perf_counter() - started,
        "plugins": [layer.name for layer in _layers(network) if _is_plugin(trt, layer)],
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
    }


def _talk(trt: Any) -> Any:
    class Talk(trt.ILogger):  # type: ignore[misc]
        """Keeps the errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def last_words(self) -> str:
            return "; ".join(line.strip() for line in self.errors[:_MAX_LINES])

    return Talk()


def _flags(trt: Any) -> int:
    # TensorRT 11 has no other networks and no flag for it.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, network: Any, talk: Any, graph: str) -> None:
    parser = trt.OnnxParser(network, talk)
    if parser.parse_from_file(graph):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not errors:
        raise RefusedError("parse", talk.last_words() or "TensorRT gives no reason")
    first = errors[0]
    text = f"{first.node_operator()}: {first.desc()}" if hasattr(first, "node_operator") else ""
    raise RefusedError("parse", text or first.desc(), first.node_name())


def _require_plugins(trt: Any, network: Any, wanted: list[str]) -> None:
    """Every node that is to be a plugin is one: the parser may take something else for it."""
    made = {layer.name for layer in _layers(network) if _is_plugin(trt, layer)}
    for name in wanted:
        if name not in made:
            raise RefusedError("plugin", "the node did not become a plugin", name)


def _let_attention_be_taken_apart(trt: Any, network: Any) -> None:
    """Where there is no kernel for an attention as a whole (float32 is one case) its parts do."""
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    for layer in _layers(network):
        if kind is not None and layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _layers(network: Any) -> Any:
    return (network.get_layer(i) for i in range(network.num_layers))


def _is_plugin(trt: Any, layer: Any) -> bool:
    return bool(layer.type == trt.LayerType.PLUGIN_V3)


def _config(trt: Any, builder: Any, network: Any, request: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    flag = getattr(trt.BuilderFlag, "TF32", None)
    if flag is not None:
        config.clear_flag(flag)  # its products have ten bits
    if request["sm"] is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, request["sm"]), 0)
    if request["embed"]:
        config.plugins_to_serialize = request["plugins"]
    for shapes in request["profiles"]:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in shapes.items():
            profile.set_shape(name, least, best, most)
        if config.add_optimization_profile(profile) < 0:
            raise RefusedError("build", "TensorRT does not take the sizes of a profile")
    return config


def _capability(trt: Any, sm: int) -> Any:
    if sm not in _capabilities(trt):
        raise RefusedError("build", f"no engine is built for SM {sm}")
    return getattr(trt.ComputeCapability, f"SM{sm}")


def _capabilities(trt: Any) -> list[int]:
    """The SMs that engines are built for where their GPU is not."""
    kinds = getattr(trt, "ComputeCapability", None)
    members = [] if kinds is None else kinds.__members__
    return [int(name[2:]) for name in members if name.startswith("SM")]


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": str(tensor.dtype), "shape": list(tensor.shape)}


if __name__ == "__main__":
    sys.exit(main())
