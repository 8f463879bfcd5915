"""The lowest layer: errors, configuration, registries, seeding, threads, files, the record."""

from prunus.core.config import STRICT, from_dict, one_of, read_yaml, to_dict, to_yaml
from prunus.core.errors import (
    BudgetError,
    ConfigError,
    DataError,
    ExportError,
    NonFiniteError,
    NothingToPruneError,
    PlanError,
    PrunusError,
    RunFolderError,
    TraceError,
    UnknownNameError,
    WeightsError,
)
from prunus.core.files import sweep_scratch, to_json, write_whole, writing_whole
from prunus.core.finite import first_non_finite
from prunus.core.notebook import Picture, curve_svg, html_table, share_svg
from prunus.core.record import Record, read_rows
from prunus.core.registry import Registry, unknown_name
from prunus.core.rows import (
    DERIVED,
    EVENTS,
    PLAIN,
    Costs,
    Event,
    ResultRow,
    Row,
    RunRow,
    SideRow,
    last,
    latest,
    networks,
    of_event,
    rejected,
    trajectory,
)
from prunus.core.seeding import derive_seed, keeping_random_state, seed_everything
from prunus.core.tasks import Task
from prunus.core.threads import one_blas_thread, usable_cores
from prunus.core.version import installed_version

__all__ = [
    "DERIVED",
    "EVENTS",
    "PLAIN",
    "STRICT",
    "BudgetError",
    "ConfigError",
    "Costs",
    "DataError",
    "Event",
    "ExportError",
    "NonFiniteError",
    "NothingToPruneError",
    "Picture",
    "PlanError",
    "PrunusError",
    "Record",
    "Registry",
    "ResultRow",
    "Row",
    "RunFolderError",
    "RunRow",
    "SideRow",
    "Task",
    "TraceError",
    "UnknownNameError",
    "WeightsError",
    "curve_svg",
    "derive_seed",
    "first_non_finite",
    "from_dict",
    "html_table",
    "installed_version",
    "keeping_random_state",
    "last",
    "latest",
    "networks",
    "of_event",
    "one_blas_thread",
    "one_of",
    "read_rows",
    "read_yaml",
    "rejected",
    "seed_everything",
    "share_svg",
    "sweep_scratch",
    "to_dict",
    "to_json",
    "to_yaml",
    "trajectory",
    "unknown_name",
    "usable_cores",
    "write_whole",
    "writing_whole",
]
