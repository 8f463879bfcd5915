"""A run and its folder: settings, journal, session; opened once, read back, verified."""

from prunus.runs.audit import Audit, random_images, run_load
from prunus.runs.config import (
    Allocation,
    ExportFormat,
    JobConfig,
    LatentConfig,
    PruneConfig,
    RunConfig,
    default_training,
)
from prunus.runs.environment import (
    describe_run,
    open_data,
    open_device,
    open_fabric,
    require_labels,
    require_one_process,
    require_weights,
    resolve_paths,
)
from prunus.runs.finished import FinishedRun
from prunus.runs.folder import open_folder
from prunus.runs.job import Job, build_network, open_job
from prunus.runs.journal import Journal
from prunus.runs.load import (
    Shape,
    build_dense,
    load,
    read_plan,
    rebuild,
    require_finished,
    require_intact,
)
from prunus.runs.lock import locked
from prunus.runs.session import Loader, Loaders, Session, last_epoch, p_phase_, spread
from prunus.runs.watch import Watch

__all__ = [
    "Allocation",
    "Audit",
    "ExportFormat",
    "FinishedRun",
    "Job",
    "JobConfig",
    "Journal",
    "LatentConfig",
    "Loader",
    "Loaders",
    "PruneConfig",
    "RunConfig",
    "Session",
    "Shape",
    "Watch",
    "build_dense",
    "build_network",
    "default_training",
    "describe_run",
    "last_epoch",
    "load",
    "locked",
    "open_data",
    "open_device",
    "open_fabric",
    "open_folder",
    "open_job",
    "p_phase_",
    "random_images",
    "read_plan",
    "rebuild",
    "require_finished",
    "require_intact",
    "require_labels",
    "require_one_process",
    "require_weights",
    "resolve_paths",
    "run_load",
    "spread",
]
