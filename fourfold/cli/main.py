"""The command `fourfold`: one file a verb in this package, put together here."""

import contextlib
import logging
import os
import re
import sys

import typer

from fourfold.assistant.files import disk_error
from fourfold.cli import chat, decide, mcp, serve
from fourfold.cli import concepts as concept_verbs
from fourfold.cli import eval as eval_verbs
from fourfold.cli import readouts as readout_verbs
from fourfold.cli import refine as refine_verbs
from fourfold.cli import tools as tool_verbs
from fourfold.cli import train as train_verbs
from fourfold.cli.convert import convert
from fourfold.cli.doctor import doctor
from fourfold.cli.merge import merge
from fourfold.cli.push import push
from fourfold.cli.quantize import quantize
from fourfold.cli.ui import ui
from fourfold.prompts.errors import UserError

app = typer.Typer(
    name="fourfold",
    help="A chat assistant that sees: chat about images, serve them, measure it, teach it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=chat.EXAMPLES)(chat.chat)
app.command(epilog=decide.EXAMPLES)(decide.decide)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=mcp.EXAMPLES)(mcp.mcp)
app.command()(ui)
app.add_typer(eval_verbs.app, name="eval")
app.add_typer(train_verbs.app, name="train")
app.add_typer(refine_verbs.app, name="refine")
app.add_typer(concept_verbs.app, name="concepts")
app.add_typer(readout_verbs.app, name="readouts")
app.add_typer(tool_verbs.app, name="tools")
app.command()(convert)
app.command()(merge)
app.command()(quantize)
app.command()(push)
app.command()(doctor)


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit code 2, an interrupt is exit code 130."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nobody needs
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        print(f"fourfold: {error}", file=sys.stderr)
        code = 2
    except ModuleNotFoundError as error:
        from fourfold.assistant.extras import explain

        if (advice := explain(error)) is None:
            raise
        print(f"fourfold: {advice}", file=sys.stderr)
        code = 2
    except typer.TyperException as error:
        said = usage_error(error)
        if said:  # else the help was asked for by saying nothing, and has been printed
            print(f"fourfold: {said}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # who read the answer has left: `| head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if (full := disk_error(error)) is None:
            raise
        print(f"fourfold: {full}", file=sys.stderr)
        code = 2
    # Typer gives back what a command returned, or the code of an early exit.
    sys.exit(code if isinstance(code, int) else 0)


def usage_error(error: typer.TyperException) -> str:
    """What is wrong with the words of a command, in one line as our own errors are; "" where nothing is."""
    said = re.sub(
        r"Value error, |, unable to parse string as an? \w+|\.$", "", " ".join(error.format_message().split())
    )
    said = said.replace("Input should be", "it has to be")
    context = getattr(error, "ctx", None)
    if not said or type(error).__name__ == "NoArgsIsHelpError":
        return ""
    said = said[0].lower() + said[1:]
    return f"{said}; {context.command_path} --help shows what there is" if context else said
