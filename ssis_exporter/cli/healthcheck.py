"""`ssis-exporter healthcheck`: asks a running exporter whether it is well; for containers, which have no curl."""

from __future__ import annotations

import http.client
import ssl
import sys
from urllib.parse import SplitResult, urlsplit

import click

from ssis_exporter.addresses import METRICS_PORT
from ssis_exporter.cli import exits

DEFAULT_URL = f"http://127.0.0.1:{METRICS_PORT}/-/healthy"

# An exporter that asks for a password answers 401 here, too. That it answers is what was asked.
ALIVE = (http.HTTPStatus.OK, http.HTTPStatus.UNAUTHORIZED)


@click.command("healthcheck")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="What to ask.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=60),
    default=3.0,
    show_default=True,
    help="How long to wait for each step of the answer, in seconds.",
)
@click.option("--insecure", is_flag=True, help="With https: do not check the certificate's name and issuer.")
def command(url: str, timeout: float, insecure: bool) -> int:
    """Ask a running exporter whether it is well; exit code 0 if it is, 1 if not."""
    try:
        status = _ask(urlsplit(url), timeout, insecure=insecure)
    # A certificate that is not trusted is an OSError and a ValueError, so the order matters.
    except (OSError, http.client.HTTPException) as exc:
        click.echo(f"not healthy: {url} does not answer: {exc or type(exc).__name__}", err=True)
        return exits.FOUND
    except ValueError as exc:
        raise click.BadParameter(f"{url!r} is no address to ask: {exc}", param_hint="--url") from exc
    if status not in ALIVE:
        click.echo(f"not healthy: {url} answered {status}", err=True)
        return exits.FOUND
    click.echo("healthy", file=sys.stdout)
    return exits.OK


def _ask(parts: SplitResult, timeout: float, *, insecure: bool) -> int:
    # http.client and not urllib: a proxy from the environment must not answer for us.
    if not parts.hostname:
        raise ValueError("write it like " + DEFAULT_URL)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
    elif parts.scheme == "http":
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    else:
        raise ValueError("it begins with neither http:// nor https://")
    try:
        connection.request("GET", parts.path or "/-/healthy")
        return connection.getresponse().status
    finally:
        connection.close()
