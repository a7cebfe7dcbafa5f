"""The shipped sample is what it claims to be, and damaged data is named."""

from __future__ import annotations

import contextlib
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradscope.errors import SubjectError
from gradscope.examples.fashion_mnist import (
    SAMPLE,
    SYSTEM,
    Batches,
    FashionMNIST,
    load_fashion_mnist,
    read_idx,
)
from gradscope.examples.make_fashion_mnist_sample import make_sample, write_idx

MOST_BYTES = 4_000_000
TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(scope="module")
def sample() -> FashionMNIST:
    return load_fashion_mnist(SAMPLE)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with ten training and ten test images."""
    for part in ("train", "t10k"):
        images = np.arange(10 * 28 * 28, dtype=np.uint8).reshape(10, 28, 28)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(10, dtype=np.uint8))
    return tmp_path


def test_the_sample_is_balanced(sample: FashionMNIST) -> None:
    assert sample.train_labels.bincount().tolist() == [600] * 10
    assert sample.test_labels.bincount().tolist() == [100] * 10


def test_the_sample_has_the_shapes_types_and_range_of_images(sample: FashionMNIST) -> None:
    assert sample.train_images.shape == (6000, 1, 28, 28)
    assert sample.test_images.shape == (1000, 1, 28, 28)
    for images in (sample.train_images, sample.test_images):
        assert images.dtype == torch.float32
        assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    assert sample.train_labels.dtype == sample.test_labels.dtype == torch.int64


def test_the_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < MOST_BYTES


def test_the_sample_is_what_the_script_draws_from_the_full_data(tmp_path: Path) -> None:
    if not SYSTEM.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    make_sample(SYSTEM, tmp_path)
    made = {path.name: gzip.decompress(path.read_bytes()) for path in tmp_path.iterdir()}
    shipped = {path.name: gzip.decompress(path.read_bytes()) for path in SAMPLE.glob("*.gz")}
    assert made == shipped


def test_the_full_data_is_found_where_the_package_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if not SYSTEM.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    monkeypatch.delenv("GRADSCOPE_DATA", raising=False)
    full = load_fashion_mnist()
    assert (len(full.train_images), len(full.test_images)) == (60_000, 10_000)
    assert full.source == str(SYSTEM)


def test_without_full_data_the_sample_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GRADSCOPE_DATA", raising=False)
    monkeypatch.setattr("gradscope.examples.fashion_mnist.SYSTEM", tmp_path / "nothing")
    assert load_fashion_mnist().source == "shipped sample"


def test_the_environment_names_the_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_DATA", str(tiny))
    data = load_fashion_mnist()
    assert (len(data.train_images), data.source) == (10, str(tiny))


def test_the_argument_goes_before_the_environment(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADSCOPE_DATA", str(SAMPLE))
    assert load_fashion_mnist(tiny).source == str(tiny)


def test_a_missing_file_is_named(tiny: Path) -> None:
    (tiny / TEST_LABELS).unlink()
    with pytest.raises(SubjectError, match=rf"{TEST_LABELS}: No such file"):
        load_fashion_mnist(tiny)


def test_a_truncated_file_is_named(tiny: Path) -> None:
    content = (tiny / TRAIN_IMAGES).read_bytes()
    (tiny / TRAIN_IMAGES).write_bytes(content[: len(content) // 2])
    with pytest.raises(SubjectError, match=rf"{TRAIN_IMAGES} is damaged or cut short"):
        load_fashion_mnist(tiny)


def test_fewer_values_than_the_header_says_are_counted(tiny: Path) -> None:
    content = gzip.decompress((tiny / TRAIN_IMAGES).read_bytes())
    (tiny / TRAIN_IMAGES).write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(SubjectError, match=r"holds 7839 values, .* \(10, 28, 28\), that is 7840"):
        load_fashion_mnist(tiny)


def test_a_wrong_magic_number_is_shown(tiny: Path) -> None:
    shutil.copy(tiny / TEST_LABELS, tiny / TRAIN_IMAGES)
    with pytest.raises(SubjectError, match=r"begins with 00000801, but .* begins with 00000803"):
        load_fashion_mnist(tiny)


def test_images_and_labels_must_be_as_many(tiny: Path) -> None:
    write_idx(tiny / TEST_LABELS, np.arange(9, dtype=np.uint8))
    with pytest.raises(SubjectError, match=r"holds 10 images, but .* 9 labels"):
        load_fashion_mnist(tiny)


def test_a_label_over_nine_is_shown(tiny: Path) -> None:
    write_idx(tiny / TEST_LABELS, np.arange(1, 11, dtype=np.uint8))
    with pytest.raises(SubjectError, match="holds the label 10; the highest is 9"):
        load_fashion_mnist(tiny)


@given(content=st.binary(max_size=64), compressed=st.booleans(), magic=st.booleans())
def test_no_damage_gets_past_the_reader(
    content: bytes, compressed: bool, magic: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if magic:
        content = bytes([0, 0, 8, 1]) + content
    path = tmp_path_factory.mktemp("damaged") / TEST_LABELS
    path.write_bytes(gzip.compress(content) if compressed else content)
    with contextlib.suppress(SubjectError):
        assert len(read_idx(path, dimensions=1)) == int.from_bytes(content[4:8], "big")


def test_batches_come_in_a_new_seeded_order_on_every_pass() -> None:
    numbers = torch.arange(10)
    batches = Batches(numbers, numbers, batch_size=3)

    def one_pass() -> list[int]:
        return [label for _, labels in batches for label in labels.tolist()]

    torch.manual_seed(0)
    first, second = one_pass(), one_pass()
    torch.manual_seed(0)
    assert one_pass() == first != second
    assert len(first) == len(set(first)) == 9
    assert len(batches) == len(list(batches)) == 3


def test_images_keep_their_labels() -> None:
    numbers = torch.arange(10)
    for images, labels in Batches(numbers * 2, numbers, batch_size=5):
        assert torch.equal(images, labels * 2)


@pytest.mark.parametrize("batch_size", [0, 11])
def test_an_impossible_batch_size_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; .* between 1 and 10"):
        Batches(torch.zeros(10), torch.zeros(10), batch_size)


def test_as_many_labels_as_images_are_needed() -> None:
    with pytest.raises(ValueError, match="10 images but 9 labels"):
        Batches(torch.zeros(10), torch.zeros(9), 3)
