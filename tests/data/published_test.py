import functools
import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from ncap_jax import errors
from ncap_jax.data import load_dataset, load_test_split, published
from ncap_jax.data.encoded import ImageStore
from ncap_jax.data.images import checksum

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.mark.parametrize(
    ("name", "shape", "digest"),
    [
        (
            "cifar10",
            (32, 32, 3),
            "157f04963bcaa8f2b230a277a4b232cda9f950dd9ab8a5d7eb8a6682dc40a61f",
        ),
        (
            "fashion_mnist",
            (28, 28, 1),
            "7a3b9b825c4db5310005bcac9137005a24c4ae8ccec6b02404eeb57610039f43",
        ),
    ],
)
def test_real_sets(shared_data, name, shape, digest):
    """Counts, histograms and a checksum of all pixels, through the TFDS route."""
    listing = published.list_published(name, shared_data / "tfds", ["train"])
    source, labels = listing.parts["train"]
    assert np.bincount(labels).tolist() == [1000] * 10
    # The files hold PNG: every decoder gives the same pixels.
    store = ImageStore(source, np.arange(len(labels)), shape[:2], shape[2], threads=1)
    assert hashlib.sha256(np.asarray(store).tobytes()).hexdigest() == digest
    images, labels = load_test_split(name, data_dir=shared_data / "tfds")
    assert images.shape == (2_000, *shape)
    assert np.bincount(labels).tolist() == [200] * 10


def test_selection_never_sees_the_test_part(shared_data):
    checked = load_dataset(
        "cifar10", data_dir=shared_data / "tfds", max_train=1_000, max_validation=500
    )
    assert checked.images.shape == (1_000, 32, 32, 3)
    assert np.bincount(checked.labels).tolist() == [100] * 10
    assert np.bincount(checked.validation_labels).tolist() == [50] * 10
    assert checked.info["subset_of"] == {"training": 8_000, "validation": 2_000}
    assert checked.class_names[:2] == ("airplane", "automobile")
    assert checked.info["test"] == "2000 images, set aside"
    images, _ = load_test_split("cifar10", data_dir=shared_data / "tfds")
    seen = {image.tobytes() for image in [*checked.images, *checked.validation_images]}
    assert not seen & {image.tobytes() for image in images}


def test_tfds_decodes_the_same(shared_data):
    """TFDS's own decoding against ours, on the first images of each set."""
    for name in ("cifar10", "fashion_mnist"):
        theirs = tfds.data_source(
            name, data_dir=shared_data / "tfds", split="train", download=False
        )
        source, labels = published.list_published(name, shared_data / "tfds", ["train"]).parts[
            "train"
        ]
        shape = theirs[0]["image"].shape
        ours = np.asarray(ImageStore(source, np.arange(100), shape[:2], shape[2], threads=1))
        np.testing.assert_array_equal(ours, np.stack([theirs[i]["image"] for i in range(100)]))
        assert labels[:100].tolist() == [int(theirs[i]["label"]) for i in range(100)]


def refusal(name, data_dir, function=load_dataset):
    with pytest.raises(errors.DataError) as caught:
        function(name, data_dir=data_dir)
    return str(caught.value)


@functools.cache
def load_photo():
    return datasets.load_sample_image("china.jpg")


def picture(number, height, width):
    """A crop of a real photograph, another one for every number."""
    photo = load_photo()
    y, x = (37 * number) % (427 - height), (53 * number) % (640 - width)
    return photo[y : y + height, x : x + width]


def encode(pixels, format="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def example(features, number, label, size):
    """One example with all features of the set; the image is lossless."""
    height, width = size
    values = {
        "image": encode(picture(number, height, width)),
        "label": label,
        "coarse_label": label // 5,
        "segmentation_mask": encode(np.zeros((height, width), np.uint8)),
        "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
    }
    return {name: values.get(name, f"{name} {number}") for name in features}


def prepare(name, folder, parts, size=lambda number: (32, 32), file_format="array_record"):
    """Write a small set with TFDS's own builder of that name; `parts` gives labels."""

    class Small(tfds.builder_cls(name), skip_registration=True):
        def _split_generators(self, download_manager):
            label = self.info.features["label"]
            if not label.names or label.names[0] == "0":
                label.names = [f"{name} {number}" for number in range(label.num_classes)]
            return {part: self._examples(labels) for part, labels in parts.items()}

        def _examples(self, labels):
            for number, label in enumerate(labels):
                yield number, example(self.info.features, number, label, size(number))

    Small.name = name
    Small(data_dir=folder, file_format=file_format).download_and_prepare()


@pytest.mark.parametrize(
    ("name", "classes", "copies"),
    [("cifar100", 100, 3), ("svhn_cropped", 10, 10)],
)
def test_sets_written_by_tfds(tmp_path, name, classes, copies):
    labels = np.tile(np.arange(classes), copies).tolist()
    prepare(name, tmp_path, {"train": labels, "test": labels[:20]})
    checked = load_dataset(name, data_dir=tmp_path)
    assert checked.num_classes == classes
    assert checked.info["source"].startswith(f"TFDS {name}/")
    every = np.concatenate([checked.images, checked.validation_images])
    written = [picture(number, 32, 32) for number in range(len(labels))]
    assert sorted(image.tobytes() for image in every) == sorted(p.tobytes() for p in written)
    by_pixels = {image.tobytes(): label for image, label in zip(written, labels)}
    assert checked.labels.tolist() == [by_pixels[image.tobytes()] for image in checked.images]
    images, test_labels = load_test_split(name, data_dir=tmp_path)
    assert len(images) == 20
    assert sorted(test_labels.tolist()) == sorted(labels[:20])


def test_birds_of_different_sizes(tmp_path):
    """caltech_birds2011: 200 classes, JPEG of any size, further pictures beside the image."""
    labels = np.repeat(np.arange(200), 2).tolist()
    sizes = [(40, 60), (50, 50), (70, 36)]
    prepare(
        "caltech_birds2011",
        tmp_path,
        {"train": labels, "test": [5]},
        size=lambda number: sizes[number % 3],
    )
    checked = load_dataset("caltech_birds2011", data_dir=tmp_path)
    assert checked.num_classes == 200
    assert checked.info["stored_size"] == "40×40", "the median of the short sides"
    assert checked.images.shape == (200, 40, 40, 3)
    streamed = load_dataset("caltech_birds2011", data_dir=tmp_path, stream=True)
    np.testing.assert_array_equal(np.asarray(streamed.images), checked.images)
    images, test_labels = load_test_split("caltech_birds2011", data_dir=tmp_path)
    assert images.shape == (1, 40, 40, 3)
    assert test_labels.tolist() == [5]


def test_a_validation_split_is_used(tmp_path):
    labels = np.arange(10).tolist()
    prepare("svhn_cropped", tmp_path, {"train": labels * 2, "validation": labels})
    checked = load_dataset("svhn_cropped", data_dir=tmp_path)
    assert len(checked.labels) == 20
    assert len(checked.validation_labels) == 10
    assert checked.info["validation"] == "given"
    assert refusal("svhn_cropped", tmp_path, load_test_split) == (
        "svhn_cropped has no test part. "
        "Add one named test, or set some images aside with test_fraction=0.2."
    )


def test_a_set_without_training_part(tmp_path):
    prepare("svhn_cropped", tmp_path, {"test": [0, 1]})
    assert refusal("svhn_cropped", tmp_path) == (
        "svhn_cropped has no training part, only test. Use a set with a split named train."
    )


def test_the_newest_version_is_taken(tmp_path):
    prepare("svhn_cropped", tmp_path, {"train": list(range(10)) * 2})
    (version,) = (path for path in (tmp_path / "svhn_cropped").iterdir())
    old = version.with_name("3.0.9")
    version.rename(version.with_name("3.0.10"))
    old.mkdir()
    (old / "dataset_info.json").write_text("not read")
    assert len(load_dataset("svhn_cropped", data_dir=tmp_path).labels) == 10


def test_sets_of_another_kind(tmp_path):
    class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"value": np.int64, "label": np.int64})
            )

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"value": 1, "label": 0}

    Numbers.name = "numbers"
    Numbers(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    assert refusal("numbers", tmp_path) == (
        "numbers is not a set of uint8 images with one class label each: its features are "
        "label, value. Use a set with the features `image` and `label`."
    )
    message = refusal("number", tmp_path)
    assert message.startswith("unknown data set 'number'. Did you mean numbers")


def test_other_file_formats_say_what_to_do(tmp_path):
    prepare("svhn_cropped", tmp_path, {"train": [0, 1]})
    (info,) = tmp_path.glob("*/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert refusal("svhn_cropped", tmp_path) == (
        f"svhn_cropped/{info.parent.name} in {tmp_path} is not stored as ArrayRecord. "
        "Prepare it in another data_dir, which needs TensorFlow: pip install 'ncap_jax[tf]' && "
        "tfds build svhn_cropped --file_format=array_record "
        f"--data_dir={tmp_path / 'array_record'}."
    )


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "json"])
def test_damaged_files_are_named(tmp_path, damage):
    labels = np.arange(10).tolist() * 40
    prepare("svhn_cropped", tmp_path, {"train": labels})
    pattern = "*/*/dataset_info.json" if damage == "json" else "*/*/*train.array_record*"
    (path,) = tmp_path.glob(pattern)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 3] ^= 255
    else:
        content = content[: {"cut": len(content) // 2, "empty": 0, "json": 20}[damage]]
    path.write_bytes(content)
    with pytest.raises(errors.DataError) as caught:
        load_dataset("svhn_cropped", data_dir=tmp_path)
    assert caught.value.cause.startswith(f"the data set in {path.parent} cannot be read: ")
    assert caught.value.remedy == (
        "The files seem damaged: delete the folder and prepare the set again"
    )


def test_unknown_name_offers_near_matches(tmp_path):
    message = refusal("ciffar10", tmp_path)
    assert message.startswith("unknown data set 'ciffar10'. Did you mean cifar10")
    assert refusal("digit", tmp_path).startswith("unknown data set 'digit'. Did you mean digits")


def test_streamed_records_are_known_by_their_pixels(shared_data):
    options = {"data_dir": shared_data / "tfds", "max_train": 20, "max_validation": 10}
    held = load_dataset("cifar10", stream=False, **options)
    streamed = load_dataset("cifar10", stream=True, **options)
    assert streamed.images.known.tolist() == [checksum(image) for image in held.images]


def test_only_sets_of_images_are_offered(tmp_path):
    """A set of texts is near, but what it holds could not be used."""
    message = refusal("imdb_review", tmp_path)
    assert message.startswith("'imdb_review' is neither a folder in ")
    message = refusal("oxford_flowers", tmp_path)
    assert (
        message
        == "unknown data set 'oxford_flowers'. Did you mean oxford_flowers102 or tf_flowers."
    )


def test_unprepared_set_says_how_to_prepare_it(tmp_path):
    assert refusal("svhn_cropped", tmp_path) == (
        f"svhn_cropped is not prepared in {tmp_path}. Give the data_dir that holds it, or prepare "
        "it once, which needs TensorFlow: pip install 'ncap_jax[tf]' && "
        f"tfds build svhn_cropped --file_format=array_record --data_dir={tmp_path}."
    )


def test_default_folder_is_that_of_tfds(monkeypatch, tmp_path):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    prepare("svhn_cropped", tmp_path, {"train": list(range(10)) * 2})
    assert load_dataset("svhn_cropped").num_classes == 10


def test_tensorflow_is_not_imported_even_where_it_is_installed(tmp_path):
    """A stand-in that fails on import is put where TensorFlow would be."""
    prepare("svhn_cropped", tmp_path / "tfds", {"train": list(range(10)) * 2})
    (tmp_path / "site" / "tensorflow").mkdir(parents=True)
    stand_in = "raise SystemExit('TensorFlow was imported')"
    (tmp_path / "site" / "tensorflow" / "__init__.py").write_text(stand_in)
    script = (
        "import sys\n"
        "from ncap_jax.data import load_dataset\n"
        "from ncap_jax.data.feeding import make_feed\n"
        "feed = make_feed(load_dataset('svhn_cropped', data_dir=sys.argv[1], stream=True))\n"
        "assert sum(1 for _ in feed.train(0, 0, 4)) == 3\n"
        "assert sum(1 for _ in feed.validation(4)) == 3\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "tfds")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
