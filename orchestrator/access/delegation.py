"""On whose behalf a front calls: its callers' names, rights and shares, in a header of its requests to a host. Pure.

A host believes it of whoever may do everything there anyway, so it gives nothing: it only takes rights away. From
anyone else it is refused, since to pass it over would give callers the rights of the front's key.
"""

import json
from functools import lru_cache
from typing import Final

from orchestrator.access.principal import (
    EQUAL_SHARE,
    MAX_WEIGHT,
    Grant,
    Principal,
    Priority,
    Rate,
    Right,
    Share,
    plugin_patterns,
)

HEADER: Final = "x-orchestrator-caller"
_MAX_BYTES: Final = 8192  # 50 patterns of 63 characters and the rest


def may_delegate(principal: Principal) -> bool:
    """Whether it may call on behalf of others: it operates every plugin."""
    return principal.sees_every_plugin and principal.may(Right.OPERATE)


@lru_cache(maxsize=256)
def encode(principal: Principal) -> bytes:
    """The header's value: JSON in ASCII, without what is as for everyone."""
    grant, share = principal.grant, principal.grant.share
    fields = {
        "name": principal.name,
        "rights": sorted(grant.rights),
        **({} if grant.sees_every_plugin else {"plugins": ",".join(grant.plugins)}),
        **({} if share.priority is EQUAL_SHARE.priority else {"priority": share.priority}),
        **({} if share.weight == EQUAL_SHARE.weight else {"weight": share.weight}),
        **({} if share.concurrency is None else {"concurrency": share.concurrency}),
        **({} if share.rate is None else {"rate": str(share.rate)}),
    }
    return json.dumps(fields, separators=(",", ":")).encode()


@lru_cache(maxsize=256)
def parse(text: bytes) -> Principal | None:
    """The caller that `encode` has written; None for anything else."""
    try:
        if len(text) > _MAX_BYTES:
            return None
        fields = json.loads(text)
        name, weight, concurrency = fields["name"], fields.get("weight", EQUAL_SHARE.weight), fields.get("concurrency")
        if not (name is None or (isinstance(name, str) and 0 < len(name) <= 64)):
            return None
        if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
            return None
        if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
            return None
        share = Share(
            Priority(fields.get("priority", EQUAL_SHARE.priority)),
            weight,
            concurrency,
            Rate.parse(fields["rate"]) if "rate" in fields else None,
        )
        patterns = fields.get("plugins", "*")
        plugins = plugin_patterns(patterns) if patterns else ()
        return Principal(name, Grant(frozenset(map(Right, fields["rights"])), plugins, share))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
