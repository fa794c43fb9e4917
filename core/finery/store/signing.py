"""Signatures of records in a shared store: ed25519, with the keys that people use for SSH."""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finery.errors import UsageError

KIND = "ssh-ed25519"
_SIGNATURE_PREFIX = b"finery record\n"
"""Before what is signed, so that a signature can't be used for anything else."""


class Signer:
    """Signs with the private key in a file."""

    def __init__(self, file: str) -> None:
        _, serialization = _load_cryptography()
        path = Path(file).expanduser()
        try:
            self._key: Any = serialization.load_ssh_private_key(path.read_bytes(), password=None)
            self._public: bytes = self._key.public_key().public_bytes(
                serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
            )
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            if isinstance(error, TypeError):  # what cryptography raises for one with a passphrase
                reason = "it has a passphrase"
            raise UsageError(
                f"can't use the key {file}: {reason}",
                where="signing_key",
                fix="name a private SSH key without a passphrase: ssh-keygen -t ed25519 -N ''",
            ) from error
        if not self._public.startswith(KIND.encode()):
            raise UsageError(
                f"the key {file} isn't an ed25519 key", where="signing_key",
                fix="make one: ssh-keygen -t ed25519 -N ''",
            )  # fmt: skip

    def sign(self, body: bytes) -> bytes:
        """The signature of a text, as a line after it: the public key and the signature."""
        signature: bytes = base64.b64encode(self._key.sign(_SIGNATURE_PREFIX + body))
        return self._public + b" " + signature


class Trust:
    """The public keys whose signatures count. lines: `ssh-ed25519 AAAA… name` of each."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._error, serialization = _load_cryptography()
        self._keys: dict[bytes, Any] = {}
        for line in lines:
            words = line.split()
            try:
                key = serialization.load_ssh_public_key(" ".join(words[:2]).encode())
            except (ValueError, binascii.Error, self._error) as error:
                raise _invalid_key(line) from error
            if words[0] != KIND:
                raise _invalid_key(line)
            self._keys[words[1].encode()] = key

    def signed(self, body: bytes, signature: bytes) -> bool:
        """Whether the owner of one of the keys signed this. signature: as `sign` returns it."""
        words = signature.split()
        if len(words) != 3 or words[1] not in self._keys:
            return False
        try:
            self._keys[words[1]].verify(base64.b64decode(words[2]), _SIGNATURE_PREFIX + body)
        except (self._error, binascii.Error):
            return False
        return True


def _invalid_key(line: str) -> UsageError:
    return UsageError(
        f"'{line[:40]}' isn't a public ed25519 key",
        where="trust",
        fix="write the line in a file such as ~/.ssh/id_ed25519.pub",
    )


def _load_cryptography() -> tuple[type[Exception], Any]:
    """(the error for a wrong signature, the module that reads keys) of `cryptography`."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise UsageError(
            "signatures need the package cryptography, which isn't installed",
            fix="pip install 'finery[remote]'",
        ) from error
    return InvalidSignature, serialization
