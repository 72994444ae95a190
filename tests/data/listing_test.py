import os

import pytest
from PIL import Image

from ncap_jax import errors
from ncap_jax.data import load_dataset, load_test_split
from ncap_jax.data.listing import list_csv, list_folder


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def files(listing, part="train"):
    source, labels = listing.parts[part]
    return [(os.path.basename(path), label) for path, label in zip(source.paths, labels)]


def test_classes_are_folders_at_any_depth(tmp_path):
    touch(tmp_path, "b/2.JPG", "b/deep/er/1.webp", "a/3.png", "a/4.bmp", "a/readme.md", "5.jpg")
    listing = list_folder(tmp_path)
    assert listing.class_names == ("a", "b")
    assert files(listing) == [("3.png", "a"), ("4.bmp", "a"), ("2.JPG", "b"), ("1.webp", "b")]
    ignored = {os.path.basename(k): v for k, v in listing.info["ignored"]["files"].items()}
    assert ignored == {
        "readme.md": "not an image by its name",
        "5.jpg": "not in a class folder",
    }


def test_numbered_classes_are_in_order_of_their_numbers(tmp_path):
    touch(tmp_path, *(f"{k}/x.png" for k in range(12)))
    assert list_folder(tmp_path).class_names == tuple(str(k) for k in range(12))


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_parts(tmp_path, validation):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", f"{validation}/a/3.png", "test/b/4.png")
    touch(tmp_path, "models/c/5.png", "about.txt")
    listing = list_folder(tmp_path)
    assert list(listing.parts) == ["train", "validation", "test"]
    assert files(listing, "validation") == [("3.png", "a")]
    assert files(listing, "test") == [("4.png", "b")]
    assert listing.info["ignored"]["count"] == 2
    assert set(listing.info["ignored"]["files"].values()) == {"beside the parts"}


def test_a_class_of_validation_that_training_lacks(tmp_path):
    for name in ("train/a", "train/b", "val/c"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    with pytest.raises(errors.DataError, match="unknown class 'c'"):
        load_dataset(tmp_path)


def test_layouts_that_cannot_be_read(tmp_path):
    with pytest.raises(errors.DataError, match="is no folder"):
        list_folder(tmp_path / "missing")
    with pytest.raises(errors.DataError, match="has no class folders"):
        list_folder(tmp_path)
    touch(tmp_path, "test/a/1.png")
    with pytest.raises(errors.DataError, match="a folder test but none called train"):
        list_folder(tmp_path)
    touch(tmp_path, "train/a/1.png", "val/a/2.png", "validation/a/2.png")
    with pytest.raises(errors.DataError, match="two folders for validation"):
        list_folder(tmp_path)


def test_links_to_folders(tmp_path):
    touch(tmp_path, "elsewhere/1.png", "set/a/2.png", "set/.git/3.png")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "up").symlink_to(tmp_path)
    (tmp_path / "set" / "self").symlink_to(tmp_path / "set" / "self")
    (tmp_path / "set" / "a" / "back").symlink_to(tmp_path / "set")
    listing = list_folder(tmp_path / "set")
    assert files(listing) == [("2.png", "a"), ("1.png", "b")]
    ignored = {os.path.basename(k): v for k, v in listing.info["ignored"]["files"].items()}
    assert ignored == {
        ".git": "hidden",
        "up": "link to a folder above",
        "self": "not in a class folder",
        "back": "link to a folder",
    }
    linked = listing.info["links"]["files"]
    assert linked == {str(tmp_path / "set" / "b" / "1.png"): str(tmp_path / "elsewhere" / "1.png")}


def test_links_to_images_are_followed_and_those_that_lead_out_are_named(tmp_path):
    touch(tmp_path, "elsewhere/1.png", "set/a/2.png", "set/b/3.png")
    (tmp_path / "set" / "a" / "in.png").symlink_to(tmp_path / "set" / "b" / "3.png")
    (tmp_path / "set" / "a" / "out.png").symlink_to("../../elsewhere/1.png")
    (tmp_path / "set.csv").write_text("set/a/in.png,a\nset/a/out.png,b\n")
    expected = {str(tmp_path / "set" / "a" / "out.png"): str(tmp_path / "elsewhere" / "1.png")}
    assert list_folder(tmp_path / "set").info["links"] == {"count": 1, "files": expected}
    assert "links" not in list_csv(tmp_path / "set.csv").info  # all below the file's folder
    (tmp_path / "set" / "inner.csv").write_text("a/in.png,a\na/out.png,b\n")
    assert list_csv(tmp_path / "set" / "inner.csv").info["links"]["files"] == expected


@pytest.mark.parametrize(
    "path", ["../1.png", "a/../../1.png", "/etc/1.png", "..", "a\0b.png", "{sibling}/1.png"]
)
def test_a_csv_names_nothing_outside_its_folder(tmp_path, path):
    (tmp_path / "set").mkdir()
    path = path.format(sibling=f"{tmp_path}/settings")
    (tmp_path / "set" / "list.csv").write_text(f"a.png,cat\n{path},dog\n")
    with pytest.raises(errors.DataError, match=r"line 2: .* is not below the file's folder"):
        list_csv(tmp_path / "set" / "list.csv")


def test_names_that_are_no_text(tmp_path):
    touch(tmp_path, "a/1.png", os.fsdecode(b"b\xff/2.png"), "c\n/3.png")
    listing = list_folder(tmp_path)
    assert listing.class_names == ("a", "b\\xff", "c\\n")
    for name in listing.class_names:
        name.encode("utf-8")


CSV = {
    "plain": "1.png,cat\n2.png,dog\n",
    "header": "path,label\n1.png,cat\n2.png,dog\n",
    "any order, more columns": 'label,note,path\ncat,"a, b",1.png\n\ndog,,2.png\n',
    "byte order mark, spaces, CRLF": "\ufeffPath, Label\r\n1.png, cat\r\n2.png, dog\r\n",
}


@pytest.mark.parametrize("text", CSV.values(), ids=CSV.keys())
def test_csv(tmp_path, text):
    (tmp_path / "photos.csv").write_bytes(text.encode())
    listing = list_csv(tmp_path / "photos.csv")
    assert listing.name == "photos"
    assert listing.class_names == ("cat", "dog")
    assert files(listing) == [("1.png", "cat"), ("2.png", "dog")]
    assert listing.parts["train"][0].paths[0] == str(tmp_path / "1.png")


def test_csv_end_to_end(tmp_path):
    lines = ["path,label,split"]
    for number in range(8):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.png")
        split = ("train", "train", "val", "test")[number // 2]
        lines.append(f"{tmp_path / f'{number}.png'},{number % 2},{split}")
    path = tmp_path / "photos.csv"
    path.write_text("\n".join(lines))
    loaded = load_dataset(path)
    assert loaded.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert loaded.validation_labels.tolist() == [0, 1]
    assert loaded.class_names == ("0", "1")
    images, labels = load_test_split(str(path))
    assert images[:, 0, 0, 0].tolist() == [6, 7]
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1.png,cat\n2.png\n", "line 2: 1 columns"),
        ("1.png,cat,train,more\n", "line 1: 4 columns"),
        ("path,label\n1.png,cat,x\n", "line 2: 3 columns"),
        ("1.png,\n", "line 1: path or label is empty"),
        ("1.png,cat\n1.png,dog\n", "line 2: .*1.png stands in line 1 already"),
        ("1.png,cat,trian\n", "unknown split 'trian'. Did you mean train"),
        ("1.png,cat,test\n", "lists no training images"),
        ("", "lists no training images"),
        ('"1.png,cat\n', "cannot be read as CSV"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path, text, match):
    (tmp_path / "photos.csv").write_text(text)
    with pytest.raises(errors.DataError, match=match):
        list_csv(tmp_path / "photos.csv")


def test_csv_with_names_that_are_no_text(tmp_path):
    (tmp_path / "photos.csv").write_bytes(b"a\xff.png,caf\xe9\nb.png,dog\n")
    listing = list_csv(tmp_path / "photos.csv")
    assert listing.class_names == ("caf\\xe9", "dog")
    assert os.fsencode(listing.parts["train"][0].paths[0]).endswith(b"a\xff.png")
    assert listing.parts["train"][0].name(0).endswith("a\\xff.png")


def test_missing_csv(tmp_path):
    with pytest.raises(errors.DataError, match=r"cannot be read as CSV: .*No such file"):
        load_dataset(tmp_path / "photos.csv")


def test_one_class_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")
    with pytest.raises(errors.DataError, match="all labels are 'a'"):
        load_dataset(tmp_path)


def test_names_and_paths_are_told_apart(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "mine" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    assert load_dataset("mine", data_dir=tmp_path / "none").name == "mine"
    assert load_dataset("./mine").name == "mine"
    os.rename("mine", "cifar10")
    with pytest.raises(errors.DataError, match="cifar10 is not prepared"):
        load_dataset("cifar10", data_dir=tmp_path / "none")
    assert load_dataset("./cifar10").name == "cifar10"


@pytest.mark.parametrize("unreadable", ["", "a", "a/deep"])
def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(tmp_path, monkeypatch, unreadable):
    """Permissions do not bind every user, so the refusal is simulated at the system call."""
    touch(tmp_path, "a/1.png", "a/deep/2.png", "b/3.png")
    for name in ("listdir", "scandir"):
        real = getattr(os, name)

        def guarded(path, real=real):
            if os.path.abspath(path) == str(tmp_path / unreadable).rstrip("/"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, name, guarded)
    with pytest.raises(errors.DataError, match="cannot be read: Permission denied"):
        list_folder(tmp_path)
