"""Execute edits: compensate, remove, re-estimate, give a receipt, and undo."""

from prunus.surgery.apply import apply_
from prunus.surgery.batchnorm import reestimate_batchnorm_
from prunus.surgery.config import BATCHNORM_RULES, COMPENSATIONS, RepairConfig
from prunus.surgery.cut import replay_
from prunus.surgery.find import find_groups
from prunus.surgery.mask import mask_
from prunus.surgery.optimiser import cut_state_
from prunus.surgery.receipt import Receipt, tensors_of
from prunus.surgery.repair import Repair
from prunus.surgery.source_line import source_line
from prunus.surgery.undo import undo_
from prunus.surgery.verify import sound_branches, unsound_groups

__all__ = [
    "BATCHNORM_RULES",
    "COMPENSATIONS",
    "Receipt",
    "Repair",
    "RepairConfig",
    "apply_",
    "cut_state_",
    "find_groups",
    "mask_",
    "reestimate_batchnorm_",
    "replay_",
    "sound_branches",
    "source_line",
    "tensors_of",
    "undo_",
    "unsound_groups",
]
