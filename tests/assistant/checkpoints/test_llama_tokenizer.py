"""Prompt token ids of the release, against a table made by hand."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as spm
from transformers import AutoTokenizer, CLIPImageProcessorPil, PreTrainedTokenizerFast

from fourfold.assistant.checkpoints.original.llama_tokenizer import release_tokenizer
from fourfold.assistant.model import MiniGPTv2Processor
from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints.release_files import pieces, write_tokenizer

BOS, EOS = 1, 2
# Written out by hand; the tests below say which words stand where.
INST_OPEN = ["▁[", "INST", "]"]
INST_CLOSE = ["▁[", "/", "INST", "]"]
IMG_OPEN = ["▁<", "Img", ">"]
IMG_CLOSE = ["▁</", "Img", ">"]


def ids(*words: str) -> list[int]:
    return [pieces().index(word) for word in words]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(model_file: Path) -> PreTrainedTokenizerFast:
    return release_tokenizer(model_file, len(pieces()))


@pytest.fixture(scope="module")
def sentences(model_file: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(model_file))


def prompt_ids(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], form: str, **options: Any
) -> list[int]:
    processor = MiniGPTv2Processor(
        image_processor=CLIPImageProcessorPil(),
        tokenizer=tokenizer,
        num_image_tokens=2,
        chat_template=load_template(form),
    )
    text = processor.apply_chat_template(messages, tokenize=False, **options)
    return tokenizer.encode(text, add_special_tokens=False)


def user(*parts: str) -> dict[str, Any]:
    content = [{"type": "image"} if part == "IMAGE" else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


IMAGE_ID = len(pieces())
ONE_TURN = [user("IMAGE", "what is it?")]
WHAT_IS_IT = ["▁w", "h", "at", "▁is", "▁it", "?"]
THREE_TURNS = [*ONE_TURN, assistant("a dog"), user("yes"), assistant("it is"), user("vqa")]
TWO_IMAGES = [user("IMAGE", "IMAGE", "a cat")]


@pytest.mark.parametrize("double_bos", [True, False])
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            ONE_TURN,
            [BOS, *ids(*INST_OPEN, *IMG_OPEN), IMAGE_ID, *ids(*IMG_CLOSE, *WHAT_IS_IT, *INST_CLOSE)],
        ),
        (
            THREE_TURNS,
            [
                BOS,
                *ids(*INST_OPEN, *IMG_OPEN),
                IMAGE_ID,
                *ids(*IMG_CLOSE, *WHAT_IS_IT, *INST_CLOSE, "▁a", "▁dog"),
                EOS,
                BOS,
                *ids(*INST_OPEN, "▁yes", *INST_CLOSE, "▁it", "▁is"),
                EOS,
                BOS,
                *ids(*INST_OPEN, "▁", "vqa", *INST_CLOSE),
            ],
        ),
        (
            TWO_IMAGES,
            [
                BOS,
                *ids(*INST_OPEN, *IMG_OPEN),
                IMAGE_ID,
                *ids(*IMG_CLOSE, *IMG_OPEN),
                IMAGE_ID,
                *ids(*IMG_CLOSE, "▁a", "▁cat", *INST_CLOSE),
            ],
        ),
    ],
    ids=["one turn", "three turns", "two images"],
)
def test_inference_ids(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], expected: list[int], double_bos: bool
) -> None:
    found = prompt_ids(tokenizer, messages, "minigpt_v2", add_generation_prompt=True, double_bos=double_bos)
    assert found == ([BOS] if double_bos else []) + expected


def test_training_ids_have_two_spaces_and_one_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [user("IMAGE", "a cat"), assistant("yes"), user("yes"), assistant("a dog")]
    close = ["▁▁", "[", "/", "INST", "]"]  # two spaces are a token, as in Llama-2, and leave none to the bracket
    assert prompt_ids(tokenizer, messages, "minigpt_v2_train") == [
        BOS,
        *ids(*INST_OPEN, *IMG_OPEN),
        IMAGE_ID,
        *ids(*IMG_CLOSE, "▁a", "▁cat", *close, "▁yes"),
        EOS,
        BOS,
        *ids(*INST_OPEN, "▁yes", *close, "▁a", "▁dog"),
        EOS,
    ]


def test_ids_are_those_of_the_release_s_own_procedure(
    tokenizer: PreTrainedTokenizerFast, sentences: SentencePieceProcessor
) -> None:
    """Cut at `<ImageHere>`, give each piece to sentencepiece, `<s>` first of all and wherever it is written."""
    text = "<s>[INST] <Img><ImageHere></Img> what is it? [/INST]"
    before, after = text.split("<ImageHere>")
    first = [BOS, BOS, *sentences.encode(before.removeprefix("<s>"))]
    assert [*first, IMAGE_ID, *sentences.encode(after)] == tokenizer.encode("<s>" + text, add_special_tokens=False)


def test_todays_default_gives_other_ids(model_file: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Why the tokenizer is built here: transformers' own puts no space after a special token."""
    from transformers import LlamaTokenizer

    plain = LlamaTokenizer(vocab=tokenizer.get_vocab(), merges=[])
    assert plain.encode("<s>]", add_special_tokens=False) != tokenizer.encode("<s>]", add_special_tokens=False)


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        st.one_of(st.sampled_from("aehiostvwy INSTdogcat[]<>/{}0123456789"), st.characters(exclude_categories=["Cs"])),
        max_size=40,
    ).filter(lambda text: not any(mark in text for mark in ("<s>", "</s>", "<unk>", "▁", "\0")))
)
def test_any_text_is_tokenised_as_by_sentencepiece(
    tokenizer: PreTrainedTokenizerFast, sentences: SentencePieceProcessor, text: str
) -> None:
    found = tokenizer.encode(text, add_special_tokens=False)
    assert found == sentences.encode(text)
    assert tokenizer.decode(found) == text


def test_special_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 2, 0)
    assert loaded.padding_side == "left"
    assert loaded.convert_tokens_to_ids("<ImageHere>") == IMAGE_ID
    assert loaded.decode([BOS, *ids("▁a", "▁dog"), EOS, 0], skip_special_tokens=True) == "a dog"
    text = "<s>[INST] <Img><ImageHere></Img> yes"
    assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)


def change(model_file: Path, tmp_path: Path, edit: Any) -> Path:
    proto = spm.ModelProto()
    proto.ParseFromString(model_file.read_bytes())
    edit(proto)
    changed = tmp_path / "tokenizer.model"
    changed.write_bytes(proto.SerializeToString())
    return changed


@pytest.mark.parametrize(
    "edit",
    [
        lambda proto: setattr(proto.trainer_spec, "model_type", spm.TrainerSpec.UNIGRAM),
        lambda proto: setattr(proto.normalizer_spec, "add_dummy_prefix", False),
        lambda proto: setattr(proto.normalizer_spec, "remove_extra_whitespaces", True),
        lambda proto: proto.pieces.__delitem__(5),
        lambda proto: proto.pieces[1].CopyFrom(proto.pieces[300]),
    ],
    ids=["unigram", "no prefix", "squeezes spaces", "a byte is missing", "no bos"],
)
def test_other_kinds_of_tokenizer_are_refused(model_file: Path, tmp_path: Path, edit: Any) -> None:
    with pytest.raises(UserError, match="not a tokenizer of Llama-2's kind"):
        release_tokenizer(change(model_file, tmp_path, edit), len(pieces()))


def test_other_files_are_refused(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing; it comes with Llama-2-7b-chat-hf"):
        release_tokenizer(tmp_path / "tokenizer.model", 10)
    with pytest.raises(UserError, match="tokens, the language model 10"):
        release_tokenizer(model_file, 10)
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"\xff\xff not protobuf")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        release_tokenizer(broken, 10)
