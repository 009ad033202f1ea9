"""The notebooks' loaders of public data, on folders that stand in for the real ones.

The stand-ins have the columns, types and file layout of the repositories on the Hub.
"""

import io

import numpy as np
import pytest

_REASON = 'needs pip install -e ".[notebooks]"'
datasets = pytest.importorskip("datasets", reason=_REASON)
soundfile = pytest.importorskip("soundfile", reason=_REASON)
public_data = pytest.importorskip("public_data", reason=_REASON)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def folder(path, parts, features, config="default"):
    """Parquet files, and the README that tells their splits, as on the Hub."""
    path.mkdir()
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, rows in parts.items():
        table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        if "audio" in features:
            table = table.cast_column("audio", datasets.Audio(sampling_rate=16_000))
        table.to_parquet(path / f"{split}.parquet")
        lines += [f"  - split: {split}", f"    path: {split}.parquet"]
    (path / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(path)


def test_cifar10(tmp_path):
    rng = np.random.default_rng(0)

    def rows(count):
        images = rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        return [
            {"img": image, "label": k % 10} for k, image in enumerate(images)
        ], images

    train_rows, train_images = rows(20)
    test_rows, test_images = rows(5)
    source = folder(
        tmp_path / "cifar10",
        {"train": train_rows, "test": test_rows},
        {"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)},
    )
    train, validation, test = public_data.cifar10(source)
    np.testing.assert_array_equal(train.images, train_images[:18] / np.float32(255))
    np.testing.assert_array_equal(
        validation.images, train_images[18:] / np.float32(255)
    )
    np.testing.assert_array_equal(test.images, test_images / np.float32(255))
    np.testing.assert_array_equal(train.labels, np.arange(18) % 10)
    np.testing.assert_array_equal(validation.labels, [8, 9])
    assert train.images.dtype == np.float32
    assert train.labels.dtype == np.int32


def test_speech_commands(tmp_path):
    rng = np.random.default_rng(0)
    words = ["yes", "no", "_silence_"]

    def row(label, length):
        samples = rng.integers(-(2**15), 2**15, size=length, dtype=np.int16)
        file = io.BytesIO()
        soundfile.write(file, samples, 16_000, format="WAV")
        return {
            "audio": {"bytes": file.getvalue(), "path": None},
            "label": label,
        }, samples

    (short, short_wave), (long, long_wave), (silence, _) = (
        row(1, 9_000),
        row(0, 17_000),
        row(2, 16_000),
    )
    source = folder(
        tmp_path / "speech",
        {"train": [short, silence, long], "validation": [long], "test": [short]},
        {
            # To encode audio, `datasets` itself would need torch.
            "audio": {
                "bytes": datasets.Value("binary"),
                "path": datasets.Value("string"),
            },
            "label": datasets.ClassLabel(names=words),
        },
        config="v0.02",
    )
    train, validation, test = public_data.speech_commands(source, revision=None)
    assert train.words == ("yes", "no")
    np.testing.assert_array_equal(train.labels, [1, 0])
    np.testing.assert_array_equal(
        train.waves[0, :9_000], short_wave / np.float32(2**15)
    )
    np.testing.assert_array_equal(train.waves[0, 9_000:], 0)
    np.testing.assert_array_equal(
        train.waves[1], long_wave[:16_000] / np.float32(2**15)
    )
    np.testing.assert_array_equal(validation.waves, train.waves[1:])
    np.testing.assert_array_equal(test.waves, train.waves[:1])


def test_wikitext(tmp_path):
    parts = {
        "train": [{"text": " = Ä title = \n"}, {"text": ""}, {"text": " body \n"}],
        "validation": [{"text": "v"}],
        "test": [{"text": "t"}],
    }
    source = folder(
        tmp_path / "wikitext", parts, {"text": datasets.Value("string")}, config="raw"
    )
    train, validation, test = public_data.wikitext(source, "raw")
    assert train.tobytes().decode() == " = Ä title = \n body \n"
    assert (validation.tobytes(), test.tobytes()) == (b"v", b"t")
    assert train.dtype == np.uint8
