"""Signatures, by the vector of the Standard Webhooks libraries."""

import base64
from datetime import UTC, datetime

import pytest

from orchestrator.webhooks.signature import MAX_BYTES, MIN_BYTES, parse_secret, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
AT = datetime.fromtimestamp(1614265330, UTC)


def encoded(size: int) -> str:
    return base64.b64encode(b"k" * size).decode()


def test_the_known_vector() -> None:
    headers = signed_headers([parse_secret(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", AT, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_of_several_keys_signs() -> None:
    keys = [parse_secret(SECRET), parse_secret(encoded(32))]
    both = signed_headers(keys, "msg_1", AT, b"{}")["webhook-signature"].split()
    assert both == [signed_headers([key], "msg_1", AT, b"{}")["webhook-signature"] for key in keys]


def test_time_id_and_body_are_signed() -> None:
    key = [parse_secret(SECRET)]
    variants = [("msg_1", AT, b"{}"), ("msg_2", AT, b"{}"), ("msg_1", AT.replace(year=2022), b"{}"), ("msg_1", AT, b"")]
    assert len({signed_headers(key, *variant)["webhook-signature"] for variant in variants}) == len(variants)


@pytest.mark.parametrize("text", [SECRET, SECRET.removeprefix("whsec_"), f" {SECRET}\n"])
def test_a_secret_with_and_without_its_prefix(text: str) -> None:
    assert parse_secret(text) == base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


@pytest.mark.parametrize(
    "text", ["", "whsec_", "hunter2hunter2hunter2hunter2!", encoded(MIN_BYTES - 1), encoded(MAX_BYTES + 1), "schlüssel"]
)
def test_what_is_no_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="openssl rand -base64 32") as refused:
        parse_secret(text)
    assert not text.strip("whsec_") or text not in str(refused.value)
