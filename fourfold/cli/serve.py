"""`fourfold serve`: an OpenAI-compatible endpoint over the local engine or vLLM."""

import json
import logging
import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fourfold.assistant.extras import require
from fourfold.cli.options import DeviceName, DeviceOption, ModelOption, QuantizationOption, examples
from fourfold.cli.refined import (
    AdapterOption,
    MemoryOption,
    NoEyesOption,
    StoreOption,
    StrengthOption,
    check_refined,
    chosen_adapter,
    eyes_of,
    memory_of,
)
from fourfold.prompts.errors import UserError
from fourfold.serving.api.keys import collect_keys


class EngineName(StrEnum):
    """What computes the answers."""

    LOCAL = "local"
    VLLM = "vllm"


EXAMPLES = examples(
    "fourfold serve",
    "fourfold serve --port 9000 --memory",
    "fourfold serve --host 0.0.0.0 --api-key-file keys.txt --rate-limit 60",
    "fourfold serve --engine vllm --model DIR -- --max-model-len 2048",
)
_SAMPLE = Path(__file__).parents[1] / "samples" / "table.jpg"
_DOOR = "Who may ask"
_LOAD = "How much at once"


def serve(
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="-- VLLM OPTIONS", help="Passed on to vLLM, with --engine vllm.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="local: in this process. vllm: vLLM's own server.")
    ] = EngineName.LOCAL,
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Anything but this machine itself needs API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 for any free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="May be given often. Others on this machine can see it; a file or FOURFOLD_API_KEYS is safer.",
            rich_help_panel=_DOOR,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="One key a line, optionally with name=NAME per-minute=NUMBER admin.",
            rich_help_panel=_DOOR,
        ),
    ] = None,
    rate_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Requests a minute of keys whose line says nothing.", rich_help_panel=_DOOR
        ),
    ] = None,
    allow_unauthenticated: Annotated[
        bool,
        typer.Option(
            "--allow-unauthenticated",
            help="Serve other machines without any key. Everyone who can reach the port is let in.",
            rich_help_panel=_DOOR,
        ),
    ] = False,
    quantization: QuantizationOption = None,
    device: DeviceOption = DeviceName.AUTO,
    adapter: AdapterOption = None,
    strength: StrengthOption = None,
    memory: MemoryOption = False,
    store: StoreOption = None,
    no_eyes: NoEyesOption = False,
    allow_image_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Fetch images by https from this host, HOST or HOST:PORT; may be given often.",
            rich_help_panel=_DOOR,
        ),
    ] = None,
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Let web pages of this origin ask from a browser, https://chat.example; may be given often.",
            rich_help_panel=_DOOR,
        ),
    ] = None,
    max_running: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Answers made at the same time (local engine): 16.", rich_help_panel=_LOAD
        ),
    ] = None,
    max_waiting: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Answers waiting; more get a 429 (local engine): 64.", rich_help_panel=_LOAD
        ),
    ] = None,
) -> None:
    """Serve OpenAI's chat completions about images."""
    require("serve", "fourfold serve")
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.serving.api.cors import read_origins
    from fourfold.serving.api.limits import ServerLimits
    from fourfold.serving.api.remote_images import RemoteImages
    from fourfold.serving.api.server import Server, answering_503, bind, end_with_parent, is_loopback

    end_with_parent()
    keys = collect_keys(api_key or [], api_key_file, os.environ, rate_limit)
    if not keys and not allow_unauthenticated and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines in: give keys (--api-key-file FILE), or --allow-unauthenticated"
        )
    origins = read_origins(allowed_origins or [], anybody_may_ask=not keys)
    local = engine is EngineName.LOCAL
    check_refined(adapter, strength, memory, store, eyes=local and not no_eyes, may_begin=True)
    if engine is EngineName.VLLM:
        from fourfold.serving.vllm.launch import launch_vllm

        if max_running or max_waiting:
            raise UserError("--max-running and --max-waiting are the local engine's; vLLM has -- --max-num-seqs N")
        if device is not DeviceName.AUTO:
            raise UserError("--device is the local engine's; vLLM computes where it was built for")
        if memory:
            raise UserError("--memory is the local engine's: vLLM cannot be given an answer to say; leave it out")
        directory = resolve_model(model)
        refined = chosen_adapter(adapter, strength, store, directory)
        launch_vllm(
            directory,
            host=host,
            port=port,
            keys=keys,
            quantization=quantization.value if quantization else None,
            adapters=dict([refined]) if refined else None,
            image_hosts=allow_image_host or [],
            allowed_origins=origins,
            extra=extra or [],
        )
    if extra:
        raise UserError(f"unexpected {extra[0]!r}; options after -- are for --engine vllm")

    # What can be wrong is looked at before the seconds that torch takes to import and a model to load.
    limits = ServerLimits()
    remote = RemoteImages(allow_image_host, limits.image.bytes) if allow_image_host else None
    listener = bind(host, port)
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in ("fourfold", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    with answering_503(listener):
        directory = resolve_model(model)
        refined = chosen_adapter(adapter, strength, store, directory)

        from fourfold.serving.api.app import create_app
        from fourfold.serving.engine.engine import Engine

        loaded = Engine.load(
            directory,
            quantization=quantization.value if quantization else None,
            device=device.value,
            max_num_seqs=max_running or 16,
            max_waiting=max_waiting or 64,
        )
    with loaded:
        if refined:
            loaded.default_adapter = loaded.load_adapter(*refined).name
        looking = None if no_eyes else eyes_of(loaded, directory, store)
        app = create_app(
            loaded,
            keys=keys,
            limits=limits,
            remote=remote,
            local_names_only=not keys and is_loopback(host),
            memory=memory_of(store) if memory else None,
            allowed_origins=origins,
            looking=looking,
        )
        _announce(listener.getsockname(), loaded.model_name, bool(keys), eyes=looking is not None, store=store)
        Server(app, limits).serve_until_signal(listener)


def _announce(address: tuple, model: str, needs_key: bool, *, eyes: bool, store: Path | None) -> None:
    host, port = address[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{reachable}:{port}/v1"
    asked = model
    print(f"{model} listens on {url}")
    if eyes:
        from fourfold.serving.looking.claim import EYES

        asked = model + EYES
        print(f"  the same model, looking before it answers: {asked}")
    if store is not None and not (store / "corrections.sqlite").is_file():
        print(f"  nothing was corrected in {store} yet")
    print(f"  ask it: {first_question(url, asked, needs_key)}", flush=True)


def first_question(url: str, model: str, needs_key: bool) -> str:
    """A line for a shell that asks a server about a picture; with a key, which is expected in `$KEY`."""
    text = {"type": "text", "text": "What colour is the ball?"}
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,PICTURE"}}
    body = {"model": model, "messages": [{"role": "user", "content": [text, picture]}]}
    before, after = (f"printf %s {shlex.quote(part)}" for part in json.dumps(body).split("PICTURE"))
    header = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    # No argument may be as long as a photo is; of what comes through a pipe curl leaves the line breaks out.
    asking = f"({before}; base64 < {shlex.quote(str(_SAMPLE))}; {after})"
    return f"{asking} | curl -s {url}/chat/completions{header} -H 'Content-Type: application/json' -d @-"
