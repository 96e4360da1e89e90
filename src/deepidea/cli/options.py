"""Arguments and options that several commands take, and checks of them before work begins."""

from __future__ import annotations

import ast
import functools
import getpass
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints

import typer

from deepidea.errors import DataError, StorageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deepidea.store.store import Store
    from deepidea.web.service import AnalystService

Options = TypeVar("Options")


Engine = Literal["local", "spark"]
"""What scores tables, or starts the processes of a training."""


TableFormat = Literal["parquet", "csv", "jsonl"]
"""Formats of files of flows and verdicts."""


AlertFormat = Literal["eve", "ecs", "ocsf", "cef"]
"""Formats of alerts; the names of ``FORMATS``."""


DialectName = Literal["corrected", "cicids17-improved", "cicids17"]
"""Which version of CICFlowMeter's features a meter computes."""


def option(help: str, *names: str, panel: str | None = None, **checks: Any) -> Any:
    """Return an option with its help, in a panel of the help page."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **checks)


Inputs = Annotated[list[str], typer.Argument(help="Name of a data set, or files of flows (CSV, Parquet, gz, globs).")]
ModelFile = Annotated[Path, typer.Argument(help="Detector file, as `deepidea train` writes it.")]
Source = Annotated[str, typer.Argument(help="Where flows come from; `deepidea sources` lists the kinds.")]
StoreUrl = Annotated[
    str, option("Store: sqlite:///path or postgresql://user@host/database; by default a file in your data folder.")
]

TaxonomyName = Annotated[
    str | None, option("How labels map to classes; `deepidea data describe` lists the taxonomies.")
]
Label = Annotated[str | None, option("Label column of a table.")]
Benign = Annotated[str | None, option("Value of the label column that means benign.")]

FileFormat = Annotated[TableFormat | None, option("Output format, if the file's name does not show it.")]
AsJson = Annotated[bool, option("Print JSON.", "--json")]
Limit = Annotated[int, option("Most rows to list.", min=1)]
Analyst = Annotated[str | None, option("Your name for the record; by default your login.")]
Note = Annotated[str, option("Reason, for the record.")]

SOURCE = "Source"
Follow = Annotated[bool, option("At the end of a file, wait for more.", panel=SOURCE)]
Seconds = Annotated[float | None, option("Stop after so many seconds; Ctrl-C and SIGTERM stop, too.", min=0.0)]
Exporters = Annotated[
    list[str] | None, option("NetFlow: accept this exporter's address only; repeatable.", "--exporter", panel=SOURCE)
]
SourceOptions = Annotated[
    list[str] | None,
    option("Further option NAME=VALUE of the source, such as timeout_s=60; repeatable.", "--option", panel=SOURCE),
]

ALERTS = "Alerts"
FlowAlerts = Annotated[
    bool,
    option(
        "Raise alerts of single flows, too; by default of behaviours alone, see `deepidea behaviours`.",
        "--flow-alerts",
        panel=ALERTS,
    ),
]
SiteThresholds = Annotated[
    Path | None, option("File of your own thresholds of behaviours, TOML.", "--thresholds", panel=ALERTS)
]
HomeNetwork = Annotated[
    list[str] | None,
    option("A network that is inside, 192.0.2.0/24; repeatable; private ones by default.", "--home", panel=ALERTS),
]


def fields_as_options(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Let a command take the fields of a dataclass as its arguments and options; its function gets one object."""

    def decorate(function: Callable[[Options], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**fields: Any) -> None:
            function(options(**fields))

        # typer reads the signature: that of the dataclass, with its annotations evaluated
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
    for pair in given or ():
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"--option takes NAME=VALUE, got {pair!r}")
        try:  # 60 is a number, True a truth value; what is no Python literal, such as an address, is text
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    return options


def known_store(url: str) -> AbstractContextManager[Store]:
    """Open a store that exists."""
    from deepidea.detection.runner import open_known_store

    return open_known_store(url)


def new_or_known_store(url: str) -> AbstractContextManager[Store]:
    """Open a store, made where there is none."""
    from deepidea.detection.runner import default_store
    from deepidea.store.store import open_store

    return open_store(url or default_store())


def one_name(data: list[str]) -> str | list[str]:
    """Return the name of a data set, or several files."""
    return data[0] if len(data) == 1 else data


def analyst_or_login(analyst: str | None) -> str:
    """Return the analyst's name, by default the login."""
    if analyst is not None:
        return analyst
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container may have no name for its user
        raise DataError("the system has no login name for this user; give --analyst NAME") from error


@dataclass(frozen=True, slots=True)
class CommandLineActor:
    """The user of a command, as the audit log names who made a change."""

    name: str
    address: str = "command line"


@contextmanager
def audited(store: AbstractContextManager[Store], analyst: str | None = None) -> Iterator[Changes]:
    """Open a store for changes that are recorded in its audit log, in one transaction."""
    from deepidea.web.service import AnalystService

    actor = CommandLineActor(analyst or login_or_uid())
    with store as opened, opened.write() as connection:
        yield Changes(AnalystService(opened), actor, connection)


class Changes(NamedTuple):
    """Service, user and transaction of a command that changes a store."""

    service: AnalystService
    actor: CommandLineActor
    connection: Connection


def login_or_uid() -> str:
    """Return the login name, or the user id where a container has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def require_writable(output: Path) -> None:
    """Raise :class:`~deepidea.errors.StorageError` before hours of work where its output cannot be written."""
    if output.is_dir():
        fault = "it is a folder"
    elif not output.parent.is_dir():
        fault = f"there is no folder {output.parent}"
    elif not os.access(output.parent, os.W_OK):
        fault = f"folder {output.parent} is not writable"
    else:
        return
    raise StorageError(f"cannot write {output}: {fault}; choose another place")
