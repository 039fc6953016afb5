"""``python -m moe_export.cli`` is ``moe-export``."""

from moe_export.cli import main

main()
