"""Models of the Transformers library, from the directory that `save_pretrained` leaves."""

from moe_export.load.pretrained.assemble import assemble
from moe_export.load.pretrained.directory import read_directory
from moe_export.load.pretrained.narrow import NarrowBlocks
from moe_export.load.pretrained.questions import questions
from moe_export.load.pretrained.talk import dialogue_assets

__all__ = ["NarrowBlocks", "assemble", "dialogue_assets", "questions", "read_directory"]
