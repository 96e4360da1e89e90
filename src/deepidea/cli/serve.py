"""Commands of the operator's page: the server, who may use it, and what was done there."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deepidea.cli.options import Exporters, SourceOptions, StoreUrl, options_of_source
from deepidea.cli.serve_tables import show_address, show_audit, show_secret, show_tokens
from deepidea.cli.terminal import say, stopping


class RoleName(StrEnum):
    """What a token's owner may do; each what those before it may."""

    viewer = "viewer"
    analyst = "analyst"
    admin = "admin"


def serve(
    store: StoreUrl = "",
    model: Annotated[Path | None, typer.Option(help="Detector: to watch sources with, and to explain alerts.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Watch this source in the server's own process; several are possible.")
    ] = None,
    sink: Annotated[list[str] | None, typer.Option(help="Of watched sources: where alerts go, too.")] = None,
    allow: Annotated[Path | None, typer.Option(help="Of watched sources: file of allow rules.")] = None,
    follow: Annotated[bool, typer.Option(help="Of watched sources: wait for more at the end of a file.")] = False,
    exporter: Exporters = None,
    option: SourceOptions = None,
    host: Annotated[str, typer.Option(help="Address to listen at; other than loopback takes a token first.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8350,
    host_name: Annotated[
        list[str] | None, typer.Option(help="Name that browsers call the server by, beside its address.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM): the server speaks https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the certificate (PEM).")] = None,
    secure_cookies: Annotated[bool, typer.Option(help="Behind a proxy that speaks https: cookies for https alone.")] = (
        False
    ),
    forwarded_allow_ips: Annotated[
        str, typer.Option(help="Proxies whose word on a client's address counts, with commas.")
    ] = "",
    open_metrics: Annotated[bool, typer.Option(help="Let /metrics be read without a token.")] = False,
) -> None:
    """Serve the operator's page and its API over a store; with --source, watch as well."""
    from deepidea.web.serving import Serving, serve_until

    serving = Serving(
        store=store,
        model=model,
        sources=tuple(source or ()),
        sinks=tuple(sink or ()),
        allow=allow,
        follow=follow,
        source_options=options_of_source(option, exporters=exporter),
        host=host,
        port=port,
        host_names=tuple(host_name or ()),
        tls_cert=tls_cert,
        tls_key=tls_key,
        secure_cookies=secure_cookies,
        forwarded_allow_ips=forwarded_allow_ips,
        open_metrics=open_metrics,
    )
    with stopping() as stop:
        serve_until(stop, serving, on_start=show_address)
    say("stopped")


def tokens_add(
    name: Annotated[str, typer.Argument(help="Whose it is: a person or a program.")],
    role: Annotated[RoleName, typer.Option(help="viewer reads, analyst judges, admin changes models and tokens.")],
    expires: Annotated[datetime | None, typer.Option(help="When it ends, UTC.")] = None,
    store: StoreUrl = "",
) -> None:
    """Make a token and print it once. From the first one on, nobody gets in without one."""
    from deepidea.detection.runner import default_store
    from deepidea.store.store import open_store

    with open_store(store or default_store()) as opened:
        token, secret = opened.add_token(name, role.value, expires=_as_utc(expires))
        opened.audit("command line", "add token", token.token_id, detail={"name": name, "role": role.value})
    show_secret(token, secret)


def _as_utc(when: datetime | None) -> datetime | None:
    """Return a time as given on a command line, which is UTC."""
    return None if when is None else when.replace(tzinfo=UTC)


def tokens_list(store: StoreUrl = "") -> None:
    """List the tokens: whose, what they may, when they were used last."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        show_tokens(opened.tokens())


def tokens_revoke(
    token_id: Annotated[str, typer.Argument(help="Token, as `deepidea tokens list` names it.")], store: StoreUrl = ""
) -> None:
    """End a token, and whatever was logged in with it."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        opened.revoke_token(token_id)
        opened.audit("command line", "revoke token", token_id)
    say(f"revoked {token_id}")


def audit(store: StoreUrl = "", limit: Annotated[int, typer.Option(min=1, help="Most entries.")] = 50) -> None:
    """List what was changed through the page and its API, by whom, the newest first."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        show_audit(opened.audit_log(limit=limit)[0])
