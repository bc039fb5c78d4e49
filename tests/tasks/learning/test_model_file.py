from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import ModelFileError
from tasks.learning import architecture, model_file, weights_file
from tasks.learning.network import build
from tasks.registry.documents import sha256
from tests.model_files import METADATA, archive, config_of, dense, small_model

# Two layers, so small that a test can alter each byte.
CONFIG = config_of(3, [dense(3, 4, "relu", "hidden"), dense(4, 2, "softmax", "digit")])
DESCRIBED = architecture.parse(json.dumps(CONFIG).encode(), METADATA)
NUMBERS = [np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)]
NUMBERS += [np.ones((4, 2), np.float32), np.full(2, 0.5, np.float32)]
WEIGHTS = weights_file.encode(DESCRIBED, NUMBERS)
SMALL = archive(CONFIG, WEIGHTS)


@pytest.fixture(scope="module")
def model() -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return build((28, 28), 10)


@pytest.fixture(scope="module")
def saved(model: Any) -> bytes:
    return model_file.to_bytes(model)


def saved_by_keras(model: Any, folder: Path) -> dict[str, bytes]:
    """The members of the archive that Keras writes."""
    model.save(folder / "model.keras")
    with zipfile.ZipFile(folder / "model.keras") as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def rewritten(data: bytes, **changed: bytes | None) -> bytes:
    """The archive with members replaced, added or (None) left out; `__` stands for a dot."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        members: dict[str, bytes | None] = {name: opened.read(name) for name in opened.namelist()}
    members |= {name.replace("__", "."): content for name, content in changed.items()}
    return model_file._zipped({name: content for name, content in members.items() if content is not None})


def with_layer(data: bytes, layer: dict[str, Any]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        config = json.loads(opened.read("config.json"))
    config["config"]["layers"].append(layer)
    return rewritten(data, config__json=json.dumps(config).encode())


def test_the_same_weights_give_the_same_bytes_and_digest(model: Any, saved: bytes) -> None:
    twin = build((28, 28), 10)
    twin.set_weights(model.get_weights())
    assert model_file.to_bytes(twin) == saved
    assert model_file.weights_digest(twin) == model_file.weights_digest(model)
    assert model_file.same_weights(model_file.to_bytes(twin), saved)
    twin.layers[-1].bias.assign(np.full(10, 1e-7, np.float32))
    assert model_file.to_bytes(twin) != saved
    assert model_file.weights_digest(twin) != model_file.weights_digest(model)
    assert not model_file.same_weights(model_file.to_bytes(twin), saved)


def test_a_loaded_model_predicts_the_same_and_has_no_optimizer(model: Any, saved: bytes) -> None:
    images = np.random.default_rng(0).random((5, 784), np.float32)
    loaded = model_file.load(saved)
    assert np.array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    assert not loaded.compiled
    assert loaded.count_params() == 407_050


@pytest.mark.parametrize(("units", "bias"), [([1], True), ([4096, 10], False), ([2] * 20, True)])
def test_the_bytes_are_those_that_keras_writes_except_for_the_date(
    units: list[int], bias: bool, tmp_path: Path
) -> None:
    import keras

    model = keras.Sequential([keras.Input((5,)), *(keras.layers.Dense(each, use_bias=bias) for each in units)])
    model.layers[0].trainable = bias
    model.set_weights([np.random.default_rng(0).random(each.shape, np.float32) for each in model.weights])
    uncompiled = keras.Sequential.from_config(model.get_config())
    uncompiled.set_weights(model.get_weights())
    members = saved_by_keras(uncompiled, tmp_path)
    metadata = json.loads(members["metadata.json"]) | {"date_saved": "1980-01-01@00:00:00"}
    ours = model_file.to_bytes(model)
    assert ours == model_file._zipped(members | {"metadata.json": json.dumps(metadata).encode()})
    loaded = model_file.load(ours)
    assert all(map(np.array_equal, loaded.get_weights(), model.get_weights()))
    (tmp_path / "ours.keras").write_bytes(ours)
    again = keras.saving.load_model(tmp_path / "ours.keras")
    assert all(map(np.array_equal, again.get_weights(), model.get_weights()))


def test_the_layout_is_the_one_of_every_file_that_is_published() -> None:
    """Of HDF5 1.14.2 to 2.0.0. A version that writes another one could not read what others have published."""
    assert sha256(WEIGHTS) == "74bffed9c9a4ab6b5194c844ed7153d48c045463b6d649d9f3ef63d51b18c74f"


def test_a_file_is_checked_without_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(small_model())
    code = (
        "import sys; from pathlib import Path; from tasks.learning.model_file import check; "
        "print(check(Path(sys.argv[1]).read_bytes()).name, 'keras' in sys.modules, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.keras")]
    assert subprocess.check_output(command, text=True) == "chollet_mnist False False\n"


LAMBDA: dict[str, Any] = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {"function": {}},
    "registered_name": None,
}

Path_ = tuple[str | int, ...]
DENSE: Path_ = ("config", "layers", 1)
UNITS: Path_ = (*DENSE, "config", "units")
MISSING = object()


def changed(path: Path_, value: Any) -> bytes:
    """The small model with one value of its config set, or (MISSING) left out."""
    config = copy.deepcopy(CONFIG)
    *parents, last = path
    target: Any = config
    for step in parents:
        target = target[step]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return archive(config, WEIGHTS)


DESCRIPTION = "config.json is not the description of a known network"


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ((*DENSE, "class_name"), "Lambda", "holds the class Lambda, which is not known to be harmless"),
        ((*DENSE, "class_name"), "a\n\x1b[2Jb", r"holds the class a\\n\\x1b\[2Jb, which is not known"),
        ((*DENSE, "class_name"), ["Dense"], r"holds the class \['Dense'\]"),
        ((*DENSE, "module"), "evil", DESCRIPTION),
        ((*DENSE, "module"), "keras.src.anything", DESCRIPTION),
        ((*DENSE, "registered_name"), "evil>Dense", DESCRIPTION),
        ((*DENSE, "registered_name"), MISSING, DESCRIPTION),
        ((*DENSE, "config", "function"), {}, DESCRIPTION),
        ((*DENSE, "config", "x" * 5000), 1, DESCRIPTION),
        ((*DENSE, "config", "name"), "a/b", DESCRIPTION),
        ((*DENSE, "config", "name"), "digit", "two layers have the same name"),
        ((*DENSE, "config", "name"), "pixels", "two layers have the same name"),
        ((*DENSE, "config", "activation"), "evil", DESCRIPTION),
        ((*DENSE, "config", "activation"), LAMBDA, DESCRIPTION),
        ((*DENSE, "config", "kernel_regularizer"), LAMBDA, "holds the class Lambda"),
        ((*DENSE, "config", "kernel_constraint"), LAMBDA, DESCRIPTION),
        ((*DENSE, "config", "kernel_initializer"), "zeros", DESCRIPTION),
        ((*DENSE, "config", "kernel_initializer", "class_name"), "Evil", "holds the class Evil"),
        ((*DENSE, "config", "bias_initializer", "config"), {"seed": 1}, DESCRIPTION),
        ((*DENSE, "config", "kernel_initializer", "config", "seed"), LAMBDA, DESCRIPTION),
        ((*DENSE, "config", "dtype", "config", "name"), "float16", DESCRIPTION),
        ((*DENSE, "config", "dtype"), "complex64", DESCRIPTION),
        ((*DENSE, "config", "use_bias"), 1, DESCRIPTION),
        ((*DENSE, "config", "quantization_config"), {}, DESCRIPTION),
        ((*DENSE, "build_config", "input_shape"), [None, 5], "hidden does not take what the layer before it gives"),
        ((*DENSE, "build_config", "input_shape"), [7, 3], DESCRIPTION),
        ((*DENSE, "build_config"), MISSING, DESCRIPTION),
        (UNITS, 3_000_000, "digit does not take what the layer before it gives"),
        (UNITS, 0, DESCRIPTION),
        (UNITS, -4, DESCRIPTION),
        (UNITS, True, DESCRIPTION),
        (UNITS, 4.0, DESCRIPTION),
        (UNITS, "4", DESCRIPTION),
        (UNITS, float("nan"), DESCRIPTION),
        (UNITS, 10**4000, "config.json"),
        (("config", "layers"), [], DESCRIPTION),
        (("config", "layers"), CONFIG["config"]["layers"][:1], DESCRIPTION),
        (("config", "layers"), CONFIG["config"]["layers"][1:], "an InputLayer has to be the first layer"),
        (("config", "layers"), CONFIG["config"]["layers"][:1] * 2, "an InputLayer has to be the first layer"),
        (("config", "layers"), CONFIG["config"]["layers"][:1] + CONFIG["config"]["layers"][1:] * 100, DESCRIPTION),
        (("config", "build_input_shape"), [None, 4], "the input has two shapes"),
        (("config", "layers", 0, "config", "ragged"), True, DESCRIPTION),
        (("config", "layers", 0, "config", "batch_shape"), [None, 3, 1], "the input has two shapes"),
        (("class_name",), "Functional", DESCRIPTION),
        (("compile_config",), {"optimizer": "evil"}, DESCRIPTION),
        (("config", "name"), "\ud800", "config.json"),
    ],
)
def test_a_network_that_is_not_described_is_refused(path: Path_, value: Any, why: str) -> None:
    with pytest.raises(ModelFileError, match=why) as error:
        model_file.check(changed(path, value))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_a_network_that_is_too_large_for_its_file_is_refused_before_anything_of_its_size_is_allocated() -> None:
    config = config_of(784, [dense(784, 3_000_000, "relu", "hidden"), dense(3_000_000, 10, "softmax", "digit")])
    data = archive(config, WEIGHTS)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="its weights have not the size"):
        model_file.check(data)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{",
        b"null",
        b"[" * 200_000,
        b"[" * 100 + b"]" * 100,
        b"\xff\xfe",
        b"1e999",
        json.dumps(CONFIG, indent=1).encode(),
        json.dumps(CONFIG).encode()[:-1] + b', "class_name": "Sequential"}',
        json.dumps(CONFIG).encode() + b" ",
    ],
)
def test_a_config_that_keras_does_not_write_is_refused(config: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"its config\.json"):
        model_file.check(archive(config, WEIGHTS))


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"{}",
        METADATA.replace(b"1980", b"1981"),
        METADATA.replace(b"3.15.1", b"3.15.1\\u001b[2J"),
        METADATA[:-1] + b', "more": 1}',
    ],
)
def test_metadata_with_anything_else_are_refused(metadata: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"its metadata\.json"):
        model_file.check(archive(CONFIG, WEIGHTS, metadata))


def hdf5(libver: str = "earliest", attribute: object = None, **replaced: Mapping[str, Any]) -> bytes:
    """The small model's weights, written with h5py: the kernel of the first layer replaced, or with an attribute."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=libver) as file:
        file.create_group("vars").attrs["name"] = DESCRIBED.name
        numbers = iter(NUMBERS)
        for group in DESCRIBED.groups:
            folder = file.create_group(f"{group.path}/vars")
            folder.attrs["name"] = group.name
            for number in range(2):
                values = next(numbers)
                if number == 0 and "kernel" in replaced:
                    folder.create_dataset("0", **({"data": values} | dict(replaced.pop("kernel"))))
                else:
                    folder[str(number)] = values
        if attribute is not None:
            file.attrs["more"] = attribute
    return buffer.getvalue()


def external(folder: str) -> bytes:
    """A kernel whose numbers lie in a file of the reader's machine."""
    return hdf5(kernel={"data": None, "shape": (3, 4), "dtype": "<f4", "external": [(folder, 0, 48)]})


LAID_OUT = "its weights (are not laid out as HDF5|have not the size)"


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"no HDF5",
        WEIGHTS[:-1],
        WEIGHTS + b"\0",
        WEIGHTS[:100] + bytes(len(WEIGHTS) - 100),
        hdf5("latest"),
        hdf5(attribute="a"),
        hdf5(kernel={"data": NUMBERS[0].astype(np.complex64)}),
        hdf5(kernel={"data": NUMBERS[0].astype(bool)}),
        hdf5(kernel={"data": NUMBERS[0].astype("S4")}),
        hdf5(kernel={"data": NUMBERS[0].astype(np.float64)}),
        hdf5(kernel={"data": NUMBERS[0].astype(">f4")}),
        hdf5(kernel={"data": NUMBERS[0].astype(np.int32)}),
        hdf5(kernel={"data": NUMBERS[0].T}),
        hdf5(kernel={"chunks": (1, 4), "compression": "gzip"}),
        hdf5(kernel={"data": None, "shape": (2**40, 4), "dtype": "<f4", "chunks": (1, 4)}),
        external("/etc/passwd"),
        external("../model.keras"),
    ],
)
def test_weights_in_any_other_layout_are_refused_unread(weights: bytes) -> None:
    with pytest.raises(ModelFileError, match=LAID_OUT):
        model_file.check(archive(CONFIG, weights))


def test_the_same_weights_written_by_h5py_are_accepted() -> None:
    assert hdf5() == WEIGHTS


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(number: float) -> None:
    numbers = [*NUMBERS[:-1], np.array([0, number], np.float32)]
    with pytest.raises(ModelFileError, match="a weight is not a finite number"):
        model_file.check(archive(CONFIG, weights_file.encode(DESCRIBED, numbers)))


def zipped(names: list[str], compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    contents = {"metadata.json": METADATA, "config.json": json.dumps(CONFIG).encode(), "model.weights.h5": WEIGHTS}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        opened.comment = comment
        for name in names:
            opened.writestr(zipfile.ZipInfo(name, model_file.EPOCH), contents.get(name, b"x"), compression)
    return buffer.getvalue()


MEMBERS = list(model_file.MEMBERS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        SMALL[:-30],
        SMALL + b"x",
        b"x" + SMALL,
        SMALL[:-22] + SMALL,
        SMALL[:26] + b"\xff\xff" + SMALL[28:],
        SMALL.replace(b"config.json", b"c0nfig.json"),
        zipped([*MEMBERS, ".bashrc"]),
        zipped([*MEMBERS, "../../evil.py"]),
        zipped(MEMBERS[:2]),
        zipped(MEMBERS[::-1]),
        zipped(MEMBERS, zipfile.ZIP_DEFLATED),
        zipped(MEMBERS, comment=b"hello"),
    ],
)
def test_an_archive_that_is_packed_otherwise_is_refused(data: bytes) -> None:
    assert zipped(MEMBERS) == SMALL
    with pytest.raises(ModelFileError, match=r"it is not an archive of exactly|metadata\.json has more than"):
        model_file.check(data)


def test_files_of_other_kinds_are_refused_with_a_hint() -> None:
    with pytest.raises(ModelFileError, match=r"an \.h5 file, which can hold code\. Save it as \.keras"):
        model_file.check(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ModelFileError, match=r"metadata\.json has more than 10,000 bytes"):
        model_file.check(archive(CONFIG, WEIGHTS, b" " * 10_001))


def test_a_network_of_which_nobody_could_load_the_file_is_not_written() -> None:
    import keras

    layers = [keras.Input((3,), name="pixels"), keras.layers.Dense(2, name="digit"), keras.layers.GaussianNoise(0.5)]
    with pytest.raises(ModelFileError, match="holds the class GaussianNoise"):
        model_file.to_bytes(keras.Sequential(layers))


MEMBER = {"config.json": json.dumps(CONFIG).encode(), "metadata.json": METADATA, "model.weights.h5": WEIGHTS}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MEMBER)), st.data())
def test_any_altered_byte_is_refused_or_is_a_number(name: str, data: st.DataObject) -> None:
    """Whoever alters it packs it again: the checksums of the archive agree."""
    content = MEMBER[name]
    place = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda drawn: drawn != content[place]))
    members = MEMBER | {name: content[:place] + bytes([value]) + content[place + 1 :]}
    altered = archive(members["config.json"], members["model.weights.h5"], members["metadata.json"])
    try:
        described, numbers = model_file._parse(altered)
    except ModelFileError:
        return
    if name == "model.weights.h5":
        assert described == DESCRIBED
        different = [not np.array_equal(one, other) for one, other in zip(numbers, NUMBERS, strict=True)]
        assert sum(different) == 1
    else:  # another name, activation or initializer that is known, or another version of Keras
        assert [each.shape for each in numbers] == [each.shape for each in NUMBERS]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_altered_byte_of_the_archive_is_refused(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(SMALL) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda drawn: drawn != SMALL[place]))
    with pytest.raises(ModelFileError):
        model_file.check(SMALL[:place] + bytes([value]) + SMALL[place + 1 :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def places(value: Any, path: Path_ = ()) -> list[Path_]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(CONFIG)[1:]), JSON)
def test_whatever_a_config_says_is_refused_or_is_a_model_that_loads(path: Path_, value: Any) -> None:
    data = changed(path, value)
    accepted: Callable[[bytes], object] = model_file.check
    try:
        accepted(data)
    except ModelFileError:
        return
    model_file.load(data)
