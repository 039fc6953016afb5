"""One step of one contender, in a process of its own: ``model_child.py MODULE prepare|run JOB``.

The answer is one line of JSON, the last of standard output.  A contender that cannot take part
says why in ``not_run``.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from model_job import Job, NotRunError


def main() -> None:
    name, step, path = sys.argv[1:]
    job = Job.of(json.loads(Path(path).read_text()))
    try:
        module = importlib.import_module(name)
        made = module.prepare(job) if step == "prepare" else asdict(module.run(job))
    except NotRunError as reason:
        made = {"not_run": str(reason)}
    except ImportError as reason:
        made = {"not_run": f"not installed: {reason}"}
    print("\n" + json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
