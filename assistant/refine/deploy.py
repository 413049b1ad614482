"""Changing the refined adapter of a server that runs, ours or vLLM's, through its admin routes."""

from dataclasses import dataclass, field
from pathlib import Path

import httpx

from fourfold.assistant.refine.registry import SERVED_NAME
from fourfold.prompts.errors import UserError

_TIMEOUT = httpx.Timeout(10, read=300)  # the server reads the weights before it answers


@dataclass(frozen=True)
class ServerAdmin:
    """A running server that is to answer with the adapter that is current here.

    Attributes:
        endpoint: its base URL, `http://127.0.0.1:8000/v1`.
        admin_key: an API key of it that may change adapters.
    """

    endpoint: str
    admin_key: str | None = field(default=None, repr=False)

    def load(self, directory: Path, *, name: str = SERVED_NAME) -> None:
        """Have it answer with an adapter under `name`; what has that name until now is replaced in place.

        Answers that are being made are not disturbed.

        Args:
            directory: of the adapter, on the server's file system; each content in a directory of its own, since vLLM
                keeps what it has computed under the directory's name.
            name: what requests call the adapter.

        Raises:
            UserError: the server does not answer, refuses the key or cannot load the adapter.
        """
        body = {"lora_name": name, "lora_path": str(directory.resolve()), "load_inplace": True}
        response = self._post("load_lora_adapter", body)
        # Both servers answer "Success: LoRA adapter '…' added successfully."; any page may answer 200.
        if response.status_code != 200 or "success" not in response.text[:20].lower():
            raise UserError(f"the server {self.endpoint} did not load the adapter: {_reason(response)}")

    def unload(self, *, name: str = SERVED_NAME) -> None:
        """Have it forget the adapter `name`; answers that are being made with it are finished with it.

        Raises:
            UserError: the server does not answer or refuses the key. That it has no such adapter is no error.
        """
        response = self._post("unload_lora_adapter", {"lora_name": name})
        if response.status_code not in (200, 404):
            raise UserError(f"the server {self.endpoint} did not unload the adapter: {_reason(response)}")

    def _post(self, route: str, body: dict[str, object]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.admin_key}"} if self.admin_key else {}
        url = f"{self.endpoint.rstrip('/')}/{route}"
        try:
            response = httpx.post(url, json=body, headers=headers, timeout=_TIMEOUT)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise UserError(
                f"the server {self.endpoint} does not answer ({error}); is it running? Without an endpoint the "
                "change is made here alone, and a server that is started with --adapter current answers with it"
            ) from None
        if response.status_code in (401, 403):
            raise UserError(
                f"the server {self.endpoint} lets nobody change its adapters without an admin key; start it with "
                "FOURFOLD_ADMIN_KEY set, and give the same key here (--admin-key, or FOURFOLD_ADMIN_KEY)"
            )
        return response


def _reason(response: httpx.Response) -> str:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text
    return f"{response.status_code} {' '.join(message.split())[:300]}"
