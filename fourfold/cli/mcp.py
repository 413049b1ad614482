"""`fourfold mcp`: eyes for agents, by the Model Context Protocol on standard input and output."""

from pathlib import Path
from typing import Annotated

import typer

from fourfold.assistant.extras import require
from fourfold.cli.options import DeviceName, DeviceOption, ModelOption, QuantizationOption, examples
from fourfold.cli.refined import NoEyesOption, StoreOption, check_refined
from fourfold.prompts.errors import UserError

EXAMPLES = examples(
    "fourfold mcp",
    "fourfold mcp --root ~/Pictures --root ~/project",
    "fourfold mcp --endpoint http://127.0.0.1:8000/v1",
)


def mcp(
    root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Pictures below may be looked at; may be given often. Default: this folder."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask a running server, in place of a model in this process.")
    ] = None,
    served_model: Annotated[
        str, typer.Option(metavar="NAME", help="Which of the server's models; default: the first that has eyes.")
    ] = "",
    api_key: Annotated[
        str, typer.Option(metavar="KEY", envvar="FOURFOLD_API_KEY", help="For the server.", show_default=False)
    ] = "none",
    model: ModelOption = None,
    quantization: QuantizationOption = None,
    device: DeviceOption = DeviceName.AUTO,
    store: StoreOption = None,
    no_eyes: NoEyesOption = False,
) -> None:
    """Let agents look at pictures: an MCP server with the tools look, find, count, read_text and decide.

    An agent starts it and speaks with it; nothing is fetched from the network. docs/mcp.md has the lines of agents'
    configuration.
    """
    require("mcp", "fourfold mcp")
    if endpoint is None and served_model:
        raise UserError("--served-model is a server's; a checkpoint is named by --model")
    if endpoint is not None and (model or quantization or store or no_eyes or device is not DeviceName.AUTO):
        raise UserError("--endpoint has a model of its own; leave the options of a local one out")
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise UserError(f"--endpoint {endpoint}: give an address such as http://127.0.0.1:8000/v1")
    check_refined(None, None, False, store, eyes=not no_eyes)

    from fourfold.serving.mcp import Answerer, Endpoint, Pictures, create_server, local_model

    pictures = Pictures.below(root or [Path()])
    answerer: Answerer
    if endpoint is not None:
        answerer = Endpoint(endpoint, served_model, api_key)
    else:
        answerer = local_model(
            model, quantization.value if quantization else None, device.value, store, eyes=not no_eyes
        )
    create_server(answerer, pictures).run("stdio")
