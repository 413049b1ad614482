"""Files that were made to harm whoever opens them: each is refused in a sentence, quickly, and nothing of it is run."""

import io
import json
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from fourfold.assistant.checkpoints.check import check_checkpoint
from fourfold.assistant.checkpoints.clip_onnx import read_clip_vision
from fourfold.assistant.checkpoints.llama_gguf import GGUFFile
from fourfold.assistant.checkpoints.lora import merge_lora
from fourfold.assistant.checkpoints.original.parts import open_release
from fourfold.assistant.checkpoints.original.tensor_files import open_directory, open_pickled
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints import tiny_weights
from tests.assistant.checkpoints.release_files import IMAGE_SIZE, Release, make_release


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 10


def refused(read: Callable[[], object], sentence: str = "") -> str:
    with pytest.raises(UserError, match=sentence) as raised:
        read()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000
    return str(raised.value)


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


class TestPickles:
    @pytest.fixture
    def sound(self, tmp_path: Path) -> Path:
        path = tmp_path / "sound.pth"
        torch.save({"model": {"a": torch.ones(2, 3)}, "epoch": 1}, path)
        return path

    @pytest.mark.parametrize("old", [False, True])
    def test_code_is_not_run(self, tmp_path: Path, old: bool) -> None:
        path, ran = tmp_path / "code.pth", tmp_path / "ran"
        torch.save({"model": {"a": torch.ones(2)}, "x": Code(ran)}, path, _use_new_zipfile_serialization=not old)
        refused(lambda: open_pickled("it", path), "Python objects besides tensors")
        path.write_bytes(pickle.dumps(Code(ran)))
        refused(lambda: open_pickled("it", path))
        assert not ran.exists()

    def test_packed_a_thousand_times(self, tmp_path: Path, sound: Path) -> None:
        path = tmp_path / "bomb.pth"
        with zipfile.ZipFile(sound) as good, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bad:
            for member in good.infolist():
                content = b"\0" * 10**7 if member.filename.endswith("/data/0") else good.read(member)
                bad.writestr(member.filename, content)
        assert path.stat().st_size < 10**5
        refused(lambda: open_pickled("it", path), "was packed once more")

    def test_a_member_that_claims_to_be_larger_than_the_file(self, tmp_path: Path, sound: Path) -> None:
        data = bytearray(sound.read_bytes())
        place = data.rindex(b"PK\x01\x02")  # the last entry of the directory at the end
        data[place + 24 : place + 28] = struct.pack("<I", 2**32 - 2)
        path = tmp_path / "claims.pth"
        path.write_bytes(data)
        refused(lambda: open_pickled("it", path))

    @pytest.mark.parametrize(
        "instead", [b"", b"\x80\x02.", b"\x80\x02N.", b"\x80\x02]q\x00.", b"cos\nsystem\n(S'true'\ntR."]
    )
    def test_another_pickle_inside(self, tmp_path: Path, sound: Path, instead: bytes) -> None:
        path = tmp_path / "odd.pth"
        with zipfile.ZipFile(sound) as good, zipfile.ZipFile(path, "w") as bad:
            for member in good.infolist():
                bad.writestr(member.filename, instead if member.filename.endswith("data.pkl") else good.read(member))
        refused(lambda: open_pickled("it", path))

    def test_a_storage_of_more_than_it_has(self, tmp_path: Path, sound: Path) -> None:
        """A tensor whose numbers would lie behind the end of the file, where reading it would end the process."""
        path = tmp_path / "short.pth"
        torch.save({"a": torch.ones(100, 300)}, sound)
        with zipfile.ZipFile(sound) as good, zipfile.ZipFile(path, "w") as bad:
            for member in good.infolist():
                bad.writestr(member.filename, b"" if member.filename.endswith("/data/0") else good.read(member))
        refused(lambda: open_pickled("it", path)[0].read("a").sum())


class TestIndexes:
    @pytest.mark.parametrize(
        "index",
        [
            "null",
            "[]",
            '{"weight_map": 1}',
            '{"weight_map": {"a": null}}',
            '{"weight_map": {"a": ["x"], "b": "y"}}',
            '{"weight_map": {"a": "../../../etc/passwd"}}',
            '{"weight_map": {"a": "/etc/passwd"}}',
            '{"weight_map": {"a": "x\\u0000y"}}',
            '{"weight_map": {"a": "' + "x" * 5000 + '"}}',
            "[" * 100_000,
        ],
    )
    def test_an_index_that_names_no_shards(self, tmp_path: Path, index: str) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(index)
        refused(lambda: open_directory("it", tmp_path), "not an index of shards")


class TestRelease:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> Release:
        return make_release(tmp_path_factory.mktemp("release")).write()

    @pytest.mark.parametrize(
        "change",
        [
            {"num_hidden_layers": 10**9},
            {"num_hidden_layers": -1},
            {"hidden_size": 2**40},
            {"vocab_size": "many"},
            {"num_attention_heads": 0},
            {"intermediate_size": 1.5},
            {"rope_scaling": [1]},
            {"rope_parameters": 5},
            {"hidden_act": "no such thing"},
            {"torch_dtype": {"a": 1}},
            {"torch_dtype": 5},
            {"max_position_embeddings": 10**400},
            {"head_dim": True},
        ],
    )
    def test_a_configuration_of_no_llama(self, whole: Release, tmp_path: Path, change: dict[str, Any]) -> None:
        llama = tmp_path / "llama"
        shutil.copytree(whole.llama_path, llama)
        (llama / "config.json").write_text(json.dumps({**whole.llama_config, **change}))
        try:
            open_release(whole.checkpoint_path, llama, whole.vision_path, IMAGE_SIZE).plan(merge=True)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert "torch_dtype" in change or "rope" in next(iter(change))  # which may be passed over

    @pytest.mark.parametrize("alpha", ["x", None, [], float("nan"), 0, -1, True])
    def test_a_scale_that_is_no_number(self, whole: Release, tmp_path: Path, alpha: Any) -> None:
        path = tmp_path / "checkpoint.pth"
        settings = {**whole.trained["config"]["model"], "lora_alpha": alpha}
        torch.save({**whole.trained, "config": {"model": settings}}, path)
        release = open_release(path, whole.llama_path, whole.vision_path, IMAGE_SIZE)
        refused(lambda: release.scale, "lora_alpha")

    @pytest.mark.parametrize("cut", [0, 1, 50, 2000, -1])
    def test_a_tokenizer_cut_off(self, whole: Release, tmp_path: Path, cut: int) -> None:
        llama = tmp_path / "llama"
        shutil.copytree(whole.llama_path, llama)
        (llama / "tokenizer.model").write_bytes((whole.llama_path / "tokenizer.model").read_bytes()[:cut])
        refused(lambda: open_release(whole.checkpoint_path, llama, whole.vision_path, IMAGE_SIZE))


class TestGGUF:
    @pytest.fixture(scope="class")
    def sound(self, tmp_path_factory: pytest.TempPathFactory) -> bytes:
        path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
        tiny_weights.write_gguf(path, tiny_weights.tiny_llama())
        return path.read_bytes()

    @pytest.mark.parametrize("field", ["tensors", "values"])
    @pytest.mark.parametrize("count", [2**63, 2**40, 2**32 - 1])
    def test_counts_beyond_the_file(self, sound: bytes, tmp_path: Path, field: str, count: int) -> None:
        place = {"tensors": 8, "values": 16}[field]
        (tmp_path / "x.gguf").write_bytes(sound[:place] + struct.pack("<Q", count) + sound[place + 8 :])
        refused(lambda: GGUFFile(tmp_path / "x.gguf"), "damaged or incomplete")

    @pytest.mark.parametrize("length", [2**63, 2**40, 2**31])
    def test_a_string_and_a_list_beyond_the_file(self, sound: bytes, tmp_path: Path, length: int) -> None:
        (tmp_path / "x.gguf").write_bytes(sound[:24] + struct.pack("<Q", length) + sound[32:])
        refused(lambda: GGUFFile(tmp_path / "x.gguf"))
        place = sound.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
        (tmp_path / "x.gguf").write_bytes(sound[:place] + struct.pack("<Q", length) + sound[place + 8 :])
        refused(lambda: GGUFFile(tmp_path / "x.gguf"))

    def test_cut_off_anywhere(self, sound: bytes, tmp_path: Path) -> None:
        for end in (0, 3, 4, 10, 23, 24, 40, 500, 4000, len(sound) // 2, len(sound) - 5):
            (tmp_path / "x.gguf").write_bytes(sound[:end])
            refused(lambda: GGUFFile(tmp_path / "x.gguf").weights())

    def test_sizes_of_no_model(self, tmp_path: Path) -> None:
        model = tiny_weights.tiny_llama()
        model.config.max_position_embeddings = 2**31
        tiny_weights.write_gguf(tmp_path / "x.gguf", model)
        refused(lambda: GGUFFile(tmp_path / "x.gguf").config(), "max_position_embeddings")

    def test_tokens_that_are_not_there(self, tmp_path: Path) -> None:
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
        writer.add_string("tokenizer.ggml.model", "gpt2")
        writer.add_string("tokenizer.ggml.pre", "smollm")
        writer.add_array("tokenizer.ggml.tokens", ["a"])
        writer.add_array("tokenizer.ggml.token_type", [3, 3, 3])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        refused(lambda: GGUFFile(tmp_path / "x.gguf").tokenizer({}), "damaged or incomplete")


class TestONNX:
    @pytest.mark.parametrize("place", ["../../secret", "/etc/passwd", "secret"])
    def test_numbers_in_another_file_are_not_read(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "secret").write_bytes(b"\0" * 4096)
        tensor = TensorProto(name="vision_model.embeddings.class_embedding", data_type=TensorProto.FLOAT, dims=[8])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        graph = helper.make_graph([], "tower", [], [], initializer=[tensor])
        path = tmp_path / "x.onnx"
        path.write_bytes(helper.make_model(graph).SerializeToString())
        refused(lambda: read_clip_vision(path), "lies in another file, which is not read")

    def test_a_tensor_of_more_than_it_has(self, tmp_path: Path) -> None:
        tensor = numpy_helper.from_array(torch.ones(4).numpy(), "vision_model.a")
        tensor.dims[:] = [2**40]
        onnx.save(helper.make_model(helper.make_graph([], "tower", [], [], initializer=[tensor])), tmp_path / "x.onnx")
        refused(lambda: read_clip_vision(tmp_path / "x.onnx"), "damaged or incomplete")

    @pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x08\x08", b"\x3a\xff\xff\xff\xff\x0f", b"x" * 9])
    def test_no_graph_at_all(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.onnx").write_bytes(content)
        refused(lambda: read_clip_vision(tmp_path / "x.onnx"))


class TestCheckpoints:
    @pytest.fixture
    def copy(self, tiny_checkpoint: Path, tmp_path: Path) -> Path:
        shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
        return tmp_path / "checkpoint"

    @pytest.mark.parametrize(
        "head",
        [
            struct.pack("<Q", 2**63),
            struct.pack("<Q", 2**64 - 1),
            struct.pack("<Q", 100_000_001) + b" " * 1000,
            struct.pack("<Q", 2) + b"[]",
            struct.pack("<Q", 4) + b"null",
            struct.pack("<Q", 100_000) + b"[" * 100_000,
            b"",
            b"\x01",
        ],
    )
    def test_weights_with_another_head(self, copy: Path, head: bytes) -> None:
        (copy / "model.safetensors").write_bytes(head)
        refused(lambda: check_checkpoint(copy), "cut off or damaged")

    @pytest.mark.parametrize("shape", [[2**62, 8], [-1], ["x"], None, "ab"])
    def test_tensors_with_another_shape(self, copy: Path, shape: Any) -> None:
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
        (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
        refused(lambda: check_checkpoint(copy))

    @pytest.mark.parametrize(
        ("part", "name", "value"),
        [
            ("text_config", "num_hidden_layers", 10**9),
            ("text_config", "num_hidden_layers", 3),
            ("text_config", "hidden_size", 2**17),
            ("text_config", "intermediate_size", 2**16),
            ("text_config", "vocab_size", 2**20),
            ("text_config", "vocab_size", 0),
            ("text_config", "num_attention_heads", "4"),
            ("text_config", "max_position_embeddings", 10**12),
            ("vision_config", "image_size", 10**9),
            ("vision_config", "num_hidden_layers", 10**6),
            ("vision_config", "patch_size", -16),
            (None, "fold", 10**30),
            (None, "text_config", None),
            (None, "vision_config", []),
        ],
    )
    def test_a_configuration_that_asks_for_more_than_there_is(
        self, copy: Path, part: str | None, name: str, value: Any
    ) -> None:
        config = json.loads((copy / "config.json").read_text())
        (config if part is None else config[part])[name] = value
        (copy / "config.json").write_text(json.dumps(config))
        refused(lambda: check_checkpoint(copy), r"config\.json")


class TestAdapters:
    @pytest.fixture
    def language(self) -> dict[str, torch.Tensor]:
        return {"layers.0.self_attn.q_proj.weight": torch.zeros(8, 8)}

    def write(self, directory: Path, config: Any, tensors: dict[str, torch.Tensor] | None = None) -> Path:
        text = config if isinstance(config, str) else json.dumps(config)
        (directory / "adapter_config.json").write_text(text)
        name = "base_model.model.layers.0.self_attn.q_proj.lora_{}.weight"
        sound = {name.format("A"): torch.ones(2, 8), name.format("B"): torch.ones(8, 2)}
        save_file(sound if tensors is None else tensors, directory / "adapter_model.safetensors")
        return directory

    def test_a_sound_one(self, tmp_path: Path, language: dict[str, torch.Tensor]) -> None:
        merged = merge_lora(language, self.write(tmp_path, {"r": 2, "lora_alpha": 4}))
        assert torch.equal(next(iter(merged.values())), torch.full((8, 8), 4.0))

    @pytest.mark.parametrize(
        "config",
        [
            *("", "{", "[]", "null", '"x"', "[" * 100_000, {}, {"r": 0, "lora_alpha": 1}, {"r": 2}),
            *({"r": "2", "lora_alpha": 1}, {"r": 2, "lora_alpha": "x"}, {"r": 2, "lora_alpha": float("inf")}),
            *({"r": True, "lora_alpha": 1}, {"r": 10**30, "lora_alpha": 1}, {"r": 2, "lora_alpha": 10**400}),
        ],
    )
    def test_a_configuration_of_nothing(self, tmp_path: Path, language: dict[str, torch.Tensor], config: Any) -> None:
        refused(lambda: merge_lora(language, self.write(tmp_path, config)))

    def test_numbers_instead_of_matrices(self, tmp_path: Path, language: dict[str, torch.Tensor]) -> None:
        name = "layers.0.self_attn.q_proj.lora_{}.weight"
        for side in (torch.tensor(1.0), torch.ones(8), torch.ones(2, 2, 2)):
            tensors = {name.format("A"): side.clone(), name.format("B"): side.clone()}
            adapter = self.write(tmp_path, {"r": 2, "lora_alpha": 1}, tensors)
            refused(lambda adapter=adapter: merge_lora(language, adapter), "no two matrices")  # type: ignore[misc]

    def test_weights_that_are_no_file_of_weights(self, tmp_path: Path, language: dict[str, torch.Tensor]) -> None:
        self.write(tmp_path, {"r": 2, "lora_alpha": 1})
        for content in (b"", b"x", struct.pack("<Q", 2**63), io.BytesIO(b"PK\x03\x04").getvalue()):
            (tmp_path / "adapter_model.safetensors").write_bytes(content)
            refused(lambda: merge_lora(language, tmp_path), "damaged or incomplete")
