"""Build engines with TensorRT-RTX in this process: python rtx_builder.py JOB.json

A process of its own, since a mistake in a plugin may end it, with a Python that has TensorRT-RTX
and perhaps nothing else.  Writes what happened to each graph on stdout, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rtx_preload import preload_tensorrt_rtx

preload_tensorrt_rtx()

import tensorrt_rtx as trt  # noqa: E402 - finds what was loaded


class Logger(trt.ILogger):
    """Keeps warnings and errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: trt.ILogger.Severity, line: str) -> None:
        if severity <= trt.ILogger.Severity.WARNING:
            self.lines.append(f"{severity.name}: {line}")


def describe(tensor: trt.ITensor) -> dict[str, Any]:
    return {"name": tensor.name, "type": tensor.dtype.name, "shape": list(tensor.shape)}


def layers_of(network: trt.INetworkDefinition) -> list[dict[str, Any]]:
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return [
        {
            "name": layer.name,
            "type": layer.type.name,
            "inputs": [describe(layer.get_input(i)) for i in range(layer.num_inputs)],
            "outputs": [describe(layer.get_output(i)) for i in range(layer.num_outputs)],
        }
        for layer in layers
    ]


def config_of(builder: trt.Builder, graph: dict[str, Any]) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    # Never CURRENT: without a GPU that corrupts the heap.
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{graph['sm']}"), 0)
    if graph["profile"]:
        profile = builder.create_optimization_profile()
        for name, shapes in graph["profile"].items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    if graph["embedded"]:
        config.plugins_to_serialize = [graph["embedded"]]
    return config


def build(builder: trt.Builder, logger: Logger, graph: dict[str, Any]) -> dict[str, Any]:
    logger.lines.clear()
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    report: dict[str, Any] = {"parsed": parser.parse(Path(graph["model"]).read_bytes())}
    report["errors"] = [parser.get_error(i).desc() for i in range(parser.num_errors)]
    report["layers"] = layers_of(network) if report["parsed"] else []
    plan = None
    if report["parsed"]:
        plan = builder.build_serialized_network(network, config_of(builder, graph))
    report["built"] = plan is not None
    if plan is not None:
        Path(graph["plan"]).write_bytes(bytes(plan))
    report["log"] = list(logger.lines)
    return report


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    logger = Logger()
    builder = trt.Builder(logger)
    if job["library"]:
        trt.get_plugin_registry().load_library(job["library"])
    creators = [
        [creator.name, creator.plugin_version]
        for creator in trt.get_plugin_registry().all_creators
        if creator.plugin_namespace == "moe_export"
    ]
    reports = [build(builder, logger, graph) for graph in job["graphs"]]
    print(json.dumps({"version": trt.__version__, "creators": creators, "graphs": reports}))  # noqa: T201


main()
