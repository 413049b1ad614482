"""Which file is which image: links, suffixes, and no file in another's place."""

from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.images import FORMATS, SUFFIXES, load_image_file
from fourfold.eval.images import ImageFolder
from fourfold.prompts.errors import UserError


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def test_names_with_and_without_folder_and_suffix(tmp_path: Path) -> None:
    path = picture(tmp_path / "val2014" / "a.jpg")
    folder = ImageFolder(tmp_path)
    for name in ("val2014/a.jpg", "a.jpg", "a", "images/val2014/a.jpg", "a.JPEG"):
        assert folder.find(name) == path, name
    assert ImageFolder(tmp_path / "val2014").find("val2014/a.jpg") == path
    for name in ("test2015/a.jpg", "a.png", "b.jpg", "val2014/b"):
        assert folder.find(name) is None, name


def test_another_file_of_the_same_number_is_another_image(tmp_path: Path) -> None:
    picture(tmp_path / "gqa" / "354786.jpg")
    folder = ImageFolder(tmp_path, coco=True)
    assert folder.find("COCO_val2014_000000354786.jpg") is None
    with pytest.raises(UserError, match=r"1 images of pope are not under .*, such as COCO_val2014_000000354786\.jpg"):
        folder.missing(["COCO_val2014_000000354786.jpg", "354786"], "pope", skip=False)
    coco = picture(tmp_path / "val2017" / "000000354786.jpg", "blue")
    folder = ImageFolder(tmp_path, coco=True)
    assert folder.find("COCO_val2014_000000354786.jpg") == coco
    # A benchmark that is not COCO's means its own file, and not COCO's of that number.
    assert ImageFolder(tmp_path / "val2017").find("354786") is None
    assert ImageFolder(tmp_path / "val2017", coco=True).find("354786") == coco


def test_two_pictures_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    one, other = picture(tmp_path / "gqa" / "1.jpg"), picture(tmp_path / "vg" / "1.jpg", "blue")
    folder = ImageFolder(tmp_path)
    assert (folder.find("gqa/1.jpg"), folder.find("vg/1.jpg")) == (one, other)
    with pytest.raises(UserError, match=r"two pictures are called 1\.jpg: gqa/1\.jpg and vg/1\.jpg"):
        folder.find("1.jpg")
    picture(tmp_path / "vg" / "1.jpg")  # the same picture twice is no question
    assert ImageFolder(tmp_path).find("1.jpg") == one


def test_links_to_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    picture(tmp_path / "disk" / "deep" / "a.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "val").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "images", target_is_directory=True)
    found = ImageFolder(tmp_path / "images").find("a.jpg")
    assert found is not None and found.read_bytes() == (tmp_path / "disk" / "deep" / "a.jpg").read_bytes()


def test_what_the_server_reads_the_evaluation_finds(tmp_path: Path) -> None:
    assert {".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= SUFFIXES
    for kind in FORMATS:
        suffix = next(one for one in sorted(SUFFIXES) if Image.registered_extensions().get(one) == kind)
        path = picture(tmp_path / f"{kind}{suffix}")
        assert load_image_file(ImageFolder(tmp_path).find(path.name) or Path()).size == (8, 8)
