"""One command per file: parse, build its settings, call one pipeline."""

from prunus.cli.verbs.catalogue import data, models
from prunus.cli.verbs.diff import diff
from prunus.cli.verbs.doctor import doctor
from prunus.cli.verbs.evaluate import evaluate
from prunus.cli.verbs.export import export
from prunus.cli.verbs.grow import grow
from prunus.cli.verbs.load import load
from prunus.cli.verbs.prune import prune
from prunus.cli.verbs.push import push
from prunus.cli.verbs.score import score
from prunus.cli.verbs.search import search
from prunus.cli.verbs.train import train

__all__ = [
    "data",
    "diff",
    "doctor",
    "evaluate",
    "export",
    "grow",
    "load",
    "models",
    "prune",
    "push",
    "score",
    "search",
    "train",
]
