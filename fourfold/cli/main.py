"""The command `fourfold`: one file a verb in this package, put together here."""

import logging
import os
import sys

import typer

from fourfold.cli import concepts as concept_verbs
from fourfold.cli import eval as eval_verbs
from fourfold.cli import readouts as readout_verbs
from fourfold.cli import refine as refine_verbs
from fourfold.cli import tools as tool_verbs
from fourfold.cli import train as train_verbs
from fourfold.cli.chat import chat
from fourfold.cli.convert import convert
from fourfold.cli.decide import decide
from fourfold.cli.doctor import doctor
from fourfold.cli.serve import serve
from fourfold.cli.ui import ui
from fourfold.prompts.errors import UserError

app = typer.Typer(
    name="fourfold",
    help="A chat assistant that sees: chat about images, serve them, measure it, teach it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(chat)
app.command()(decide)
app.command()(serve)
app.command()(ui)
app.add_typer(eval_verbs.app, name="eval")
app.add_typer(train_verbs.app, name="train")
app.add_typer(refine_verbs.app, name="refine")
app.add_typer(concept_verbs.app, name="concepts")
app.add_typer(readout_verbs.app, name="readouts")
app.add_typer(tool_verbs.app, name="tools")
app.command()(convert)
app.command()(doctor)


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit code 2, an interrupt is exit code 130."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nobody needs
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except UserError as error:
        print(f"fourfold: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
