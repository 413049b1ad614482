"""`fourfold push`: a checkpoint to the Hugging Face Hub, with its model card."""

from typing import Annotated

import typer

from fourfold.prompts.errors import UserError


def push(
    model: Annotated[str, typer.Argument(metavar="DIR", help="A checkpoint directory, or fourfold-mini.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="On the Hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="For you alone, if the repository is new.")] = False,
    license: Annotated[
        str, typer.Option(metavar="NAME", help="As the Hub calls it; other: its parts have different ones.")
    ] = "other",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the model card, list the files, send nothing.")
    ] = False,
) -> None:
    """Push a checkpoint to the Hugging Face Hub, its model card made from what was recorded in training."""
    from fourfold.assistant.checkpoints.hub.download import is_hub_name
    from fourfold.assistant.checkpoints.hub.model_card import model_card
    from fourfold.assistant.checkpoints.hub.push import push as send
    from fourfold.assistant.checkpoints.hub.push import pushed_files
    from fourfold.assistant.checkpoints.resolve import resolve_model

    if not is_hub_name(repository) or "@" in repository:
        raise UserError(f"{repository!r} is no name on the Hub: give ORG/NAME, such as me/my-model")
    directory = resolve_model(model)
    card = model_card(directory, repository, license=license)
    if dry_run:
        print(card)
        for path in pushed_files(directory):
            typer.echo(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", err=True)
        return
    print(send(directory, repository, card, private=private))
