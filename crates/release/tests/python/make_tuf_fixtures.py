#!/usr/bin/env python3
"""Writes tests/fixtures/python-tuf: repositories made by python-tuf, for tests/tuf/other_makers.rs.

    python3 -m venv env && env/bin/pip install "tuf==7.0.0" "securesystemslib[crypto]==1.4.0"
    env/bin/python crates/release/tests/python/make_tuf_fixtures.py

Keys come from fixed seeds and times are fixed, so the Ed25519 repository is the same in every run
(the ECDSA and RSA roots are not: their keys and signatures are random).
"""

import hashlib
import shutil
from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as rsa_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

BASE = Path(__file__).resolve().parent.parent / "fixtures" / "python-tuf"
EXPIRES = datetime(2036, 1, 1, tzinfo=timezone.utc)
PRETTY = JSONSerializer(compact=False)


def signer(seed: int) -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def write(folder: Path, name: str, role, signers) -> bytes:
    metadata = Metadata(role)
    for one in signers:
        metadata.sign(one, append=True)
    data = metadata.to_bytes(PRETTY)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return data


def add_target(base: Path, targets: Targets, path: str, content: bytes, algorithms: list[str]) -> None:
    info = TargetFile.from_data(path, content, algorithms)
    info.unrecognized_fields["custom"] = {"text": 'quotes " and \\ and ü', "number": -7, "list": [None, True]}
    targets.targets[path] = info
    folder, _, name = path.rpartition("/")
    for digest in info.hashes.values():
        place = base / "targets" / folder / f"{digest}.{name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def repository(base: Path) -> None:
    """Two roots (one key of three rotated), targets, and two delegated roles."""
    root_keys = [signer(n) for n in (1, 2, 3, 4)]
    targets_key, online, project, bins = signer(11), signer(21), signer(31), signer(32)
    root = Root(version=1, expires=EXPIRES, consistent_snapshot=True)
    for key in root_keys[:3]:
        root.add_key(key.public_key, "root")
    root.roles["root"].threshold = 2
    root.add_key(targets_key.public_key, "targets")
    for role in ("snapshot", "timestamp"):
        root.add_key(online.public_key, role)
    write(base / "metadata", "1.root.json", root, root_keys[:2])
    root.version = 2
    root.revoke_key(root_keys[0].public_key.keyid, "root")
    root.add_key(root_keys[3].public_key, "root")
    write(base / "metadata", "2.root.json", root, root_keys[:4])

    targets = Targets(version=3, expires=EXPIRES)
    add_target(base, targets, "top.txt", b"from targets\n", ["sha256"])
    digest = hashlib.sha256(b"bins/one.bin").hexdigest()
    targets.delegations = Delegations({}, {
        "project": DelegatedRole("project", [], 1, False, ["project/*/*.zst"]),
        "bins": DelegatedRole("bins", [], 1, True, None, [digest[:2]]),
    })
    targets.add_key(project.public_key, "project")
    targets.add_key(bins.public_key, "bins")
    delegated = Targets(version=2, expires=EXPIRES)
    add_target(base, delegated, "project/1.0/linux.zst", b"from project\n", ["sha256", "sha512"])
    binned = Targets(version=1, expires=EXPIRES)
    add_target(base, binned, "bins/one.bin", b"from bins\n", ["sha512"])

    files = {
        "targets.json": (3, write(base / "metadata", "3.targets.json", targets, [targets_key])),
        "project.json": (2, write(base / "metadata", "2.project.json", delegated, [project])),
        "bins.json": (1, write(base / "metadata", "1.bins.json", binned, [bins])),
    }
    meta = {name: MetaFile.from_data(version, data, ["sha256"]) for name, (version, data) in files.items()}
    snapshot = write(base / "metadata", "5.snapshot.json", Snapshot(5, expires=EXPIRES, meta=meta), [online])
    timestamp = Timestamp(9, expires=EXPIRES, snapshot_meta=MetaFile.from_data(5, snapshot, ["sha256"]))
    write(base / "metadata", "timestamp.json", timestamp, [online])


def foreign_root(folder: Path, key) -> None:
    """A first root that one key of another kind signs for everything."""
    one = CryptoSigner(key)
    root = Root(version=1, expires=EXPIRES, consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        root.add_key(one.public_key, role)
    write(folder, "1.root.json", root, [one])


if __name__ == "__main__":
    shutil.rmtree(BASE, ignore_errors=True)
    repository(BASE / "ed25519")
    foreign_root(BASE / "ecdsa", ec_key(SECP256R1()))
    foreign_root(BASE / "rsa", rsa_key(public_exponent=65537, key_size=2048))
