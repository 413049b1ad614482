"""The language model and its tokenizer, read from GGUF."""

from pathlib import Path

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from fourfold.assistant.checkpoints.llama_gguf import GGUFFile
from fourfold.assistant.checkpoints.weights import LANGUAGE_MODEL, fetch
from fourfold.assistant.progress import progress_bar
from tests.assistant.checkpoints.tiny_weights import CONTROL, MERGES, reference_ids, tiny_llama, tokens_of, write_gguf

RENAMED = {"<empty_output>": "<ImageHere>"}
TEXTS = [
    "hello the tin hello1212 12 a  the\n\tthe  in",
    "I've 1234 cats, don't I? It's ½ of ²₂ and ٣٤",
    "Überraschung! 日本語 🦜🦜 naïve\r\n  trailing  ",
    "<|im_start|>user\nwhat is {<10><20><99><100>}?<|im_end|>\n<|im_start|>assistant\n",
    "<p>a dog</p> <|im_end|><|im_end|> <|im_startx|>",
    "",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny_llama())
    return path


@pytest.fixture(scope="module")
def tokenizer(written: Path) -> PreTrainedTokenizerFast:
    return GGUFFile(written).tokenizer(RENAMED)


def test_the_model_computes_what_it_did_before_it_was_written(written: Path) -> None:
    file = GGUFFile(written)
    read = LlamaModel(file.config()).eval()
    read.load_state_dict(file.weights(), strict=True)
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        expected = tiny_llama().model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(read(input_ids=ids).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_sizes_are_those_that_were_written(written: Path) -> None:
    read, original = GGUFFile(written).config(), tiny_llama().config
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    ):
        assert getattr(read, name) == getattr(original, name), name
    assert read.rope_parameters["rope_theta"] == original.rope_parameters["rope_theta"]


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0])
def test_quantised_weights_are_off_by_half_a_step_at_most(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    original = tiny_llama()
    write_gguf(tmp_path / "q.gguf", original, quantized=kind)
    read = GGUFFile(tmp_path / "q.gguf").weights()
    for key, tensor in original.model.state_dict().items():
        if tensor.ndim == 1:
            assert torch.equal(read[key], tensor), key
            continue
        blocks, found = tensor.reshape(-1, 32), read[key].reshape(-1, 32)  # 32 neighbours share a scale
        if kind == gguf.GGMLQuantizationType.Q4_1:
            step = (blocks.amax(1) - blocks.amin(1)) / 15
        else:
            step = blocks.abs().amax(1) / 127
        assert ((blocks - found).abs().amax(1) <= step * 0.52 + 1e-3).all(), key
        assert not torch.equal(blocks, found)


@pytest.mark.parametrize("text", TEXTS)
def test_token_ids_follow_the_files_rules(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer(text).input_ids == reference_ids(tokens_of(), MERGES, CONTROL, text)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_has_the_ids_of_the_rules_and_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids == reference_ids(tokens_of(), MERGES, CONTROL, text)
    assert tokenizer.decode(ids) == text


def test_digits_stand_alone_even_where_a_merge_would_join_them(tokenizer: PreTrainedTokenizerFast) -> None:
    assert "12" in tokenizer.get_vocab()
    assert tokenizer.tokenize("12") == ["1", "2"]


def test_the_placeholder_takes_the_spare_tokens_id(tokenizer: PreTrainedTokenizerFast) -> None:
    spare = CONTROL.index("<empty_output>")
    assert tokenizer("<ImageHere>").input_ids == [spare]
    assert len(tokenizer) == len(tokens_of()), "the vocabulary must not grow"
    assert spare not in tokenizer("<empty_output>").input_ids
    assert tokenizer.decode([spare], skip_special_tokens=True) == ""


def test_roles_of_control_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id, "a hidden end of turn is never learnt"
    assert tokenizer.padding_side == "left"
    assert tokenizer("the").input_ids == tokenizer("the", add_special_tokens=False).input_ids, "templates bring BOS"


def test_the_tokenizer_survives_saving(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "<ImageHere>"]:
        assert again(text).input_ids == tokenizer(text).input_ids


def test_a_token_to_rename_must_be_a_control_token(written: Path) -> None:
    for name in ("hello", "<nonesuch>"):
        with pytest.raises(ValueError, match=name):
            GGUFFile(written).tokenizer({name: "<ImageHere>"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "qwen2"}, "not a LLaMA"),
        ({"pre": "llama-bpe"}, "not SmolLM"),
        ({"extra": "output.weight"}, "output.weight"),
        ({"extra": "blk.0.attn_q.bias"}, "attn_q.bias"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    path = tmp_path / "other.gguf"
    write_gguf(path, tiny_llama(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        file = GGUFFile(path)
        file.weights()
        file.tokenizer({})


@pytest.fixture(scope="module")
def real() -> GGUFFile:
    with progress_bar() as tell:
        return GGUFFile(fetch(LANGUAGE_MODEL, tell))


@pytest.mark.mini
def test_the_real_model_is_what_transformers_reads_and_knows_paris(real: GGUFFile) -> None:
    from transformers import GgufConfig

    path = LANGUAGE_MODEL.path
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    weights = real.weights()
    expected = theirs.model.state_dict()
    assert set(weights) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(weights[key], tensor), key
    model = LlamaForCausalLM(real.config()).eval()
    model.model.load_state_dict(weights, strict=True)
    tokenizer = real.tokenizer(RENAMED)
    with torch.no_grad():
        best = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"


@pytest.mark.mini
@pytest.mark.parametrize("text", TEXTS)
def test_the_real_tokenizer_follows_the_files_rules(real: GGUFFile, text: str) -> None:
    tokens, merges = real._value("tokenizer.ggml.tokens"), real._value("tokenizer.ggml.merges")
    assert real.tokenizer(RENAMED)(text).input_ids == reference_ids(tokens, merges, tokens[:16], text)


@pytest.mark.mini
def test_the_spare_token_was_never_trained(real: GGUFFile) -> None:
    """Tokens that no text ever held keep one and the same embedding, up to what 8 bits round away."""
    embeddings = real.weights()["embed_tokens.weight"]
    tokens = real._value("tokenizer.ggml.tokens")
    spare, neighbour = tokens.index("<empty_output>"), tokens.index("<jupyter_script>")
    assert (embeddings[spare] - embeddings[neighbour]).abs().max() < 0.01
    assert (embeddings[spare] - embeddings[tokens.index("<|endoftext|>")]).abs().max() > 1
