"""One benchmark in every form that its data comes in: the same score, and the same pictures sent."""

import base64
import json
from pathlib import Path

import pytest

from fourfold.eval.benchmarks import Options, benchmark_named
from fourfold.eval.data.locate import locate
from fourfold.eval.data.official import stored_pictures
from fourfold.eval.data.table import open_table, picture_at
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.model import EngineModel
from fourfold.eval.report.render import shown_picture
from fourfold.eval.score import score_files
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
from fourfold.prompts.errors import UserError
from tests.eval.benchmarks.tables import picture, write_tsv
from tests.eval.data.forms import FORMS, Form, write_forms
from tests.eval.scripted import Script, endpoint


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.benchmark)
def test_every_form_gives_the_same_score_to_the_last_digit(form: Form, shared_data: Path, tmp_path: Path) -> None:
    written = write_forms(form, shared_data, tmp_path)

    def scored(path: Path, split: str | None = None) -> dict[str, object]:
        result = score_files(form.benchmark, written.predictions, path, options=Options(split=split)).to_json()
        return {name: value for name, value in result.items() if name != "files"}

    official = scored(written.official)
    assert 0 < official["value"] < 100 and official["standard_error"]
    if form.benchmark != "refcoco":  # all forms of the others name each right answer
        assert official["missing"] == 0
    assert scored(written.parquet, "test") == official
    assert scored(written.arrow) == official
    if written.tsv is not None:  # whose copies leave the kinds of questions out, and so the sub-scores by kind
        headline = ("value", "standard_error", "low", "high", "n", "clusters")
        assert [scored(written.tsv)[name] for name in headline] == [official[name] for name in headline]


def test_the_pictures_of_a_table_reach_the_endpoint_as_they_are(shared_data: Path, tmp_path: Path) -> None:
    form = next(one for one in FORMS if one.benchmark == "pope")
    written = write_forms(form, shared_data, tmp_path)

    def sent(script: Script) -> set[bytes]:
        urls = [body["messages"][0]["content"][0]["image_url"]["url"] for body in script.bodies]
        return {base64.b64decode(url.partition(",")[2]) for url in urls}

    scores = []
    sources = ((written.official, None), (written.parquet, "test"), (written.arrow, None), (written.tsv, None))
    for number, (path, split) in enumerate(sources):
        assert path is not None
        with endpoint(Script()) as script:
            images = written.images if path is written.official else None
            run = run_benchmark(
                RunOptions(
                    "pope", images, path, tmp_path / str(number), EndpointModel([script.url]), limit=9, split=split
                )
            )
            assert run.result is not None and run.failed == 0
            scores.append(run.result.headline.headline)
            assert len(script.bodies) == 9 and sent(script) <= set(written.content.values())
    assert len(set(scores)) == 1


def test_what_data_names_is_found_or_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "official"
    (folder / "images").mkdir(parents=True)
    (folder / "v2_questions.json").write_text("{}")
    (folder / "v2_annotations.json").write_text("{}")
    found = locate(str(folder))
    assert (found.annotations.name, found.images) == ("v2_annotations.json", folder)
    assert found.questions is not None and found.questions.name == "v2_questions.json"
    (folder / "more.json").write_text("{}")
    with pytest.raises(UserError, match="holds 3 JSON files; name one"):
        locate(str(folder))
    with pytest.raises(UserError, match=r"no data at nowhere\.tsv"):
        locate("nowhere.tsv")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"no data at nobody/nothing.*--download fetches it"):
        locate("nobody/nothing")


def test_the_network_is_used_only_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, *, repo_type: str, local_files_only: bool) -> str:
        asked.append((name, repo_type, local_files_only))
        (tmp_path / "x.tsv").write_text("index\tquestion\n1\tWhat?\n")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert locate("owner/name").annotations == tmp_path
    assert locate("owner/name", download=True).annotations == tmp_path
    assert asked == [("owner/name", "dataset", True), ("owner/name", "dataset", False)]


def test_tables_that_cannot_be_meant_are_named(tmp_path: Path) -> None:
    def table(text: str) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tsv"
        path.write_text(text)
        return path

    with pytest.raises(UserError, match="row 2 has 2 columns, the header has 3; is the file complete"):
        open_table(table("index\timage\tquestion\n1\t\ta\n2\tb\n"))
    with pytest.raises(UserError, match="row 1: its image is that of row '7', which has none"):
        open_table(table("index\timage\tquestion\n1\t7\ta\n"))
    with pytest.raises(UserError, match="holds no questions"):
        open_table(table("index\timage\n"))
    broken = open_table(table("index\timage\tquestion\n1\t" + "?" * 80 + "\ta\n"))
    with pytest.raises(UserError, match="row 1: its image is no base64"):
        _ = broken.pictures[0][0].content
    (tmp_path / "no.parquet").write_bytes(b"PAR1 but not")
    with pytest.raises(UserError, match=r"no\.parquet is no Parquet or Arrow file"):
        open_table(tmp_path / "no.parquet")
    with pytest.raises(UserError, match="is none of vsr: no column 'caption'; its columns are index, answer"):
        score_files("vsr", tmp_path / "x", table("index\tanswer\n1\tyes\n"))


def test_a_split_with_a_file_missing_is_no_split(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.Table.from_pylist([{"index": 1, "question": "Which?", "A": "x", "B": "y", "answer": "A"}])
    shard = tmp_path / "copy" / "val-00001-of-00003.parquet"
    shard.parent.mkdir()
    pyarrow.parquet.write_table(rows, shard)
    (tmp_path / "said.json").write_text('{"1": "A"}')
    with pytest.raises(UserError, match="has 1 of 3 files of this split: number 0 is missing"):
        score_files("ai2d", tmp_path / "said.json", shard.parent)
    assert score_files("ai2d", tmp_path / "said.json", shard).headline.headline.value == 100
    pointer = tmp_path / "pointer.parquet"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with pytest.raises(UserError, match="is a pointer of Git LFS"):
        open_table(pointer)


@pytest.mark.parametrize(
    "written",
    [
        "\nOptions: A: a cat., B: one, two or more, C: Mr. B. Smith, D: none of these",
        "\nChoices: (A) a cat. (B) one, two or more (C) Mr. B. Smith (D) none of these",
        "\nA. a cat.\nB. one, two or more\nC. Mr. B. Smith\nD. none of these",
    ],
)
def test_options_in_the_question_s_own_words(tmp_path: Path, written: str) -> None:
    """MMStar's copy on the Hub has no columns of options."""
    import pyarrow
    import pyarrow.parquet

    rows = [{"index": n, "question": f"Which?{written}", "answer": "ABCD"[n], "category": "c"} for n in range(4)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "val.parquet")
    [first, *_] = benchmark_named("mmstar").read(tmp_path / "val.parquet", None, Options())
    texts = ["a cat.", "one, two or more", "Mr. B. Smith", "none of these"]
    assert first.reference.options == dict(zip("ABCD", texts, strict=True))
    assert first.prompt == f"Which?{written}\nAnswer with the option's letter from the given choices directly."
    (tmp_path / "said.json").write_text(json.dumps({"0": "A", "1": "(B)", "2": "C.", "3": "none of these"}))
    result = score_files("mmstar", tmp_path / "said.json", tmp_path / "val.parquet")
    assert result.headline.headline.value == 100


def test_several_images_stand_side_by_side_and_none_is_none(tmp_path: Path) -> None:
    """MMMU's copy has image_1 to image_7, SEED-Bench's a list, ScienceQA's questions without any."""
    import pyarrow
    import pyarrow.parquet

    def cell(number: int) -> dict[str, object]:
        return {"bytes": picture(number), "path": None}

    rows = [
        {"id": "a", "image_1": cell(0), "image_2": cell(1), "image": [cell(2), cell(3)]},
        {"id": "b", "image_1": cell(2), "image_2": None, "image": []},
        {"id": "c", "image_1": None, "image_2": None, "image": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=1)
    table = open_table(tmp_path / "x.parquet")
    joined, alone = table.picture(0), table.picture(1)
    assert joined is not None and alone is not None and table.picture(2) is None and table.joined == 1
    assert alone.content == picture(2)
    shown = joined.open()
    assert shown.size == (4 * 32, 24)
    assert [shown.getpixel((32 * n + 5, 5)) for n in range(4)] == [(60 * n, 40, 90) for n in range(4)]


def test_gqa_keeps_its_images_in_a_data_set_of_their_own(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    asked = {"id": "7", "imageId": "n1", "question": "What?", "answer": "cat", "isBalanced": True}
    for kind, row in (("instructions", asked), ("images", {"id": "n1", "image": {"bytes": picture(1), "path": None}})):
        folder = tmp_path / f"testdev_balanced_{kind}"
        folder.mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "testdev-00000-of-00001.parquet")
    split = "testdev_balanced_instructions/testdev"
    stored = stored_pictures(tmp_path, "gqa", split)
    assert stored["n1"] is not None and stored["n1"].content == picture(1)
    (tmp_path / "said.json").write_text('{"7": "cat"}')
    result = score_files("gqa", tmp_path / "said.json", tmp_path, options=Options(split=split))
    assert result.headline.headline.value == 100
    with pytest.raises(UserError, match="has 2 splits: name one by --split"):
        score_files("gqa", tmp_path / "said.json", tmp_path)


def test_a_checkpoint_in_this_process_sees_the_pictures_of_a_table(tiny_checkpoint: Path, tmp_path: Path) -> None:
    table = write_tsv("mmstar", tmp_path / "table.tsv")
    options = RunOptions("mmstar", None, table, tmp_path / "out", EngineModel(tiny_checkpoint, device="cpu"), limit=3)
    with options.model:
        run = run_benchmark(options)
    assert run.result is not None and (run.result.n, run.failed) == (3, 0)
    shown = json.loads((tmp_path / "out" / "samples.json").read_text())[0]["shown_file"]
    stored = picture_at(shown)
    assert stored is not None and stored.content in [picture(number) for number in range(4)]
    assert (shown_picture(shown) or "").startswith("data:image/jpeg;base64,")
    assert shown_picture(f"{table}#99/image") is None and picture_at(str(table)) is None
