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
    assert refusal(load_dataset, tmp_path) == "unknown class 'c'. Known: a, b."


def refusal(function, *arguments):
    with pytest.raises(errors.DataError) as caught:
        function(*arguments)
    return str(caught.value)


def test_layouts_that_cannot_be_read(tmp_path):
    assert refusal(list_folder, tmp_path / "missing") == (
        f"{tmp_path}/missing is not a folder. Give the folder that holds the images."
    )
    assert refusal(list_folder, tmp_path) == (
        f"{tmp_path} has no class folders. "
        "Lay the folder out as <class>/<image> or train/<class>/<image>."
    )
    touch(tmp_path, "test/a/1.png")
    assert refusal(list_folder, tmp_path) == (
        f"{tmp_path} has a folder test but no folder train. "
        "Add train, or rename test if it is a class."
    )
    touch(tmp_path, "train/a/1.png", "val/a/2.png", "validation/a/2.png")
    assert refusal(list_folder, tmp_path) == (
        f"{tmp_path} has two folders for the validation part. Keep only one of them."
    )


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
    file = tmp_path / "set" / "list.csv"
    message = refusal(list_csv, file)
    assert message.startswith(f"{file}, line 2: ")
    assert message.endswith(
        " is not below the file's folder. Put the CSV file into a folder above all of its images."
    )


def test_names_that_are_not_text(tmp_path):
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


COLUMNS = "Write path,label or path,label,split"
LINES = "Write one line path,label for each image"


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("1.png,cat\n2.png\n", ", line 2: the number of columns is 1", COLUMNS),
        ("1.png,cat,train,more\n", ", line 1: the number of columns is 4", COLUMNS),
        ("path,label\n1.png,cat,x\n", ", line 2: the number of columns is 3", COLUMNS),
        ("1.png,\n", ", line 1: the path or the label is empty", "Fill it in"),
        (
            "1.png,cat\n1.png,dog\n",
            ", line 2: {folder}/1.png is already in line 1",
            "List each image once",
        ),
        ("1.png,cat,trian\n", ", line 1: unknown split 'trian'", "Did you mean train"),
        ("1.png,cat,test\n", " lists no training images", LINES),
        ("", " lists no training images", LINES),
        ('"1.png,cat\n', " cannot be read as CSV: unexpected end of data", LINES),
    ],
)
def test_csv_that_cannot_be_read(tmp_path, text, cause, remedy):
    path = tmp_path / "photos.csv"
    path.write_text(text)
    with pytest.raises(errors.DataError) as caught:
        list_csv(path)
    assert caught.value.cause == f"{path}{cause.format(folder=tmp_path)}"
    assert caught.value.remedy == remedy


def test_csv_with_names_that_are_not_text(tmp_path):
    (tmp_path / "photos.csv").write_bytes(b"a\xff.png,caf\xe9\nb.png,dog\n")
    listing = list_csv(tmp_path / "photos.csv")
    assert listing.class_names == ("caf\\xe9", "dog")
    assert os.fsencode(listing.parts["train"][0].paths[0]).endswith(b"a\xff.png")
    assert listing.parts["train"][0].name(0).endswith("a\\xff.png")


def test_missing_csv(tmp_path):
    path = tmp_path / "photos.csv"
    assert refusal(load_dataset, path) == (
        f"{path} cannot be read as CSV: [Errno 2] No such file or directory: {str(path)!r}. "
        f"{LINES}."
    )


def test_one_class_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")
    assert refusal(load_dataset, tmp_path) == "all labels are 'a'. Give at least 2 classes."


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
    assert refusal(list_folder, tmp_path) == (
        f"{str(tmp_path / unreadable).rstrip('/')} cannot be read: Permission denied. "
        "Check its permissions."
    )
