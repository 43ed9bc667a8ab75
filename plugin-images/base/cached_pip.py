"""pip, with its cache also for files whose index says nothing about how long they hold.

pip stores what it downloads only where the answer has an ETag or an age. The large indexes send one; a mirror that is
a folder behind a web server need not. A file of an index never changes under its name, and pip compares what it has
stored with the hash that the index says.
"""

import sys
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

from pip._internal.cli.main import main
from pip._vendor.cachecontrol.controller import CacheController

_FILES = (".whl", ".tar.gz", ".zip", ".tar.bz2")
_AGES = ("cache-control", "etag", "expires")
_YEAR = "max-age=31536000"

_cache_response = CacheController.cache_response


def cache_response(controller: Any, request: Any, response: Any, *rest: Any, **more: Any) -> Any:
    """In place of pip's: the same for an answer with an age."""
    if urlsplit(request.url).path.endswith(_FILES) and not any(name in response.headers for name in _AGES):
        response.headers["cache-control"] = _YEAR
        if "date" not in response.headers:
            response.headers["date"] = formatdate(usegmt=True)
    return _cache_response(controller, request, response, *rest, **more)


CacheController.cache_response = cache_response
sys.exit(main())
