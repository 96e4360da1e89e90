"""The command `deepidea serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from deepidea.cli.options import (
    Exporters,
    FlowAlerts,
    HomeNetwork,
    SiteThresholds,
    SourceOptions,
    StoreUrl,
    option,
    options_of_source,
)
from deepidea.cli.terminal import say, stopping

DETECT = "Detect in the server's own process"
PROXY = "TLS and proxies"


def serve(
    store: StoreUrl = "",
    host: Annotated[str, option("Address to listen at; beyond loopback, a token must exist first.")] = "127.0.0.1",
    port: Annotated[int, option("Port to listen at; 0 takes a free one.", min=0, max=65535)] = 8350,
    model: Annotated[Path | None, option("Detector file: detects on --source, and explains alerts.")] = None,
    open_metrics: Annotated[bool, option("Serve /metrics without a token.")] = False,
    source: Annotated[list[str] | None, option("Detect on this source; repeatable.", panel=DETECT)] = None,
    sink: Annotated[list[str] | None, option("Send alerts here, too; repeatable.", panel=DETECT)] = None,
    allow: Annotated[Path | None, option("File of allow rules.", panel=DETECT)] = None,
    follow: Annotated[bool, option("At the end of a file, wait for more.", panel=DETECT)] = False,
    flow_alerts: FlowAlerts = False,
    thresholds: SiteThresholds = None,
    home: HomeNetwork = None,
    exporter: Exporters = None,
    options: SourceOptions = None,
    host_name: Annotated[
        list[str] | None, option("Further name of the server in browsers; repeatable.", panel=PROXY)
    ] = None,
    tls_cert: Annotated[Path | None, option("Certificate (PEM): serve https.", panel=PROXY)] = None,
    tls_key: Annotated[Path | None, option("Key of the certificate (PEM).", panel=PROXY)] = None,
    secure_cookies: Annotated[bool, option("Behind an https proxy: cookies for https only.", panel=PROXY)] = False,
    forwarded_allow_ips: Annotated[
        str, option("Trusted proxies that name the client's address; separated by commas.", panel=PROXY)
    ] = "",
) -> None:
    """Serve the web page and API of a store; with --source, detect as well."""
    from deepidea.web.serving import serve_until
    from deepidea.web.settings import ServeConfig

    config = ServeConfig(
        store=store,
        model=model,
        sources=tuple(source or ()),
        sinks=tuple(sink or ()),
        allow=allow,
        follow=follow,
        source_options=options_of_source(options, exporters=exporter),
        home=tuple(home or ()),
        thresholds=thresholds,
        flow_alerts=flow_alerts,
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
        serve_until(stop, config, on_start=show_address)
    say("stopped")


def show_address(url: str, store: str, *, needs_login: bool) -> None:
    """Print where the page is, and who has access."""
    say(f"serving {store}")
    say(f"the page: {url}")
    if needs_login:
        say("log in with a token; `deepidea tokens add` creates one")
    else:
        say("no token exists: every user of this machine is admin; `deepidea tokens add` creates the first one")
