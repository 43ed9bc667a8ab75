"""Sends messages over HTTP: one client for each webhook, so that none waits for a connection of another."""

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import httpx
from plugin_runtime import __version__

from orchestrator.webhooks.config import Webhook
from orchestrator.webhooks.schedule import Answer, retry_after_of
from orchestrator.webhooks.signature import signed_headers

_MAX_ANSWER_BYTES: Final = 16 * 1024
"""Of an answer that are read, so that its connection can be used again."""
_BODY_TIMEOUT: Final = 1.0  # seconds
_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": f"plugin-orchestrator/{__version__}"}


class Sender:
    """Redirects are not followed; proxies are those of the environment (HTTPS_PROXY and the like), and none for
    loopback.
    """

    def __init__(self, webhooks: Iterable[Webhook], *, trusted: ssl.SSLContext, time_limit: float) -> None:
        """`trusted`: what certificates are verified by; `time_limit`: seconds for one attempt."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs addresses with their credentials
        self._time_limit = time_limit
        self._clients = {
            webhook.name: httpx.AsyncClient(
                verify=trusted,
                headers=_HEADERS,
                follow_redirects=False,
                trust_env=not _is_loopback(webhook.url),
                timeout=None,  # noqa: S113 - one bound for all of an attempt
            )
            for webhook in webhooks
        }

    async def send(self, webhook: Webhook, message_id: str, body: str) -> Answer:
        """Make one attempt. Raises nothing but cancellation."""
        content, now = body.encode("utf-8", "replace"), datetime.now(UTC)
        headers = signed_headers(webhook.keys, message_id, now, content)
        try:
            async with asyncio.timeout(self._time_limit):
                request = self._clients[webhook.name].stream("POST", webhook.url, content=content, headers=headers)
                async with request as response:
                    with suppress(TimeoutError):  # what it says is in the status
                        async with asyncio.timeout(_BODY_TIMEOUT):
                            await _read_some(response)
                    retry_after = retry_after_of(response.headers.get("retry-after"), datetime.now(UTC))
                    return Answer(response.status_code, retry_after=retry_after)
        except TimeoutError:
            return Answer(error=f"It did not answer within {self._time_limit:g} s.")
        except Exception as error:  # noqa: BLE001 - whatever it is, the delivery waits for its next attempt
            return Answer(error=_sentence(error, webhook))

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()


async def _read_some(response: httpx.Response) -> None:
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > _MAX_ANSWER_BYTES:
            return


def _sentence(error: Exception, webhook: Webhook) -> str:
    text = (str(error) or type(error).__name__).replace(webhook.url, webhook.shown_url).rstrip(".")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"Its certificate is not trusted: {text}. ORCHESTRATOR_CA_BUNDLE names further authorities."
    if isinstance(error, httpx.ConnectError):
        return f"There was no connection: {text}."
    return f"The connection broke: {text}."


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
