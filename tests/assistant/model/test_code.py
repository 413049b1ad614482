"""The code that goes with every checkpoint: it is this package's own, and needs nothing of it."""

import ast
import json
from pathlib import Path

import fourfold.assistant.model as package
from fourfold.assistant.model import MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from tests.tiny import tiny_config

FOLDER = Path(package.__file__).parent
CODE = ("configuration_minigpt_v2.py", "modeling_minigpt_v2.py", "processing_minigpt_v2.py")


def test_it_imports_torch_and_transformers_and_itself() -> None:
    """`make test-standalone` runs it without fourfold; this says so at once."""
    for name in CODE:
        for node in ast.walk(ast.parse((FOLDER / name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in CODE, f"{name} imports {node.module}"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                tops = {str(module).partition(".")[0] for module in modules}
                assert tops <= {"math", "torch", "transformers", "typing"}, f"{name} imports {tops}"


def test_every_way_of_saving_takes_it_along(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert {path.name for path in tiny_checkpoint.glob("*.py")} == set(CODE)
    for name in CODE:
        assert (tiny_checkpoint / name).read_text() == (FOLDER / name).read_text()
    tiny_config().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": f"configuration_minigpt_v2.{MiniGPTv2Config.__name__}",
        "AutoModel": f"modeling_minigpt_v2.{package.MiniGPTv2Model.__name__}",
        "AutoModelForImageTextToText": f"modeling_minigpt_v2.{MiniGPTv2ForConditionalGeneration.__name__}",
        "AutoProcessor": f"processing_minigpt_v2.{MiniGPTv2Processor.__name__}",
    }
