"""LoRA adapters loaded and unloaded over HTTP, as vLLM does it; for admin keys alone."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse, Response

from fourfold.assistant.checkpoints.adapter_files import check_adapter_files
from fourfold.prompts.errors import UserError
from fourfold.serving.api.errors import ApiError, require_json
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.torch_backend.lora_manager import NameTaken

# Not PlainTextResponse, whose media type FastAPI would document for the errors as well.
PLAIN: dict[str, Any] = {"response_class": Response, "responses": {200: {"content": {"text/plain": {}}}}}


class AdapterName(BaseModel):
    model_config = ConfigDict(strict=True)
    lora_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")


class AdapterPath(AdapterName):
    lora_path: str = Field(min_length=1, max_length=4096, description="its directory on the server")
    load_inplace: bool = Field(False, description="replace the adapter that has this name")


def adapter_routes(engine: Engine) -> APIRouter:
    router = APIRouter()
    # Changing adapters waits for the engine's thread and must not hold up the decoding of images.
    changes = ThreadPoolExecutor(1, thread_name_prefix="adapters")

    @router.post("/v1/load_lora_adapter", dependencies=[Depends(require_json)], **PLAIN)
    async def load_adapter(body: AdapterPath) -> Response:
        """Load a LoRA adapter from a directory of the server; running answers are not disturbed."""
        if body.lora_name == engine.model_name:
            raise ApiError(400, "that is the base model's name; choose another", param="lora_name")
        directory = _adapter_directory(body.lora_path)
        try:
            load = partial(engine.load_adapter, body.lora_name, directory, in_place=body.load_inplace)
            await asyncio.get_running_loop().run_in_executor(changes, load)
        except NameTaken as error:
            raise ApiError(400, str(error), param="lora_name") from None
        except UserError as error:
            raise ApiError(400, str(error), param="lora_path") from None
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @router.post("/v1/unload_lora_adapter", dependencies=[Depends(require_json)], **PLAIN)
    async def unload_adapter(body: AdapterName) -> Response:
        """Forget an adapter; answers that use it are finished with it."""
        try:
            await asyncio.get_running_loop().run_in_executor(changes, engine.unload_adapter, body.lora_name)
        except UserError as error:
            raise ApiError(404, str(error), param="lora_name", code="adapter_not_found") from None
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return router


def _adapter_directory(text: str) -> Path:
    try:
        check_adapter_files(Path(text))
    except UserError:
        files = "adapter_config.json and adapter_model.safetensors"
        raise ApiError(400, f"lora_path must be a directory of this server with {files}", param="lora_path") from None
    except (OSError, ValueError):  # a NUL byte, a name too long
        raise ApiError(400, "lora_path is not a path", param="lora_path") from None
    return Path(text)
