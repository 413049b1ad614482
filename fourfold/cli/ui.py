"""`fourfold ui`: chat about pictures in the browser."""

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Annotated

import typer

from fourfold.assistant.extras import require
from fourfold.cli.options import QuantizationOption
from fourfold.prompts.errors import UserError


def ui(
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Any OpenAI-compatible endpoint, http://.../v1; without one, a local model."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="The endpoint's key. Others can see it here; FOURFOLD_API_KEY is safer."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint directory (default: fourfold-mini); with --endpoint, a name that it serves."),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Of the local model; default: the one that was promoted.")] = None,
    quantization: QuantizationOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 for any free one.")] = 8501,
    headless: Annotated[bool, typer.Option("--headless", help="Open no browser.")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps conversations and corrections; default: your data folder.")
    ] = None,
) -> None:
    """Chat about pictures in the browser. Only this machine can reach the page."""
    require("ui", "the page")
    from fourfold.assistant.chat.history import default_path
    from fourfold.assistant.refine.store import default_directory
    from fourfold.serving.api.server import bind
    from fourfold.ui.launch import run
    from fourfold.ui.state.local_server import CURRENT, LocalServer
    from fourfold.ui.state.settings import Settings

    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise UserError(f"--endpoint {endpoint}: an address begins with http:// or https:// and ends with /v1")
    if endpoint is not None and (adapter or quantization):
        raise UserError("--adapter and --quantization are for the local model; leave them out with --endpoint")
    with bind("127.0.0.1", port) as listener:  # says what is wrong with a port before anything slow
        port = listener.getsockname()[1]
    history = data / "history.sqlite" if data else default_path()
    corrections = data / "refine" if data else default_directory()
    low_bit = quantization.value if quantization else None
    settings = Settings(
        endpoint=endpoint,
        api_key=api_key or os.environ.get("FOURFOLD_API_KEY"),
        model=model if endpoint else None,
        server=None if endpoint else LocalServer(model, low_bit, adapter or CURRENT, corrections),
        history=history,
        corrections=corrections,
    )
    ended = threading.Event()
    threading.Thread(target=_announce, args=(port, ended), daemon=True).start()
    try:
        run(settings, port=port, headless=headless)
    finally:
        ended.set()


def _announce(port: int, ended: threading.Event) -> None:
    """Say where the page is, once it is there."""
    while not ended.wait(0.1):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            print(f"The page is at http://127.0.0.1:{port}", flush=True)
            return
