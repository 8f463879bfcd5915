"""Refit what reads a cut group: closed-form, merged, layer by layer, or all layers jointly."""

from prunus.surgery.repair.closed_form import Repair, compensate_
from prunus.surgery.repair.layerwise import refit_
from prunus.surgery.repair.merge import merge_

__all__ = [
    "Repair",
    "compensate_",
    "merge_",
    "refit_",
]
