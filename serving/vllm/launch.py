"""vLLM's own server with our model class, our front door and safe settings."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from fourfold.assistant.checkpoints.hub.download import checkpoint_name
from fourfold.assistant.checkpoints.index import write_index
from fourfold.prompts.errors import UserError
from fourfold.serving.api.keys import ADMIN_KEY_VARIABLE, KEYS_VARIABLE, KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.vllm.gate import SETTINGS_VARIABLE, VLLMGate, settings
from fourfold.serving.vllm.plugin import QUANTIZATION_4BIT

MAX_LORA_RANK = 64
"""MiniGPT-v2's own adapter has this rank; vLLM's default of 16 refuses it."""
MAX_IN_FLIGHT = 256
"""Requests waiting or running at once; beyond it vLLM answers 503, instead of queueing without bound."""
NO_HOST = "no-remote-images.invalid"
"""vLLM fetches any URL unless some host is allowed. This name is reserved never to exist, and its error names it."""


def launch_vllm(
    model_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: KeyRing | None = None,
    quantization: str | None = None,
    adapters: Mapping[str, Path] | None = None,
    image_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> NoReturn:
    """Become vLLM's server: this process is replaced, so signals and the exit status are vLLM's.

    Args:
        model_dir: as `resolve_model` gives it; its name is the model's name in requests.
        port: 0 for any free one, which vLLM's log names.
        keys: without any, everybody who reaches `host` may chat; whether to refuse that is the caller's decision.
            Adapters are loaded and unloaded at run time only with an admin key.
        quantization: None or "4bit" (NF4 of the language model by vllm-bnb-plugin).
        adapters: directories of PEFT adapters by the name under which requests ask for them.
        image_hosts: from which image URLs are fetched. vLLM looks at the name only: allow hosts that you trust.
        allowed_origins: of web pages that may ask from a browser; our gate answers them, not vLLM.
        extra: further arguments of `vllm serve`. They come last, so they can also undo what is set here.

    Raises:
        UserError: vLLM or its plugin is missing, the quantization is unusable, the port is busy, or beside the weights
            lies what vLLM would take for weights, and that cannot be said there.
    """
    from fourfold.serving.api.server import bind, is_loopback

    if find_spec("vllm") is None:
        raise UserError(
            "vLLM is not installed; on a machine with a GPU install it with: pip install vllm==0.32.0 "
            "(without a GPU see docs/serving-vllm.md, or use --engine local)"
        )
    keys, adapters = keys or KeyRing(), adapters or {}
    try:
        write_index(model_dir)
    except OSError as error:
        raise UserError(
            f"vLLM would take every *.safetensors in {model_dir} for weights, and an index that says which are cannot "
            f"be written there ({error.strerror}); make the directory yours, or move the read-outs out of it"
        ) from None
    with bind(host, port) as listener:  # vLLM itself says only after loading everything that a port is taken
        port = listener.getsockname()[1]
    limits = ServerLimits()
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model_dir)]
    command += ["--host", host, "--port", str(port), "--served-model-name", checkpoint_name(model_dir)]
    command += ["--middleware", f"{VLLMGate.__module__}.{VLLMGate.__qualname__}", "--disable-fastapi-docs"]
    command += _quantization_options(quantization)
    # Content parts reach our chat template as parts, so that it knows an image from a placeholder that somebody typed.
    command += ["--chat-template-content-format", "openai"]
    # Greedy where the client says nothing, as our own engine; vLLM would sample.
    command += ["--override-generation-config", '{"temperature": 0}']
    command += ["--limit-mm-per-prompt", json.dumps({"image": limits.images})]
    command += ["--allowed-media-domains", *(_without_ports(image_hosts) or [NO_HOST])]
    # With the cache, a request refused after its image was processed makes the next one with that image fail.
    command += ["--mm-processor-cache-gb", "0"]
    command += ["--max-num-queued-reqs", str(MAX_IN_FLIGHT)]
    # Keys are neither here nor in vLLM's environment: any user of the machine can read a command line.
    may_load = any(key.admin for key in keys.keys)
    if adapters or may_load:
        command += ["--enable-lora", "--max-lora-rank", str(MAX_LORA_RANK)]
    if adapters:
        command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    if _is_cpu_build():
        command.append("--enforce-eager")  # compiling takes minutes there and needs a compiler on the machine
    environment = {
        SETTINGS_VARIABLE: settings(
            keys, local_names_only=not keys and is_loopback(host), allowed_origins=allowed_origins
        ),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(int(may_load)),
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_ENABLE_RESPONSES_API_STORE": "0",  # it keeps every answer for as long as it runs
        "VLLM_MAX_IMAGE_PIXELS": str(limits.image.pixels),
        "VLLM_MAX_N_SEQUENCES": str(limits.choices),
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # The checkpoint is on disk; a name that is no directory must not become a download.
        "HF_HUB_OFFLINE": "1",
    }
    inherited = {name: text for name, text in os.environ.items() if name not in (KEYS_VARIABLE, ADMIN_KEY_VARIABLE)}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], [*command, *extra], {**inherited, **environment})


def _quantization_options(quantization: str | None) -> list[str]:
    if quantization is None:
        return []
    if quantization == "8bit":
        raise UserError("vLLM quantises to 8 bit only what was saved so; use --quantization 4bit or --engine local")
    if quantization != "4bit":
        raise UserError(f"vLLM has no quantization called {quantization!r} here; the only one is 4bit")
    if find_spec("vllm_bnb_plugin") is None:
        raise UserError(
            "4-bit weights need vLLM's bitsandbytes plugin; install it with: pip install --no-deps vllm-bnb-plugin"
        )
    return ["--quantization", QUANTIZATION_4BIT, "--load-format", "bitsandbytes"]


def _without_ports(hosts: Sequence[str]) -> list[str]:
    for host in hosts:
        if ":" in host:
            raise UserError(
                f"vLLM cannot tell ports apart: allow the image host as {host.partition(':')[0]}, all its ports"
            )
    return list(hosts)


def _is_cpu_build() -> bool:
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return False
