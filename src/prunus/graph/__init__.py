"""Trace a network into groups of coupled units, their consumers and their cost."""

from prunus.graph.branches import collapsed_modules, let_branches_go
from prunus.graph.costs import Layer
from prunus.graph.empty import Empty
from prunus.graph.groups import Axis, Consumer, Group, Groups, Member, Unprunable
from prunus.graph.head import head_groups
from prunus.graph.select import SelectLinear
from prunus.graph.trace import find_groups

__all__ = [
    "Axis",
    "Consumer",
    "Empty",
    "Group",
    "Groups",
    "Layer",
    "Member",
    "SelectLinear",
    "Unprunable",
    "collapsed_modules",
    "find_groups",
    "head_groups",
    "let_branches_go",
]
