"""What browsers are told, and which pages may ask."""

import pytest

from shimmy.server.origins import Origins
from tests.server.live import Live, run_live, with_settings

LOCAL = "http://localhost:3000"
NAMED = "https://chat.example"
EVIL = "https://evil.example"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("named", "origin", "allowed"),
    [
        (NAMED, NAMED, True),
        ("HTTPS://Chat.Example", NAMED, True),
        (NAMED, "https://chat.example:444", False),
        (NAMED, "http://chat.example", False),
        (NAMED, "https://chat.example.evil", False),
        (NAMED, "https://chatxexample", False),
        ("http://10.0.0.1:*", "http://10.0.0.1:99", True),
        ("http://10.0.0.1:*", "http://10.0.0.1", False),
        ("https://*.example", NAMED, True),
        ("https://*.example", "https://evil/.example", False),
        ("chrome-extension://*", "chrome-extension://abcdef", True),
        ("*", EVIL, True),
        ("*", "null", True),
    ],
)
def test_pages_that_are_named(named: str, origin: str, allowed: bool) -> None:
    assert Origins((named,)).allows(origin, "http", "localhost") is allowed


def test_its_own_pages() -> None:
    origins = Origins()
    assert origins.allows("http://box.lan:11435", "http", "box.lan:11435")
    assert not origins.allows("http://box.lan:11435", "http", "box.lan")
    assert not origins.allows("http://box.lan:11435", "https", "box.lan:11435")
    assert not origins.allows("", "http", "box.lan")


@pytest.mark.program
@pytest.mark.parametrize("origin", [LOCAL, NAMED, "app://obsidian.md", "vscode-webview://abc"])
def test_a_page_that_is_allowed_may_ask_and_read(origin: str) -> None:
    async def test(server: Live) -> None:
        asked = {"access_control_request_method": "POST"}
        names = "authorization, content-type, x-stainless-lang"
        preflight = await server.ask("OPTIONS", CHAT, origin=origin, access_control_request_headers=names, **asked)
        assert (preflight.status, preflight.body) == (204, b"")
        assert preflight.headers["access-control-allow-origin"] == origin
        assert preflight.headers["access-control-allow-methods"] == "POST"
        assert preflight.headers["access-control-allow-headers"] == names
        assert preflight.headers["vary"] == "origin"
        for key, status in (("sesame", 200), ("wrong", 401)):
            answer = await server.ask("GET", "/v1/models", origin=origin, x_api_key=key)
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == origin
            exposed = set(answer.headers["access-control-expose-headers"].split(", "))
            assert exposed >= {"x-request-id", "request-id", "retry-after", "x-shimmy-ignored", "x-shimmy-truncated"}
            assert "access-control-allow-credentials" not in answer.headers

    run_live(test, settings=with_settings(api_keys=("sesame",), cors_origins=(NAMED,)))


@pytest.mark.program
def test_any_other_page_may_neither() -> None:
    async def test(server: Live) -> None:
        for method, headers in (("OPTIONS", {"access_control_request_method": "POST"}), ("POST", {}), ("GET", {})):
            path = "/v1/models" if method == "GET" else CHAT
            answer = await server.ask(method, path, origin=EVIL, x_api_key="sesame", **headers)
            assert (answer.status, answer.error["code"]) == (403, "forbidden")
            assert answer.headers["vary"] == "origin"
            assert not [name for name in answer.headers if name.startswith("access-control-")]

    run_live(test, settings=with_settings(api_keys=("sesame",)))


@pytest.mark.program
def test_names_of_headers_come_back_only_if_they_are_some() -> None:
    async def test(server: Live) -> None:
        asked = {"origin": LOCAL, "access_control_request_method": "POST"}
        for names in ("a b", "a;b", "<script>", "x" * 5000, ",", ""):
            answer = await server.ask("OPTIONS", CHAT, access_control_request_headers=names, **asked)
            assert answer.status == 204 and "access-control-allow-headers" not in answer.headers

    run_live(test)


@pytest.mark.program
def test_what_is_no_preflight_is_a_request_like_any_other() -> None:
    async def test(server: Live) -> None:
        for headers in ({"origin": LOCAL}, {"access_control_request_method": "POST"}):
            answer = await server.ask("OPTIONS", CHAT, **headers)
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
        absent = await server.ask("OPTIONS", "/nope", origin=LOCAL, access_control_request_method="GET")
        assert (absent.status, absent.headers["access-control-allow-methods"]) == (204, "")
        private = {"access_control_request_method": "GET", "access_control_request_private_network": "true"}
        answer = await server.ask("OPTIONS", "/v1/models", origin=LOCAL, **private)
        assert answer.headers["access-control-allow-private-network"] == "true"
        assert answer.headers["access-control-allow-methods"] == "GET, HEAD"

    run_live(test)
