"""CIFAR-100's files are read as they are published, and nothing else in them is."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradscope.errors import SubjectError
from gradscope.examples.experiments.cifar100 import load_cifar100

PIXELS = np.arange(3 * 3072, dtype=np.uint32).reshape(3, 3072).astype(np.uint8)

GOOD: dict[bytes, Any] = {
    b"filenames": [b"a.png", b"b.png", b"c.png"],
    b"batch_label": b"training batch 1 of 1",
    b"fine_labels": [19, 0, 99],
    b"coarse_labels": [11, 15, 4],
    b"data": PIXELS,
}

# An array of two bytes as Python 2 and the numpy of then wrote it: text is bytes, names are older.
OF_PYTHON_2 = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
    b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00%stb."
)


def folder(path: Path, train: Any = GOOD, test: Any = GOOD) -> Path:
    for name, content in {"train": train, "test": test}.items():
        content = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
        (path / name).write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SubjectError) as caught:
        load_cifar100(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_the_published_form_is_read(tmp_path: Path) -> None:
    other = GOOD | {b"data": PIXELS[:2], b"fine_labels": [5, 6]}
    data = load_cifar100(folder(tmp_path, test=other))
    assert data.train_images.shape == (3, 3, 32, 32)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.tolist() == [19, 0, 99]
    assert data.test_labels.tolist() == [5, 6]
    # All of one channel, row by row, comes before the next channel.
    assert data.train_images[1, 2, 3, 4] == PIXELS[1, 2 * 1024 + 3 * 32 + 4]
    assert torch.equal(data.test_images, data.train_images[:2])


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_both_names_of_numpys_core_are_known(tmp_path: Path, core: bytes) -> None:
    content = pickle.dumps(GOOD, protocol=2)
    written = b"numpy._core" if b"numpy._core" in content else b"numpy.core"
    data = load_cifar100(folder(tmp_path, content.replace(written, core)))
    assert data.train_labels.tolist() == [19, 0, 99]


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    array = (OF_PYTHON_2 % PIXELS[0].tobytes())[2:-1]
    content = b"\x80\x02}(U\x04data" + array + b"U\x0bfine_labels]K\x07au."
    data = load_cifar100(folder(tmp_path, content))
    assert data.train_labels.tolist() == [7]
    assert data.train_images.flatten().tolist() == PIXELS[0].tolist()


def test_an_array_by_columns_is_read(tmp_path: Path) -> None:
    turned = GOOD | {b"data": np.asfortranarray(PIXELS)}
    data = load_cifar100(folder(tmp_path, turned))
    assert torch.equal(data.train_images, data.test_images)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    content = pickle.dumps(GOOD | {b"filenames": Malicious(mark)}, protocol=4)
    assert "asks for pathlib.Path" in refusal(folder(tmp_path, content))
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists(), "it is not malicious"


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "os system", "numpy load", "numpy ndarray.tofile", "numpy.core.multiarray x"],
)
def test_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    content = b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(part)]) + part.encode() for part in name.split()
    )
    message = refusal(folder(tmp_path, content + b"\x93."))
    assert f"asks for {name.replace(' ', '.')}, which no file of CIFAR-100 does" in message


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    content = b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR."
    assert "asks for the encoding 'zlib'" in refusal(folder(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"Cannot read {tmp_path / 'train'}: No such file" in refusal(tmp_path)
    folder(tmp_path)
    (tmp_path / "test").unlink()
    assert f"Cannot read {tmp_path / 'test'}: No such file" in refusal(tmp_path)


@given(st.data())
def test_a_file_that_is_cut_short_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = pickle.dumps(GOOD, protocol=2)
    kept = content[: data.draw(st.integers(0, len(content) - 1))]
    assert "is damaged or no pickle" in refusal(folder(tmp_path_factory.mktemp("cut"), kept))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": PIXELS[:, 1:]}, "holds an array of (3, 3071) as its data"),
        ({b"data": PIXELS[0]}, "holds an array of (3072,) as its data"),
        ({b"data": [1, 2]}, "holds no array as its data"),
        ({b"data": PIXELS.astype(np.float32)}, "asks for an array of the type 'f4'"),
        ({b"data": PIXELS.astype(object)}, "asks for an array of the type 'O8'"),
        ({b"fine_labels": [1, 2]}, "holds 3 images, but 2 fine labels"),
        ({b"fine_labels": [1, 2, 100]}, "holds the fine label 100"),
        ({b"fine_labels": [1, 2, -1]}, "holds the fine label -1"),
        ({b"fine_labels": [1, 2, 0.5]}, "no list of whole numbers"),
        ({b"fine_labels": b"abc"}, "no list of whole numbers"),
    ],
)
def test_wrong_content_is_refused(tmp_path: Path, change: dict[bytes, Any], message: str) -> None:
    assert message in refusal(folder(tmp_path, test=GOOD | change))


@pytest.mark.parametrize("content", [[1, 2], {b"data": PIXELS}, {b"fine_labels": [1, 2, 3]}, {}])
def test_another_pickle_is_refused(tmp_path: Path, content: Any) -> None:
    assert "no 'data' and 'fine_labels'" in refusal(folder(tmp_path, content))


def test_a_file_without_images_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps(GOOD | {b"data": PIXELS[:0], b"fine_labels": []}, protocol=3)
    assert "holds an array of (0, 3072) as its data" in refusal(folder(tmp_path, content))
