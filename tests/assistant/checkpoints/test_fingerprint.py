import json
from pathlib import Path

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from tests.tiny import tiny_model, tiny_processor


def test_it_is_of_content_without_the_story(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = model_fingerprint(tmp_path)
    (tmp_path / "bridge.json").write_text('{"date": "today"}')
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "calibration.json").write_text("{}")
    (tmp_path / "readouts.safetensors").write_bytes(b"read-outs")
    assert model_fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert model_fingerprint(tmp_path) != before


def test_the_code_beside_the_weights_makes_no_other_model(tmp_path: Path) -> None:
    """What was learnt for a checkpoint stays with it when it is written again with code that loads it elsewhere."""
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with_code = model_fingerprint(tmp_path)
    for path in tmp_path.glob("*.json"):
        told = json.loads(path.read_text())
        for settings in (told, told.get("image_processor", {})):
            settings.pop("auto_map", None)
        if path.name != "tokenizer.json":
            path.write_text(json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    for path in tmp_path.glob("*.py"):
        path.unlink()
    assert "auto_map" not in "".join(path.read_text() for path in tmp_path.glob("*.json"))
    assert model_fingerprint(tmp_path) == with_code


def test_the_name_of_a_file_counts_and_its_directory_does_not(tmp_path: Path) -> None:
    for name, file in (("a", "config.json"), ("b", "config.json"), ("c", "other.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    prints = [model_fingerprint(tmp_path / name) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]
