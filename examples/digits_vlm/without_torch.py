"""The bundle's side of the demo, where PyTorch cannot be imported.

``python -I without_torch.py BUNDLE MEASURED THREADS EXAMPLES``; EXAMPLES is the folder that holds
this package.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

WORKSHOP = frozenset({"torch", "onnx", "onnx_ir", "onnxscript", "transformers"})


class Shut(MetaPathFinder):
    """Makes the modules of the workshop impossible to import, installed or not."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in WORKSHOP:
            raise ModuleNotFoundError(f"{name} is shut out", name=name)


def main(bundle_path: str, measured: str, threads: int) -> None:
    """Measure the bundle and write the file ``measured``."""
    from digits_vlm.data import Images
    from digits_vlm.measure import Floats, Ids, Prompts, measure
    from moe_export.runtime import Bundle, Generator, Request, Session

    bundle = Bundle.open(bundle_path)
    generator = Generator(bundle, threads=threads)
    probes = bundle.component().probes
    names = [roles[role] for roles in probes.values() for role in ("router_logits", "topk_ids")]

    def answer(images: Images, questions: list[str]) -> list[str]:
        asked = zip(images, questions, strict=True)
        requests = [Request(image=image, prompt=question) for image, question in asked]
        return [answer.text for answer in generator.generate_batch(requests, batch_size=64)]

    with Session(bundle, graph="probe", threads=threads) as session:

        def route(prompts: Prompts) -> dict[str, tuple[Floats, Ids]]:
            inputs = {"image": prompts.images, "tokens": prompts.tokens}
            made = session.run(inputs, outputs=names)
            return {
                layer: (made[roles["router_logits"]], made[roles["topk_ids"]])
                for layer, roles in probes.items()
            }

        measure(answer, route, generator.tokenizer).save(Path(measured))


def require_no_workshop() -> None:
    """Exit with a message if anything of the workshop was imported after all."""
    imported = sorted(WORKSHOP & {name.partition(".")[0] for name in sys.modules})
    if imported:
        sys.exit(f"this was to run without {', '.join(imported)}")


if __name__ == "__main__":
    sys.meta_path.insert(0, Shut())
    sys.path.insert(0, sys.argv[4])
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    require_no_workshop()
