from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.image_files import image_files
from fourfold.prompts.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "more/c.tiff", "._a.jpg", "notes.txt", "more/.hidden.png"):
        Image.new("RGB", (4, 4)).save(folder / name, format="png")
    return folder


def test_a_folder_gives_its_images_in_order_and_no_hidden_ones(photos: Path) -> None:
    assert image_files([photos]) == [photos / "a.jpg", photos / "b.PNG", photos / "more" / "c.tiff"]


def test_each_file_comes_once_and_a_named_one_whatever_it_is_called(photos: Path) -> None:
    named = [photos / "notes.txt", photos, photos / "a.jpg", str(photos / "._a.jpg")]
    found = image_files(named)
    assert found[0] == photos / "notes.txt" and found[-1] == photos / "._a.jpg"
    assert len(found) == len(set(found)) == 5


def test_links_to_folders_are_followed_once(photos: Path, tmp_path: Path) -> None:
    (photos / "round").symlink_to(photos, target_is_directory=True)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "photos").symlink_to(photos, target_is_directory=True)
    assert len(image_files([photos])) == len(image_files([linked])) == 3


def test_what_is_not_there_is_said(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there are no images in .*empty; they may be .avif"):
        image_files([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"no such file: .*absent\.jpg"):
        image_files([photos / "absent.jpg"])
