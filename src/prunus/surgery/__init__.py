"""Execute edits: compensate, remove, re-estimate, and give a receipt."""

from prunus.surgery.apply import COMPENSATIONS, Receipt, apply_, reestimate_batchnorm_
from prunus.surgery.compensate import Repair, mask_
from prunus.surgery.cut import replay_
from prunus.surgery.verify import unsound_groups

__all__ = [
    "COMPENSATIONS",
    "Receipt",
    "Repair",
    "apply_",
    "mask_",
    "reestimate_batchnorm_",
    "replay_",
    "unsound_groups",
]
