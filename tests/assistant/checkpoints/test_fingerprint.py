from pathlib import Path

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint


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


def test_the_name_of_a_file_counts_and_its_directory_does_not(tmp_path: Path) -> None:
    for name, file in (("a", "config.json"), ("b", "config.json"), ("c", "other.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    prints = [model_fingerprint(tmp_path / name) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]
