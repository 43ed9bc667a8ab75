"""Secrets and signatures as Standard Webhooks has them. Pure."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

PREFIX: Final = "whsec_"
MIN_BYTES: Final = 24
MAX_BYTES: Final = 64


def parse_secret(text: str) -> bytes:
    """The key in a secret as it is written: base64, with or without the prefix. Raises `ValueError`, which does not
    show it.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise ValueError(
            f"expected a secret of {MIN_BYTES} to {MAX_BYTES} bytes in base64, which may begin with {PREFIX}; `openssl "
            "rand -base64 32` makes one (what is there is not shown)"
        )
    return key


def signed_headers(keys: Sequence[bytes], message_id: str, sent_at: datetime, body: bytes) -> dict[str, str]:
    """The headers of an attempt. Of several keys each signs, so that receivers can change theirs at any time."""
    timestamp = str(int(sent_at.timestamp()))
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    signatures = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
