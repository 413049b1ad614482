"""What `fourfold serve` refuses before anything slow."""

import pytest
import typer
from typer.testing import CliRunner

from fourfold.cli.serve import serve
from fourfold.prompts.errors import UserError

app = typer.Typer()
app.command()(serve)


@pytest.mark.parametrize("options", [["--device", "cpu"], ["--memory"], ["--max-running", "2"]], ids=" ".join)
def test_options_of_the_local_engine_are_refused_for_vllm(options: list[str]) -> None:
    result = CliRunner().invoke(app, ["--engine", "vllm", *options])
    assert isinstance(result.exception, UserError)
    assert options[0] in str(result.exception)


def test_a_device_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(app, ["--device", "abacus"])
    assert result.exit_code == 2
    assert "abacus" in result.output
