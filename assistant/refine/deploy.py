"""Changing the refined adapter of a server that runs, ours or vLLM's, through its admin routes."""

from pathlib import Path

import httpx

from fourfold.assistant.refine.registry import SERVED_NAME
from fourfold.prompts.errors import UserError

_PATIENCE = httpx.Timeout(10, read=300)  # the server reads the weights before it answers


def serve_adapter(endpoint: str, admin_key: str | None, directory: Path, *, name: str = SERVED_NAME) -> None:
    """Have a server answer with an adapter under `name`; what has that name until now is replaced in place.

    Answers that are being made are not disturbed.

    Args:
        endpoint: base URL of the server, `http://127.0.0.1:8000/v1`.
        admin_key: an API key that may change adapters.
        directory: of the adapter, on the server's file system; each content in a directory of its own, since vLLM keeps
            what it has computed under the directory's name.
        name: what requests call the adapter.

    Raises:
        UserError: the server does not answer, refuses the key or cannot load the adapter.
    """
    body = {"lora_name": name, "lora_path": str(directory.resolve()), "load_inplace": True}
    response = _post(endpoint, "load_lora_adapter", admin_key, body)
    if response.status_code != 200:
        raise UserError(f"the server {endpoint} did not load the adapter: {_reason(response)}")


def withdraw_adapter(endpoint: str, admin_key: str | None, *, name: str = SERVED_NAME) -> None:
    """Have a server forget the adapter `name`; answers that are being made with it are finished with it.

    Raises:
        UserError: the server does not answer or refuses the key. That it has no such adapter is no error.
    """
    response = _post(endpoint, "unload_lora_adapter", admin_key, {"lora_name": name})
    if response.status_code not in (200, 404):
        raise UserError(f"the server {endpoint} did not unload the adapter: {_reason(response)}")


def _post(endpoint: str, route: str, admin_key: str | None, body: dict[str, object]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {admin_key}"} if admin_key else {}
    try:
        response = httpx.post(f"{endpoint.rstrip('/')}/{route}", json=body, headers=headers, timeout=_PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise UserError(f"the server {endpoint} does not answer ({error}); is it running?") from None
    if response.status_code in (401, 403):
        raise UserError(
            f"the server {endpoint} lets nobody change its adapters without an admin key; start it with "
            "FOURFOLD_ADMIN_KEY set, and give the same key here (--admin-key, or FOURFOLD_ADMIN_KEY)"
        )
    return response


def _reason(response: httpx.Response) -> str:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text
    return f"{response.status_code} {' '.join(message.split())[:300]}"
