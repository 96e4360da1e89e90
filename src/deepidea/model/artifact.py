"""The bytes of a detector file: a zip of up to five members, read, audited, and only then built.

=====================  ==================================================================================
``manifest.json``      format number, schema, encoder, classes, decision, what it was trained on and how,
                       and size and SHA-256 of every other member
``model.onnx``         encoder and network as one graph (:mod:`deepidea.model.graph`)
``weights.safetensors``  the network's weights by their torch names, for continued training
``training_rows.u64``  sorted 64-bit fingerprints of the distinct training vectors, little-endian
``training_sample.bin``  a bounded sample of training's flows (:mod:`deepidea.model.training_sample`)
=====================  ==================================================================================

Nothing in the file is executed or unpickled. The zip comment holds the manifest's SHA-256. The hashes detect damage and
careless edits; they are not a signature: whoever can write a file can write its hashes.

A change that old readers cannot read raises :data:`FORMAT`; every format ever written stays readable. A file is of the
oldest format that holds it:

1. numbers scaled alone
2. numbers in steps between quantiles (:mod:`deepidea.model.quantile_steps`), a sample of training's flows, or novelty
   fitted to a site (:mod:`deepidea.detection.adapt`)
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepidea.errors import ArtifactError
from deepidea.flows.atomic import replacing

FORMAT = 2
MANIFEST = "manifest.json"
MEMBERS = ("model.onnx", "weights.safetensors", "training_rows.u64", "training_sample.bin")
_REQUIRED = ("model.onnx",)
_MAX_BYTES = {MANIFEST: 64 << 20, "model.onnx": 1 << 30, "weights.safetensors": 1 << 30, "training_rows.u64": 2 << 30}
_MAX_BYTES["training_sample.bin"] = 256 << 20
# Protocols 2 to 5 begin with this opcode and their number. Unpickling runs code, so a pickle is named, not opened.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed time stamps: equal detectors are equal files


def write_artifact(
    path: str | Path, manifest: Mapping[str, Any], members: Mapping[str, bytes], *, format: int = 1
) -> None:
    """Write a detector file, whole or not at all.

    Parameters
    ----------
    path : path
    manifest : mapping
        JSON values; ``format`` and ``members`` are added here.
    members : mapping of name to bytes
        Names out of :data:`MEMBERS`.
    format : int
        The oldest format that holds them.

    Raises
    ------
    StorageError
        When the file cannot be written; an old file at ``path`` stays.
    """
    hashes = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in members.items()}
    document = json.dumps({"format": format, **manifest, "members": hashes}, indent=1, allow_nan=False).encode()
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        # In the zip's comment, since a manifest cannot hold its own hash.
        archive.comment = _sha256(document).encode()
        for name, data in {MANIFEST: document, **members}.items():
            # Fingerprints are random bits, which nothing compresses.
            kind = zipfile.ZIP_STORED if name == "training_rows.u64" else zipfile.ZIP_DEFLATED  # random bits
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, kind)


def read_artifact(path: str | Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest and the members of a detector file, after every check that needs no schema.

    Raises
    ------
    ArtifactError
        The file is missing, not a detector file, damaged, changed, or of an unknown format.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_audited(path, archive)
    except FileNotFoundError as error:
        raise ArtifactError(f"cannot read detector file {path}: no such file; train one first") from error
    # What the zip module raises for a file that is none, is cut off, encrypted, or packed in a way it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        if _is_pickle(path):
            raise ArtifactError(
                f"refused detector file {path}: it is a Python pickle, which could run any code when loaded"
            ) from error
        reason = f"cannot read detector file {path} as a zip: {error}; get a fresh copy, or train again"
        raise ArtifactError(reason) from error


def _is_pickle(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) in _PICKLES


def _read_audited(path: Path, archive: zipfile.ZipFile) -> tuple[dict[str, Any], dict[str, bytes]]:
    # Order matters: names and sizes before anything is unpacked, the manifest's hash before it is parsed, the members'
    # hashes before they are used.
    names = archive.namelist()
    unknown, missing = set(names) - {MANIFEST, *MEMBERS}, {MANIFEST, *_REQUIRED} - set(names)
    if unknown or missing or len(set(names)) < len(names):
        raise ArtifactError(
            f"{path} is no detector file: its members are {names[:8]}, expected {MANIFEST}, {', '.join(_REQUIRED)} and "
            f"at most {list(MEMBERS)}, each once"
        )
    document = _read_member(path, archive, MANIFEST)
    if archive.comment != _sha256(document).encode():
        raise ArtifactError(f"{path} was changed: manifest.json does not match its SHA-256; get a fresh copy")
    manifest = _parse_manifest(path, document)
    members = {name: _read_member(path, archive, name) for name in names if name != MANIFEST}
    _check_hashes(path, manifest["members"], members)
    return manifest, members


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    # The declared size is checked before anything is unpacked, so that a zip bomb cannot fill the memory.
    size = archive.getinfo(name).file_size
    if size > _MAX_BYTES[name]:
        raise ArtifactError(f"refused {path}: {name} declares {size} bytes, at most {_MAX_BYTES[name]} bytes are read")
    return archive.read(name)


def _parse_manifest(path: Path, document: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(document)
    # The parser calls itself for each level: a document of brackets alone exhausts Python's stack.
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"cannot read manifest.json of {path}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("members"), dict):
        raise ArtifactError(f"manifest.json of {path} has no object 'members'")
    if manifest.get("format") not in range(1, FORMAT + 1):
        raise ArtifactError(
            f"cannot read {path}: its format is {manifest.get('format')!r}, this version reads formats up to {FORMAT}; "
            "update deepidea, or train again"
        )
    return manifest


def _check_hashes(path: Path, declared: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    if set(declared) != set(members):
        raise ArtifactError(f"{path} was changed: its manifest lists {sorted(declared)}, it holds {sorted(members)}")
    for name, data in members.items():
        entry = declared[name]
        if not isinstance(entry, dict) or entry.get("sha256") != _sha256(data):
            raise ArtifactError(f"{path} was changed: {name} does not match its SHA-256; get a fresh copy")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
