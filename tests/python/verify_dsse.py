#!/usr/bin/env python3
"""Verifies a DSSE envelope with securesystemslib, an implementation that is not ours.

Usage: verify_dsse.py ENVELOPE PUBLIC_KEY

ENVELOPE is a file with the JSON of one envelope. PUBLIC_KEY is the signer's raw Ed25519 public
key in base64, as it stands in this protocol's messages. The exit status is 0 when the key signed
the envelope and 1 when it did not, or when something could not be read. One sentence says which.

Needs the packages securesystemslib and cryptography.
"""

import base64
import hashlib
import json
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: verify_dsse.py ENVELOPE PUBLIC_KEY", file=sys.stderr)
        return 1
    path, public = arguments
    try:
        raw = base64.b64decode(public, validate=True)
        # securesystemslib looks for the signature by its key id: ours is SHA-256 of the raw key.
        key_id = hashlib.sha256(raw).hexdigest()
        key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw), key_id)
    except ValueError as error:
        print(f"{public} is not an Ed25519 public key in base64: {error}.")
        return 1
    try:
        with open(path, encoding="utf-8") as file:
            envelope = Envelope.from_dict(json.load(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{path} does not hold a DSSE envelope: {error!r}.")
        return 1
    try:
        envelope.verify([key], threshold=1)
    except VerificationError:
        print(f"{path} is NOT signed by key {key_id}.")
        return 1
    print(f"{path} is signed by key {key_id} and holds {envelope.payload_type}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
