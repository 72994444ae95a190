import hashlib
import subprocess
import sys

import numpy as np

from ncap_jax.data import images


class Squares(images.EncodedImages):
    """Stands for (n, 2, 3, 1) pixels that are computed when they are asked for."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers)

    @property
    def shape(self):
        return (len(self.numbers), 2, 3, 1)

    def __getitem__(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return np.full((2, 3, 1), self.numbers[index] ** 2, np.uint8)

    def take(self, indices):
        return Squares(self.numbers[indices])


def test_encoded_images_have_what_an_array_has():
    squares = Squares(range(5))
    array = np.stack(list(squares))
    assert (squares.shape, squares.ndim, squares.dtype, squares.nbytes, len(squares)) == (
        array.shape,
        array.ndim,
        array.dtype,
        array.nbytes,
        len(array),
    )


def test_streamed_is_what_is_still_encoded():
    assert images.is_streamed(Squares([1]))
    assert not images.is_streamed(np.zeros((1, 2, 3, 1), np.uint8))
    assert not images.is_streamed([1, 2])


def test_take_and_gather_agree_on_both_kinds():
    squares, chosen = Squares(range(5)), np.array([3, 1, 1])
    array = np.stack(list(squares))
    taken = images.take(squares, chosen)
    assert images.is_streamed(taken), "nothing is decoded"
    np.testing.assert_array_equal(np.stack(list(taken)), images.take(array, chosen))
    gathered = images.gather(squares, chosen)
    np.testing.assert_array_equal(gathered, array[chosen])
    np.testing.assert_array_equal(images.gather(array, chosen), array[chosen])
    assert gathered.dtype == np.uint8
    assert gathered.ctypes.data % 64 == 0, "the device need not copy it"


def test_the_light_part_comes_without_the_decoders():
    """What fine-tuning needs of the data stage loads neither Pillow nor grain nor TFDS."""
    script = (
        "import sys\n"
        "from ncap_jax import data\n"
        "from ncap_jax.data import batching, feed, images\n"
        "heavy = {'PIL', 'grain', 'tensorflow_datasets', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not [name for name in sys.modules if name.endswith(('.encoded', '.decode'))]\n"
        "assert data.load_dataset and 'PIL' in sys.modules, 'loaded when it is asked for'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_checksum_tells_images_apart():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert images.checksum(image) == images.checksum(image.copy())
    assert images.checksum(image[:, ::-1]) != images.checksum(image)
    assert images.checksum(image[::-1]) == images.checksum(image[::-1].copy())


def test_a_digest_is_of_pixels_or_of_their_checksums_in_order():
    array = np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3)
    assert (
        images.digest([array, array[:1]])
        == hashlib.sha256(array.tobytes() + array[:1].tobytes()).hexdigest()
    )
    squares = Squares([2, 3])
    sums = np.array([images.checksum(image) for image in squares], np.uint32)
    assert images.digest([squares]) == hashlib.sha256(sums.tobytes()).hexdigest()
    assert images.digest([Squares([3, 2])]) != images.digest([squares])
