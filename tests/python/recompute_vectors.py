#!/usr/bin/env python3
"""Recomputes the protocol's test vectors from docs/protocol.md, without any of our Rust code.

Usage: recompute_vectors.py DIRECTORY, where DIRECTORY is crates/protocol/vectors.

The exit status is 0 when every value is what this program computes. Needs the package
cryptography. HPKE is written out here from RFC 9180, so that not even its library is shared.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import struct
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

b64 = base64.b64decode
unhex = bytes.fromhex


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def length_prefixed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def pae(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def digest(envelope: dict) -> bytes:
    return sha256(pae(envelope["payloadType"], b64(envelope["payload"])))


def public_of(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def check_messages(file: dict) -> None:
    for case in file["messages"]:
        envelope = case["envelope"]
        assert b64(envelope["payload"]) == case["payload"].encode(), case["name"]
        assert digest(envelope) == unhex(case["digest"]), case["name"]
        assert len(envelope["signatures"]) == len(case["signed_by"]), case["name"]
        for signature, name in zip(envelope["signatures"], case["signed_by"]):
            key = file["keys"][name]
            public = b64(key["public"])
            assert public_of(unhex(key["seed"])) == public, name
            assert sha256(public).hex() == key["id"] == signature["keyid"], name
            signed = pae(case["type"], case["payload"].encode())
            Ed25519PublicKey.from_public_bytes(public).verify(b64(signature["sig"]), signed)


def check_token(file: dict) -> None:
    for case in file["good"]:
        pin = unhex(case["server_pin"] or "")
        url = case["url"].encode()
        fields = struct.pack(">BBQ", 1, 1 if pin else 0, case["expires_s"])
        fields += unhex(case["root_pin"]) + pin + unhex(case["secret"])
        fields += struct.pack(">H", len(url)) + url
        token = fields + sha256(b"vpn-node token v1", fields)[:4]
        assert token == unhex(case["bytes"]), case["name"]
        text = "vnr1." + base64.urlsafe_b64encode(token).rstrip(b"=").decode()
        assert text == case["text"], case["name"]
        assert registration_key(unhex(case["secret"])) == b64(case["registration_key"])


def registration_key(secret: bytes) -> bytes:
    salt = b"vpn-node registration v1"
    return public_of(HKDF(hashes.SHA256(), 32, salt, b"ed25519 seed").derive(secret))


def check_chain(file: dict) -> None:
    for case in file["start"]:
        epoch = struct.pack(">I", case["epoch"])
        parts = length_prefixed(case["server_id"].encode(), epoch, b64(case["identity"]))
        assert sha256(b"vpn-node chain v1", parts) == unhex(case["chain"]), case
    for case in file["steps"]:
        after = sha256(unhex(case["previous"]), unhex(case["request_digest"]))
        assert after == unhex(case["chain"]), case


def check_enrolment(file: dict) -> None:
    keys = {name: b64(key["public"]) for name, key in file["keys"].items()}
    assert registration_key(unhex(file["registration"]["secret"])) == keys["registration"]
    assert sha256(keys["root"]) == unhex(file["pin"])
    hello = digest(file["greetings"][0]["response"]["hello"])
    parts = length_prefixed(hello, keys["root"], keys["registration"], keys["identity"])
    transcript = sha256(b"vpn-node enrolment v1", parts)
    assert transcript == unhex(file["transcript"]["value"])
    request = json.loads(b64(file["enrol_request"]["payload"]))
    assert unhex(request["transcript"]) == transcript
    assert digest(request["hello"]) == hello
    assert digest(file["enrol_request"]) == unhex(file["enrol_request_digest"])


KEM = b"KEM\x00\x20"
SUITE = b"HPKE\x00\x20\x00\x01\x00\x03"


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    # One block of HKDF-Expand: nothing here is longer than a SHA-256.
    labeled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labeled + b"\x01", "sha256")[:length]


def hpke_open(secret: bytes, enc: bytes, info: bytes, aad: bytes, ciphertext: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(secret)
    shared = key.exchange(X25519PublicKey.from_public_bytes(enc))
    prk = labeled_extract(KEM, b"", b"eae_prk", shared)
    context = enc + key.public_key().public_bytes_raw()
    shared = labeled_expand(KEM, prk, b"shared_secret", context, 32)
    context = b"\x00" + labeled_extract(SUITE, b"", b"psk_id_hash", b"")
    context += labeled_extract(SUITE, b"", b"info_hash", info)
    prk = labeled_extract(SUITE, shared, b"secret", b"")
    aead = ChaCha20Poly1305(labeled_expand(SUITE, prk, b"key", context, 32))
    nonce = labeled_expand(SUITE, prk, b"base_nonce", context, 12)
    return aead.decrypt(nonce, ciphertext, aad)


def derive_public(ikm: bytes) -> bytes:
    prk = labeled_extract(KEM, b"", b"dkp_prk", ikm)
    secret = labeled_expand(KEM, prk, b"sk", b"", 32)
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def check_hpke(file: dict) -> None:
    assert derive_public(unhex(file["ikmE"])) == unhex(file["pkEm"])
    assert derive_public(unhex(file["ikmR"])) == unhex(file["pkRm"])
    first = file["encryptions"][0]
    inputs = [file["skRm"], file["enc"], file["info"], first["aad"], first["ct"]]
    assert hpke_open(*map(unhex, inputs)) == unhex(file["pt"])


def additional_data(header: bytes, place: dict) -> bytes:
    if place["kind"] == "hardware":
        return length_prefixed(header, b"hardware", unhex(place["identity"]))
    epoch, sequence = unhex(place["ledger_epoch"]), struct.pack(">Q", place["sequence"])
    return length_prefixed(header, b"connection", place["server_id"].encode(), epoch, sequence)


def check_sealing(file: dict) -> None:
    secret = unhex(file["secret"])
    for case in file["sealed"]:
        sealed = b64(case["sealed"])
        header, enc, ciphertext = sealed[:9], sealed[9:41], sealed[41:]
        assert header == b"\x01" + sha256(unhex(file["public"]))[:8], case["name"]
        assert enc == derive_public(unhex(file["ephemeral_ikm"])), case["name"]
        aad = additional_data(header, case["context"])
        assert aad == unhex(case["aad"]), case["name"]
        opened = hpke_open(secret, enc, b"vpn-node sealing v1", aad, ciphertext)
        assert opened == case["plaintext"].encode(), case["name"]


def check_stamps(file: dict) -> None:
    def in_range(value: int) -> int:
        return max(-(2**63), min(2**63 - 1, value))

    for case in file["cases"]:
        event, now, controller = case["event"], case["now"], case["controller_now_ms"]
        if event["boot_id"] == now["boot_id"]:
            ago = max(0, now["boottime_ms"] - event["boottime_ms"])
            dated = in_range(controller - in_range(ago))
        else:
            dated = min(in_range(event["wall_ms"] + (event["offset_ms"] or 0)), controller)
        assert dated == case["by_controller"], case["name"]


def check_dsse(file: dict) -> None:
    for case in file["pae"]:
        assert pae(case["type"], unhex(case["payload"])) == unhex(case["pae"]), case["name"]
    for case in file["envelopes"]:
        if case["result"] == "ok":
            signed = pae(file["expected_type"], case["payload"].encode())
            assert sha256(signed) == unhex(case["digest"]), case["name"]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: recompute_vectors.py DIRECTORY", file=sys.stderr)
        return 1
    checks = {
        "chain": check_chain,
        "dsse": check_dsse,
        "enrolment": check_enrolment,
        "hpke": check_hpke,
        "messages": check_messages,
        "sealing": check_sealing,
        "stamps": check_stamps,
        "token": check_token,
    }
    for name, check in checks.items():
        path = pathlib.Path(arguments[0], f"{name}.json")
        check(json.loads(path.read_text(encoding="utf-8")))
    print(f"recomputed {', '.join(checks)}: every value agrees.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
