"""Write ``docs/cli.md`` from the command line's own declarations: ``python docs/generate_cli.py``.

It reads names, choices, defaults and help texts, so that neither a terminal's width nor a version of the help formatter
changes the page. ``tests/test_docs.py`` compares the page with this function and with the printed help.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.models import CommandInfo

from deepidea.cli.app import app

PAGE = Path(__file__).with_name("cli.md")
_HEAD = """# Command line

Generated from the program by `make docs`; do not edit. `deepidea COMMAND --help` prints the same.
"""
_COMMON = 3  # an option that so many commands have, in the same words, is explained once
_MOST_CHOICES = 10  # of an option; longer lists are left to --help

Row = tuple[str, str]  # spelling, meaning


def cli_page() -> str:
    """Return the whole page."""
    every = {name: list(_parameters(call)) for name, call in commands(app, "deepidea")}
    counted = Counter(row for rows in every.values() for row in rows if row[0].startswith("-"))
    common = [row for row, n in counted.items() if n >= _COMMON]
    sections = (_section(name, call, every[name], common) for name, call in commands(app, "deepidea"))
    return "\n".join([_HEAD, _introduction(common), *sections])


def commands(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the full name and the function of every command, groups included."""
    for name, command in _registered(group, prefix):
        if command.callback is not None:
            yield name, command.callback


def _registered(group: typer.Typer, prefix: str) -> Iterator[tuple[str, CommandInfo]]:
    for command in group.registered_commands:
        if command.callback is not None:
            name = command.name or command.callback.__name__.replace("_", "-")
            yield f"{prefix} {name}", command
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from _registered(inner.typer_instance, f"{prefix} {inner.name}")


def _introduction(common: list[Row]) -> str:
    first: dict[str, str] = {}  # of each group, or the command itself
    for name, _ in commands(app, "deepidea"):
        first.setdefault(name.split()[1], name)
    links = ", ".join(f"[{word}](#{_anchor(name)})" for word, name in first.items())
    return (
        f"{app.info.help}\n\n{links}.\n\nArguments in brackets may be left out. [Exit codes](errors.md).\n\n"
        f"## Common\n\n`--version` and, of every command, `--help`, `-h`.\n\n{_listed(common)}"
    )


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _section(name: str, call: Callable[..., Any], rows: list[Row], common: list[Row]) -> str:
    summary = (inspect.getdoc(call) or "").split("\n\n")[0].replace("\n", " ")
    own = [row for row in rows if row not in common]
    shared = ", ".join(_coded(spelling) for spelling, meaning in rows if (spelling, meaning) in common)
    more = f"- [common](#common): {shared}\n" if shared else ""
    example = "" if _EXAMPLES[name] == name else f"\n{_coded(_EXAMPLES[name])}\n"
    return f"## {name}\n\n{summary}\n{example}" + (f"\n{_listed(own)}{more}" if rows else "")


def _listed(rows: list[Row]) -> str:
    return "".join(f"- {_coded(spelling)}: {meaning}\n" for spelling, meaning in rows)


def _coded(spellings: str) -> str:
    return ", ".join(f"`{spelling}`" for spelling in spellings.split(", "))


def _parameters(call: Callable[..., Any]) -> Iterator[Row]:
    """Yield spelling and meaning of each parameter of a command."""
    hints = get_type_hints(call, include_extras=True)
    for name, parameter in inspect.signature(call).parameters.items():
        kind, info = get_args(hints[name])[:2]
        if info.hidden:
            continue
        many, choices = _value(kind)
        facts = [choices, _default(parameter.default)]
        if isinstance(info, type(typer.Argument())):
            spelt = _argument(name.upper() + ("..." if many else ""), required=facts.pop() == "required")
        else:
            spelt = ", ".join(_declared(info) or _option(name, kind))
        more = "; ".join(fact for fact in facts if fact)
        yield spelt, (info.help or "") + (f" ({more})" if more else "")


def _argument(name: str, *, required: bool) -> str:
    return name if required else f"[{name}]"


def _declared(info: Any) -> tuple[str, ...]:
    """Return the spellings that a declaration names; inside ``Annotated`` the first stands in place of a default."""
    first = (info.default,) if isinstance(info.default, str) else ()
    return (*first, *(info.param_decls or ()))


def _option(name: str, kind: Any) -> tuple[str, ...]:
    dashed = name.replace("_", "-")
    return (f"--{dashed}", f"--no-{dashed}") if kind in (bool, bool | None) else (f"--{dashed}",)


def _value(kind: Any) -> tuple[bool, str]:
    """Return whether several may be given, and the choices where there are any."""
    inner = [part for part in get_args(kind) if part is not type(None)]
    if inner and get_origin(kind) not in (list, Literal):
        kind = inner[0]  # X | None
    many = get_origin(kind) is list
    if many:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return many, _choices(get_args(kind))
    choices = isinstance(kind, type) and issubclass(kind, Enum)
    return many, _choices([choice.value for choice in kind]) if choices else ""


def _choices(values: Sequence[str]) -> str:
    if len(values) > _MOST_CHOICES:
        return f"{len(values)} choices, listed by `--help`"
    return ", ".join(f"`{value}`" for value in values)


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if value in (None, False, ""):
        return ""
    if value is True:
        return "on by default"
    if isinstance(value, list):
        return "default " + ", ".join(f"`{item}`" for item in value)
    if isinstance(value, float):
        return f"default `{value:.3g}`"
    return f"default `{value.value if isinstance(value, Enum) else value}`"


_EXAMPLES = {name: str(of.epilog).removeprefix("Example: ") for name, of in _registered(app, "deepidea")}

if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
