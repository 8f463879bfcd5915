"""Trace a network into groups of coupled units, their consumers and their cost."""

from prunus.graph.branches import Branches, collapsed_modules, let_branches_go
from prunus.graph.costs import Layer, count_bytes, count_inputs, raw_layer
from prunus.graph.counting import count_macs
from prunus.graph.groups import (
    Axis,
    Consumer,
    Extent,
    Group,
    Groups,
    Index,
    Member,
    Product,
    Unprunable,
    trimmed,
)
from prunus.graph.head import head_groups
from prunus.graph.labels import Labels, Track
from prunus.graph.numbers import counts_heads
from prunus.graph.probe import probe
from prunus.graph.trace import find_groups
from prunus.modules import Empty, SelectLinear

__all__ = [
    "Axis",
    "Branches",
    "Consumer",
    "Empty",
    "Extent",
    "Group",
    "Groups",
    "Index",
    "Labels",
    "Layer",
    "Member",
    "Product",
    "SelectLinear",
    "Track",
    "Unprunable",
    "collapsed_modules",
    "count_bytes",
    "count_inputs",
    "count_macs",
    "counts_heads",
    "find_groups",
    "head_groups",
    "let_branches_go",
    "probe",
    "raw_layer",
    "trimmed",
]
