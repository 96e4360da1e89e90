"""Write ``docs/cli.md`` from the command line's own declarations: ``python docs/generate_cli.py``.

It reads names, types, defaults and help texts, so that neither a terminal's width nor a version of the help formatter
changes the page. ``tests/test_docs.py`` holds the page against this function and against the printed help.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer

from deepidea.cli.app import app

PAGE = Path(__file__).with_name("cli.md")
_HEAD = """# Command line

Generated from the program by `make docs`; do not edit. `deepidea COMMAND --help` says the same.

"""
_VALUES = {datetime: "date or time", str: "text", int: "whole number", float: "number", Path: "path", bool: ""}


def cli_page() -> str:
    """Return the whole page."""
    return _HEAD + _introduction() + "\n".join(_section(name, call) for name, call in commands(app, "deepidea"))


def commands(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the full name and the function of every command, groups included."""
    for command in group.registered_commands:
        if command.callback is not None:
            name = command.name or command.callback.__name__.replace("_", "-")
            yield f"{prefix} {name}", command.callback
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from commands(inner.typer_instance, f"{prefix} {inner.name}")


def _introduction() -> str:
    every = list(commands(app, "deepidea"))
    listed = "\n".join(f"- [`{name}`](#{_anchor(name)}): {_summary(call)}" for name, call in every)
    standing = "`deepidea --version` prints the version; `--help` or `-h` after any command prints its help."
    return f"{app.info.help}\n\n{listed}\n\n{standing}\n\n{str(app.info.epilog).strip()}\n\n"


def _summary(call: Callable[..., Any]) -> str:
    return (inspect.getdoc(call) or "").split("\n\n")[0].replace("\n", " ")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _section(name: str, call: Callable[..., Any]) -> str:
    parameters = list(_parameters(call))
    usage = " ".join(shown for shown, *_ in parameters if not shown.startswith("-"))
    head = f"## {name}\n\n{_summary(call)}\n\n```\n{name} [OPTIONS] {usage}".rstrip() + "\n```\n"
    if not parameters:
        return head
    rows = "\n".join(
        f"| {_coded(shown)} | {value} | {default} | {told} |" for shown, value, default, told in parameters
    )
    return f"{head}\n| argument or option | value | default | what it does |\n|---|---|---|---|\n{rows}\n"


def _coded(spellings: str) -> str:
    return ", ".join(f"`{spelling}`" for spelling in spellings.split(", "))


def _parameters(call: Callable[..., Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield spelling, value, default and help of each parameter of a command."""
    hints = get_type_hints(call, include_extras=True)
    for name, parameter in inspect.signature(call).parameters.items():
        kind, info = get_args(hints[name])[:2]
        many, value = _value(kind)
        if isinstance(info, type(typer.Argument())):
            spelt = name.upper() + ("..." if many else "")
        else:
            spelt = ", ".join(_declared(info) or _option(name, kind))
        yield spelt, value, _default(parameter.default), (info.help or "").replace("|", "\\|")


def _declared(info: Any) -> tuple[str, ...]:
    """Return the spellings that a declaration names; inside ``Annotated`` the first stands in place of a default."""
    first = (info.default,) if isinstance(info.default, str) else ()
    return (*first, *(info.param_decls or ()))


def _option(name: str, kind: Any) -> tuple[str, ...]:
    dashed = name.replace("_", "-")
    return (f"--{dashed}", f"--no-{dashed}") if kind in (bool, bool | None) else (f"--{dashed}",)


def _value(kind: Any) -> tuple[bool, str]:
    """Return whether several may be given, and what a value is."""
    inner = [part for part in get_args(kind) if part is not type(None)]
    if inner and get_origin(kind) is not list:
        kind = inner[0]  # X | None
    many = get_origin(kind) is list
    if many:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return many, ", ".join(f"`{choice.value}`" for choice in kind)
    return many, _VALUES[kind] + (", more than once" if many else "")


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if value is None or value is False:
        return ""
    if value is True:
        return "on"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, float):
        return f"`{value:.3g}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
