"""The command line: serve, emulate, call, state."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from opi_spdk_bridge import __version__, errors
from opi_spdk_bridge.api.listeners import CannotListen
from opi_spdk_bridge.daemon.settings import ENVIRONMENT_PREFIX, Settings, default_state

if TYPE_CHECKING:
    from opi_spdk_bridge.cli.client import Access

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_ADDRESS = "127.0.0.1:50051"


class WrongFlag(click.ClickException):
    """Ends the program as a flag does that is wrong in itself."""

    exit_code = click.UsageError.exit_code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="opi-spdk-bridge")
def main() -> None:
    """The OPI storage API for SPDK.

    Start with `opi-spdk-bridge serve`: it needs no SPDK, an emulated target runs with it. In another terminal:

    \b
      opi-spdk-bridge call CreateNullVolume '{"null_volume_id": "disk0",
          "null_volume": {"block_size": 512, "blocks_count": 2048}}'
      opi-spdk-bridge state
    """


def _settings_options(command: F) -> F:
    """One option for each setting; what is not given is left to the environment, the file and the default."""
    for name, field in reversed(Settings.model_fields.items()):
        flag = f"--{name.replace('_', '-')}"
        default = field.default
        shown = None if default in (None, False, PydanticUndefined) else str(default)
        text = f"{field.description} [{ENVIRONMENT_PREFIX}{name.upper()}]"
        if get_origin(field.annotation) is tuple:
            listed = ", ".join(default) or False
            option = click.option(flag, name, multiple=True, help=text, show_default=listed, metavar="VALUE")
        elif field.annotation is bool:
            option = click.option(flag, name, is_flag=True, default=None, help=text)
        elif get_origin(field.annotation) is not None and all(
            isinstance(arg, str) for arg in get_args(field.annotation)
        ):
            choices = click.Choice(get_args(field.annotation))
            option = click.option(flag, name, type=choices, default=None, help=text, show_default=shown or False)
        else:
            option = click.option(flag, name, default=None, help=text, show_default=shown or False, metavar="VALUE")
        command = option(command)
    return command


@main.command()
@_settings_options
def serve(**given: Any) -> None:
    """Serve the OPI storage API.

    Without --spdk an emulated target runs beside the bridge, to try things out; with it the bridge works on a real
    one: --spdk /var/tmp/spdk.sock. Each option can also be given as the environment variable in brackets, or in a
    TOML file named by --config. SIGHUP reads them again and applies the log level and the
    policy.
    """
    from opi_spdk_bridge.daemon import app
    from opi_spdk_bridge.telemetry import logs

    settings = _settings(given)
    logs.configure(settings.log_level, settings.log_format)

    def reload() -> Settings | None:
        try:
            fresh = _settings(given)
        except click.UsageError as problem:
            logging.getLogger(__name__).error("SIGHUP: the settings stay as they are: %s", problem.message)
            return None
        logs.configure(fresh.log_level, fresh.log_format)
        return fresh

    _run(app.serve(settings, _announce, reload))


def _settings(given: dict[str, Any]) -> Settings:
    """The settings from flags, environment and file; raises click.UsageError naming the one that is wrong."""
    try:
        return Settings(**{name: value for name, value in given.items() if value not in (None, ())})
    except ValidationError as problem:
        first = problem.errors()[0]
        option = "--" + str(first["loc"][0] if first["loc"] else "config").replace("_", "-")
        raise click.UsageError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError) as problem:
        raise click.UsageError(f"--config: {problem}") from None


def _announce(serving: Any) -> None:
    target = f"an emulated target ({serving.spdk}): no real storage" if serving.emulated else f"SPDK at {serving.spdk}"
    click.echo(f"opi-spdk-bridge {__version__} serves gRPC on {', '.join(serving.listen)}")
    for address in serving.http:
        click.echo(f"  http      http://{address} (a page to look at; /v1, /openapi.json, /metrics)")
    click.echo(f"  target    {target}")
    click.echo(f"  state     {serving.state}")
    click.echo(f"  services  {', '.join(service.rpartition('.')[2] for service in serving.services)}")
    click.echo("Try, in another terminal:")
    click.echo(f"  {sys.argv[0]} call CreateNullVolume \\")
    click.echo("""    '{"null_volume_id": "disk0", "null_volume": {"block_size": 512, "blocks_count": 2048}}'""")
    sys.stdout.flush()


@main.command()
@click.option("--socket", required=True, help="Where to listen: a Unix path or host:port.")
@click.option(
    "-c", "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An SPDK configuration (as save_config writes it) to load at the start.",
)  # fmt: skip
@click.option(
    "--vhost-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("/var/tmp"), show_default=True,
    help="The folder for vhost sockets.",
)  # fmt: skip
@click.option("--wait-for-rpc", is_flag=True, help="Wait for framework_start_init before anything else.")
@click.option(
    "--poll-interval-ms", type=click.FloatRange(min=0), default=0.0, show_default=True,
    help="How often sockets are looked at. A real target's pace is 4; 0 answers at once.",
)  # fmt: skip
@click.option("--exit-with-stdin", is_flag=True, help="End when standard input is closed.")
def emulate(
    socket: str,
    config: Path | None,
    vhost_dir: Path,
    wait_for_rpc: bool,
    poll_interval_ms: float,
    exit_with_stdin: bool,
) -> None:
    """Run an emulated SPDK target: the JSON-RPC of spdk_tgt, without any storage behind it.

    Talk to it as to the real one, with SPDK's rpc.py or `serve --spdk`. Methods named emulator_* inject faults and
    run I/O.
    """
    from opi_spdk_bridge.emulator.options import EmulatorOptions
    from opi_spdk_bridge.emulator.server import SocketError
    from opi_spdk_bridge.emulator.server import serve as serve_emulator

    logging.basicConfig(level=logging.WARNING, format="emulator: %(message)s")
    options = EmulatorOptions(socket, config, vhost_dir, wait_for_rpc, poll_interval_ms)

    async def run() -> None:
        serving = asyncio.ensure_future(serve_emulator(options))
        waits = [serving, *([asyncio.ensure_future(_closed_stdin())] if exit_with_stdin else [])]
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if serving.done() and not serving.cancelled():
            serving.result()

    try:
        _run(run())
    except SocketError as problem:
        raise WrongFlag(f"--socket: {problem}") from None
    except (OSError, ValueError) as problem:
        raise click.ClickException(str(problem)) from None


async def _closed_stdin() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(4096):
        pass


def _access_options(command: F) -> F:
    """How a running bridge is reached. The token is never an argument: everybody on the machine can see those."""
    for name, text in (
        ("token-file", "A file with the bearer token to send; else OPI_BRIDGE_TOKEN has it."),
        ("tls-key", "The key of --tls-cert, PEM."),
        ("tls-cert", "The certificate to show to the bridge, PEM."),
        ("tls-ca", "Use TLS: the authority that signed the bridge's certificate, PEM."),
    ):
        command = click.option(f"--{name}", type=click.Path(dir_okay=False, path_type=Path), help=text)(command)
    return click.option(
        "--address", default=_DEFAULT_ADDRESS, show_default=True, envvar=f"{ENVIRONMENT_PREFIX}ADDRESS",
        help="Where the bridge listens: host:port or unix:PATH.",
    )(command)  # fmt: skip


def _access(address: str, token_file: Path | None, **tls: Path | None) -> Access:
    from opi_spdk_bridge.cli.client import Access

    try:
        token = token_file.read_text() if token_file is not None else os.environ.get(f"{ENVIRONMENT_PREFIX}TOKEN", "")
    except (OSError, UnicodeDecodeError) as problem:
        raise click.ClickException(f"the token in {token_file} cannot be read: {problem}") from None
    if not token.strip().isprintable() or not token.isascii():
        raise click.ClickException("the token is not one line of printable characters")
    return Access(address, token=token.strip(), **tls)


@main.command()
@click.argument("method")
@click.argument("request", default="{}", metavar="[JSON]")
@_access_options
@click.option("--timeout-s", type=float, default=30.0, show_default=True, help="The call's deadline in seconds.")
def call(method: str, request: str, timeout_s: float, **access: Any) -> None:
    """Call any RPC of a running bridge, by its short or full name, with a JSON request.

    \b
      opi-spdk-bridge call ListNvmeSubsystems
      opi-spdk-bridge call GetNullVolume '{"name": "nullVolumes/disk0"}'

    JSON may also come from a file (@request.json) or standard input (@-). A METHOD that does not exist is answered
    with the names that do.
    """
    from opi_spdk_bridge.cli.client import Reflected

    if request.startswith("@"):
        try:
            with click.open_file(request[1:]) as file:
                request = file.read()
        except OSError as problem:
            raise click.ClickException(f"{request[1:]} cannot be read: {problem.strerror}") from None
    with Reflected(_access(**access), timeout_s) as bridge:
        click.echo(json.dumps(bridge.call(method, request), indent=2))


@main.group(invoke_without_command=True)
@_access_options
@click.pass_context
def state(context: click.Context, /, **access: Any) -> None:
    """Show what a running bridge manages, as a tree.

    The commands below it work on the state itself: export also beside a running bridge, the others without one.
    """
    if context.invoked_subcommand is not None:
        return
    from opi_spdk_bridge.cli.client import Reflected
    from opi_spdk_bridge.cli.tree import lines
    from opi_spdk_bridge.daemon.resources import kinds_only

    with Reflected(_access(**access), 30.0) as bridge:
        for line in lines(bridge, kinds_only()):
            click.echo(line)


def _store_options(command: F) -> F:
    key = click.option(
        "--master-key-file", "key_file", type=click.Path(dir_okay=False, path_type=Path),
        help="The key that seals secrets, as given to serve.",
    )  # fmt: skip
    where = click.option(
        "--state", "place", default=default_state, show_default="as serve's", envvar=f"{ENVIRONMENT_PREFIX}STATE",
        help="The state, as given to serve: sqlite:PATH or redis://HOST:PORT/NUMBER.",
    )  # fmt: skip
    return where(key(command))


@state.command("export")
@_store_options
@click.option("--with-secrets", is_flag=True, help="Include keys, in clear. Without them it cannot be imported.")
@click.option("-o", "--output", type=click.File("w"), default="-", help="Where to write it; default: standard output.")
def export(place: str, key_file: Path | None, with_secrets: bool, output: Any) -> None:
    """Write the desired state as JSON."""
    from opi_spdk_bridge.cli import offline

    json.dump(_run(offline.export(place, key_file, with_secrets=with_secrets)), output, indent=2)
    output.write("\n")


@state.command("import")
@_store_options
@click.argument("file", type=click.File("r"))
@click.option("--replace", is_flag=True, help="Forget what the store has.")
def import_(place: str, key_file: Path | None, file: Any, replace: bool) -> None:
    """Put an exported state into a store; the bridge that serves it must not be running."""
    from opi_spdk_bridge.cli import offline
    from opi_spdk_bridge.store.open import shown

    try:
        exported = json.load(file)
    except ValueError as problem:
        raise click.ClickException(f"{file.name} is no JSON: {problem}") from None
    count = _run(offline.import_(place, key_file, exported, replace=replace))
    click.echo(f"imported {count} resources into {shown(place)}")


@state.command()
@_store_options
def rekey(place: str, key_file: Path | None) -> None:
    """Seal all secrets with a fresh master key; the bridge must not be running."""
    from opi_spdk_bridge.cli import offline

    click.echo(f"all secrets are sealed with the fresh key in {_run(offline.rekey(place, key_file))}")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs the loop; what a BridgeError says is told to the user without a traceback."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)
    except CannotListen as problem:
        raise WrongFlag(problem.message) from None
    except errors.BridgeError as problem:
        raise click.ClickException(problem.message) from None
