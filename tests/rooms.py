"""A contract of import-linter: nobody imports another room's file, only the room."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck
from importlinter.application import output

__all__ = ["RoomsContract"]


class RoomsContract(Contract):
    """A module may import its own room's files, and of every other room the room itself.

    That is: what it imports lies directly in a package that holds the importer too. So
    `prunus.pipelines.push` may import `prunus.criteria`, and `prunus.criteria.families` may import
    `prunus.criteria.scores` and the room `prunus.criteria.discriminant`, but not a file in that.
    """

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Return every import that reaches into another room."""
        broken = [
            (importer, imported)
            for importer in sorted(graph.modules)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if not f"{importer}.".startswith(_room(imported) + ".")
            and not _is_function(graph, importer, imported)
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name each such import."""
        for importer, imported in check.metadata["broken"]:
            output.print_error(f"- {importer} imports {imported}: import it from {_room(imported)}")


def _room(module: str) -> str:
    return module.rpartition(".")[0]


def _is_function(graph: ImportGraph, importer: str, imported: str) -> bool:
    """Tell whether `from room import name` means the room's function, not the file of that name."""
    room = _room(imported)
    details = graph.get_import_details(importer=importer, imported=imported)
    from_room = all(each["line_contents"].startswith(f"from {room} import ") for each in details)
    return from_room and imported in graph.find_modules_directly_imported_by(room)
