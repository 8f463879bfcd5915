"""Ground floor: errors, configuration, registries, seeding, threads, files, the record."""

from prunus.core.config import STRICT, from_dict, read_yaml, to_dict, to_yaml
from prunus.core.files import sweep_scratch, to_json, write_whole, writing_whole
from prunus.core.record import Record
from prunus.core.registry import Registry
from prunus.core.seeding import derive_seed, keeping_random_state, seed_everything
from prunus.core.threads import one_blas_thread

__all__ = [
    "STRICT",
    "Record",
    "Registry",
    "derive_seed",
    "from_dict",
    "keeping_random_state",
    "one_blas_thread",
    "read_yaml",
    "seed_everything",
    "sweep_scratch",
    "to_dict",
    "to_json",
    "to_yaml",
    "write_whole",
    "writing_whole",
]
