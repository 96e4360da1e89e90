"""What several commands take: types of arguments and options, and what is looked at before work begins."""

from __future__ import annotations

import ast
import functools
import getpass
import inspect
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from deepidea.errors import DataError, StorageError

Asked = TypeVar("Asked")


class Engine(StrEnum):
    """What scores tables, or starts the processes of a training."""

    local = "local"
    spark = "spark"


class TableFormat(StrEnum):
    """Formats of files of flows and verdicts."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"


class AlertFormat(StrEnum):
    """Formats of alerts; the names of ``FORMATS``."""

    eve = "eve"
    ecs = "ecs"
    ocsf = "ocsf"
    cef = "cef"


class DialectName(StrEnum):
    """Whose values a meter gives."""

    corrected = "corrected"
    improved = "cicids17-improved"
    original = "cicids17"


Inputs = Annotated[list[str], typer.Argument(help="Name of a data set, or files of flows (CSV, Parquet, gz, globs).")]
ModelFile = Annotated[Path, typer.Argument(help="Detector file, as `deepidea train` writes it.")]
Source = Annotated[str, typer.Argument(help="Where flows come from: `deepidea sources` lists the kinds.")]
StoreUrl = Annotated[
    str, typer.Option(help="sqlite:///path or postgresql://user@host/database; absent, a file in your data folder.")
]

TaxonomyName = Annotated[str | None, typer.Option(help="Which labels are which class, see `deepidea data describe`.")]
Label = Annotated[str | None, typer.Option(help="Label column of a table.")]
Benign = Annotated[str | None, typer.Option(help="Value of the label column that means benign.")]

FileFormat = Annotated[TableFormat | None, typer.Option(help="Format, where the name does not tell.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, help="Most rows.")]
Follow = Annotated[bool, typer.Option(help="Wait for more at the end of a file.")]
Exporters = Annotated[
    list[str] | None, typer.Option("--exporter", help="NetFlow: address of an exporter to accept; all where absent.")
]
SourceOptions = Annotated[
    list[str] | None, typer.Option("--option", help="Further option of the source, NAME=VALUE: see docs/sources.md.")
]
Seconds = Annotated[float | None, typer.Option(min=0.0, help="Stop after so long; Ctrl-C and SIGTERM stop, too.")]

Analyst = Annotated[str | None, typer.Option(help="Who says so; the name of the login where absent.")]
Note = Annotated[str, typer.Option(help="Why.")]


def taking(options: type[Asked]) -> Callable[[Callable[[Asked], None]], Callable[..., None]]:
    """Let a command take the fields of a dataclass as its arguments and options; it is handed them as one."""

    def decorate(call: Callable[[Asked], None]) -> Callable[..., None]:
        @functools.wraps(call)
        def command(**given: Any) -> None:
            call(options(**given))

        command.__annotations__ = hints = get_type_hints(options, include_extras=True)
        fields = inspect.signature(options).parameters.values()
        evaluated = [field.replace(annotation=hints[field.name]) for field in fields]
        command.__signature__ = inspect.Signature(evaluated)  # type: ignore[attr-defined]
        return command

    return decorate


def options_of_source(given: list[str] | None = None, **named: Any) -> dict[str, Any]:
    """Return options for a source's constructor: named ones that have a value, and those given as NAME=VALUE.

    Examples
    --------
    >>> options_of_source(["timeout_s=60", "gap_s=2.5"], exporters=["10.0.0.1"], dialect=None)
    {'exporters': ['10.0.0.1'], 'timeout_s': 60, 'gap_s': 2.5}
    """
    options = {name: value for name, value in named.items() if value is not None}
    for option in given or ():
        name, equals, text = option.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"--option takes NAME=VALUE, got {option!r}")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    return options


def one_name(data: list[str]) -> str | list[str]:
    """Return the name of a data set, or several files."""
    return data[0] if len(data) == 1 else data


def named_analyst(analyst: str | None) -> str:
    """Return who acts: the one that is named, else the login."""
    if analyst is not None:
        return analyst
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container may know no name for its user
        raise DataError("somebody must be named, however: the system knows no login name; give --analyst") from error


def refuse_unwritable(output: Path) -> None:
    """Find out before hours of training, not after."""
    fault = _fault_of_output(output)
    if fault:
        raise StorageError(f"the output file must be writable, however: {output}: {fault}; choose another place")


def _fault_of_output(output: Path) -> str:
    if output.is_dir():
        return "it is a folder"
    if not output.parent.is_dir():
        return "its folder is not there"
    return "" if os.access(output.parent, os.W_OK) else "its folder may not be written to"
