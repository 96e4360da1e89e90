import hashlib
import json
import pickle
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepidea.errors import ArtifactError, StorageError
from deepidea.model import artifact
from deepidea.model.artifact import MANIFEST, read_artifact, write_artifact
from deepidea.model.detector import Detector


@pytest.fixture
def model_file(detector, tmp_path):
    path = tmp_path / "model.idea"
    detector.save(path)
    return path


def rewritten(path, changes=(), drop=(), comment=None):
    """Write the archive again with some members changed, added or dropped."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name not in drop}
        comment = archive.comment if comment is None else comment
    members.update(dict(changes))
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def manifest_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(MANIFEST))


def test_members_come_back_as_written(tmp_path):
    members = {"model.onnx": b"graph", "training_rows.u64": bytes(16)}
    write_artifact(tmp_path / "a.idea", {"classes": ["benign"]}, members)
    manifest, found = read_artifact(tmp_path / "a.idea")
    assert found == members
    assert manifest["classes"] == ["benign"]
    assert manifest["format"] == 1


def test_equal_detectors_are_equal_files(detector, tmp_path):
    for name in ("a.idea", "b.idea"):
        detector.save(tmp_path / name)
    assert (tmp_path / "a.idea").read_bytes() == (tmp_path / "b.idea").read_bytes()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"model.onnx": b"other bytes"}, "SHA-256"),
        ({"weights.safetensors": b""}, "SHA-256"),
        ({"extra.pkl": b"x"}, "its members are"),
        ({"../outside": b"x"}, "its members are"),
        ({MANIFEST: b"{}"}, "manifest.json does not match its SHA-256"),
    ],
)
def test_a_changed_file_is_refused(model_file, changes, rule):
    with pytest.raises(ArtifactError, match=rule):
        Detector.load(rewritten(model_file, changes))


@pytest.mark.parametrize("name", ["model.onnx", MANIFEST, "training_rows.u64"])
def test_a_missing_member_is_refused(model_file, name):
    with pytest.raises(ArtifactError):
        Detector.load(rewritten(model_file, drop=[name]))


def forged(path, **changes):
    """Change the manifest as somebody would who also mends its hash."""
    document = json.dumps({**manifest_of(path), **changes}).encode()
    return rewritten(path, {MANIFEST: document}, comment=hashlib.sha256(document).hexdigest().encode())


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"format": 99}, "format is 99"),
        ({"format": None}, "format"),
        ({"members": []}, "no object 'members'"),
        ({"members": {}}, "its manifest lists"),
        ({"schema": {"name": 3}}, "schema contract"),
        ({"schema": None}, "'schema'"),
        ({"encoder": {}}, "encoder contract"),
        ({"decision": {"prior": [1, 2]}}, "decision contract"),
        ({"classes": ["benign"]}, "the detector has 1 classes"),
        ({"labels": ["benign", "flood", "flood"]}, "different labels"),
        ({"classes": None}, "'classes'"),
    ],
)
def test_a_forged_manifest_is_refused(model_file, changes, rule):
    with pytest.raises(ArtifactError, match=rule):
        Detector.load(forged(model_file, **changes))


def test_a_manifest_of_another_schema_is_refused(model_file):
    schema = manifest_of(model_file)["schema"]
    schema["columns"] = schema["columns"][1:]
    with pytest.raises(ArtifactError, match="does not match its schema"):
        Detector.load(forged(model_file, schema=schema))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_a_pickle_is_reported_and_not_run(tmp_path):
    path = tmp_path / "model.idea"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError, match="Python pickle"):
        Detector.load(path)


def test_a_pickle_inside_is_not_run(model_file):
    with pytest.raises(ArtifactError):
        Detector.load(rewritten(model_file, {"weights.safetensors": pickle.dumps(Bomb())}))


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ArtifactError, match="train one first"):
        Detector.load(tmp_path / "none.idea")
    with pytest.raises(ArtifactError, match="zip"):
        Detector.load(tmp_path)


def test_an_announced_bomb_is_not_unpacked(model_file, monkeypatch):
    monkeypatch.setitem(artifact._MAX_BYTES, "model.onnx", 100)
    with pytest.raises(ArtifactError, match="at most 100 bytes"):
        Detector.load(model_file)


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.idea"
    detector.save(path)
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), cut=st.booleans())
def test_any_damage_is_an_artifact_error_or_harmless(detector, saved, tmp_path, place, change, cut):
    path = tmp_path / "damaged.idea"
    data = bytearray(saved)
    at = int(place * len(data))
    path.write_bytes(data[:at] if cut else data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
    try:
        loaded = Detector.load(path)
    except ArtifactError:
        return
    assert loaded.graph == detector.graph  # a byte that no reader looks at: a time stamp, an attribute
    assert loaded.decision == detector.decision


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.idea"
        path.write_bytes(data)
        with pytest.raises(ArtifactError):
            read_artifact(path)


def test_a_disk_that_is_full_leaves_the_old_file(detector, model_file, monkeypatch):
    old = model_file.read_bytes()

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        detector.save(model_file)
    assert model_file.read_bytes() == old
    assert [path.name for path in model_file.parent.iterdir()] == ["model.idea"]
