"""Which web pages may use the server, and what their browsers are told (CORS). A page is its origin, as the browser
sends it. Credentials that a browser adds by itself are never asked for: a key comes from the page, or not at all.
"""

import re

Header = tuple[bytes, bytes]
Headers = dict[bytes, bytes]

# Programs that show pages of their own (Electron, Tauri, VS Code); no page of the web has such an origin.
_APPS = frozenset({"app", "file", "tauri", "vscode-webview", "vscode-file"})
_WEB = frozenset({"http", "https"})
_LOCAL = r"(?:localhost|[a-z0-9.-]+\.localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(?::\d{1,5})?"
# What a page may read of an answer besides its body.
_EXPOSED = (
    b"x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, x-shimmy-ignored, x-shimmy-truncated"
)
_NAMES = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*"
_MAX_NAMES_BYTES = 4096
_PREFLIGHT_SECONDS = 600


class Origins:
    """Pages of this machine, of programs on it, of the server itself, and those that were named."""

    def __init__(self, named: tuple[str, ...] = ()) -> None:
        """Each as a browser sends it; "*" stands for any port, for any host, or for every page there is."""
        self._named = [_pattern(name) for name in named]

    def allows(self, origin: str, scheme: str, host: str) -> bool:
        """`scheme` and `host` are those of the request."""
        kind, found, authority = origin.partition("://")
        if found and (kind in _APPS or (kind in _WEB and _is_local(authority))):
            return True
        return origin == f"{scheme}://{host}" or any(named.fullmatch(origin) for named in self._named)


def origin_of(headers: Headers) -> str:
    """Lower case; "" where a request has none."""
    return headers.get(b"origin", b"").decode("latin-1").lower()


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether a browser asks if it may ask."""
    return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers


def cors_headers(headers: Headers) -> list[Header]:
    """For an answer to a page that is allowed."""
    return [
        (b"access-control-allow-origin", headers[b"origin"]),
        (b"access-control-expose-headers", _EXPOSED),
    ]


def preflight_headers(headers: Headers, methods: str) -> list[Header]:
    """What else the answer to a preflight has: these methods, and whatever headers were asked for."""
    answer = [
        (b"access-control-allow-methods", methods.encode()),
        (b"access-control-max-age", b"%d" % _PREFLIGHT_SECONDS),
    ]
    names = headers.get(b"access-control-request-headers", b"").strip()
    if len(names) <= _MAX_NAMES_BYTES and re.fullmatch(_NAMES, names):
        answer.append((b"access-control-allow-headers", names))
    # Chrome asks this before it lets a page of the web reach an address of this machine.
    if headers.get(b"access-control-request-private-network") == b"true":
        answer.append((b"access-control-allow-private-network", b"true"))
    return answer


def _is_local(authority: str) -> bool:
    return bool(re.fullmatch(_LOCAL, authority, re.ASCII))


def _pattern(named: str) -> re.Pattern[str]:
    return re.compile(re.escape(named.lower()).replace(r"\*", r"[^/]*" if "://" in named else ".*"))
