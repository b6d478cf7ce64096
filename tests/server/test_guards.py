"""Who is let in, by the guard itself, and on the wire."""

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from shimmy.core.errors import Forbidden, RequestError, Unauthorized
from shimmy.core.keys import INFER, ApiKey, needed_scope
from shimmy.server.guards import Guard
from tests.server.live import Inside, Live, run_inside, run_live, with_settings

KEYS = (ApiKey.of("first"), ApiKey.of("second", scopes=INFER))
LOOPBACK = Guard((), "127.0.0.1", "127.0.0.1")
NAMED = Guard((), "dev.example", "127.0.0.1")
NETWORK = Guard((), "0.0.0.0", "0.0.0.0")
UNIX = Guard((), "unix:/s", "unix:/s")
KEYED = Guard(KEYS, "0.0.0.0", "0.0.0.0")


def scope(**headers: str) -> Scope:
    fields = {"host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return {"scheme": "http", "headers": [(name.encode(), value.encode()) for name, value in fields.items()]}


def check(guard: Guard, scope: Scope, needed: str | None = "infer") -> str:
    """The tenant that a request is let in as."""
    guard.enter(scope)
    caller = guard.identify(scope)
    guard.permit(caller, needed)
    return caller.tenant


@pytest.mark.parametrize(
    "host",
    [
        "host.docker.internal:11435",
        "box.local",
        "localhost",
        "LOCALHOST:11435",
        "localhost.",
        "app.localhost",
        "127.0.0.1:1",
        "127.8.8.8",
        "[::1]:80",
        "10.1.2.3",
    ],
)
def test_a_loopback_server_has_local_names(host: str) -> None:
    check(LOOPBACK, scope(host=host))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "10.0.0.1.evil.example",
        "8.8.8.8",
        "[2001:4860::1]",
        "",
    ],
)
def test_a_loopback_server_is_not_reached_by_other_names(host: str) -> None:
    with pytest.raises(Forbidden):
        check(LOOPBACK, scope(host=host))


def test_the_name_it_is_bound_by_is_its_own() -> None:
    check(NAMED, scope(host="dev.example:80"))
    with pytest.raises(Forbidden):
        check(LOOPBACK, scope(host="dev.example:80"))


def test_on_a_network_any_name_may_lead_here() -> None:
    check(NETWORK, scope(host="models.example"))
    check(UNIX, scope(host="models.example"))
    check(KEYED, scope(host="models.example", origin="https://chat.example", x_api_key="first"))


@pytest.mark.parametrize("guard", [NETWORK, UNIX])
def test_without_keys_pages_from_elsewhere_may_use_none(guard: Guard) -> None:
    with pytest.raises(Forbidden):
        check(guard, scope(host="models.example", origin="https://chat.example"))
    check(guard, scope(host="models.example:80", origin="http://models.example:80"))


@pytest.mark.parametrize(
    "origin",
    [
        *("http://localhost", "http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", "http://0.0.0.0:1"),
        *("http://tauri.localhost", "app://obsidian", "file://", "tauri://localhost", "vscode-webview://x"),
        *("vscode-file://vscode-app", "APP://X"),
    ],
)
def test_local_pages_and_applications_may_use_it(origin: str) -> None:
    check(LOOPBACK, scope(origin=origin))


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "http://localhost.evil.example", "null", "HTTPS://EVIL.EXAMPLE", "", "localhost"),
        *(
            "http://localhost:x",
            "http://localhost@evil.example",
            "http://evil.example/localhost",
            "http://localhost:1 x",
        ),
        *("http://192.168.1.1", "chrome-extension://abc", "http://.localhost.evil", "http://127.0.0.1.evil.example"),
    ],
)
def test_pages_from_elsewhere_may_not(origin: str) -> None:
    with pytest.raises(Forbidden):
        check(LOOPBACK, scope(origin=origin))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first"},
        {"authorization": "bearer second"},
        {"x_api_key": "first"},
        {"authorization": "Bearer wrong", "x_api_key": "second"},
    ],
)
def test_a_right_key_lets_in(headers: dict[str, str]) -> None:
    check(KEYED, scope(**headers))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic first"},
        {"authorization": "first"},
        {"x_api_key": ""},
    ],
)
def test_anything_else_does_not(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized):
        check(KEYED, scope(**headers))


def test_without_keys_any_key_will_do() -> None:
    assert check(LOOPBACK, scope(authorization="Bearer dummy", x_api_key="dummy")) == ""


def test_each_key_is_a_tenant_whose_name_does_not_tell_the_key() -> None:
    first, second = (check(KEYED, scope(x_api_key=key)) for key in ("first", "second"))
    assert first != second and first and second
    assert check(KEYED, scope(authorization="Bearer first")) == first
    again = check(Guard(KEYS, "0.0.0.0", "0.0.0.0"), scope(x_api_key="first"))
    assert again != first, "or one could find out by trying keys"


def test_nothing_of_a_key_is_kept_but_its_digest() -> None:
    assert b"first" not in repr([vars(KEYED._keyring), KEYS]).encode()


def test_a_key_is_good_for_its_scopes() -> None:
    check(KEYED, scope(x_api_key="first"), "admin")
    check(KEYED, scope(x_api_key="second"), "infer")
    with pytest.raises(Forbidden, match="'admin'.*API key"):
        check(KEYED, scope(x_api_key="second"), "admin")


@pytest.mark.parametrize(("guard", "allowed"), [(LOOPBACK, True), (UNIX, True), (NETWORK, False)])
def test_without_keys_only_this_machine_is_an_administrator(guard: Guard, allowed: bool) -> None:
    check(guard, scope(), "infer")
    if allowed:
        check(guard, scope(), "admin")
    else:
        with pytest.raises(Forbidden):
            check(guard, scope(), "admin")


@pytest.mark.parametrize("guard", [LOOPBACK, NETWORK, UNIX, KEYED])
def test_what_declares_no_scope_is_for_nobody(guard: Guard) -> None:
    with pytest.raises(Forbidden):
        check(guard, scope(x_api_key="first"), None)


def test_keys_can_be_replaced() -> None:
    guard = Guard(KEYS, "0.0.0.0", "0.0.0.0")
    before = check(guard, scope(x_api_key="first"))
    guard.replace_keys([ApiKey.of("first"), ApiKey.of("third")])
    assert check(guard, scope(x_api_key="first")) == before != check(guard, scope(x_api_key="third"))
    with pytest.raises(Unauthorized):
        check(guard, scope(x_api_key="second"))


def test_two_ways_to_say_where_the_body_ends_are_refused() -> None:
    with pytest.raises(RequestError):
        check(LOOPBACK, scope(content_length="3", transfer_encoding="chunked"))


def test_compressed_bodies_are_refused() -> None:
    check(LOOPBACK, scope(content_encoding="identity"))
    with pytest.raises(RequestError):
        check(LOOPBACK, scope(content_encoding="gzip"))


PUBLIC = {"/", "/health", "/readyz"}


def test_every_route_declares_who_may_use_it_and_the_wire_obeys() -> None:
    """Walks the route table, so that a new route cannot be forgotten."""

    async def test(server: Inside) -> None:
        routes = server.app.routes
        assert len(routes) >= 6
        for route in routes:
            needed = needed_scope(route.endpoint)
            assert needed in ("public", "infer", "admin"), f"{route.path} declares no scope (shimmy/core/keys.py)"
            assert (needed == "public") == (route.path in PUBLIC), route.path
            for method in route.methods or ():
                path = route.path.replace("{id:path}", "echo")
                statuses = [(await server.ask(method, path, x_api_key=key)).status for key in ("", "none", "all")]
                if needed == "public":
                    assert statuses == [200] * 3
                else:
                    assert statuses[:2] == [401, 403] and statuses[2] not in (401, 403), (method, path)
        assert (await server.ask("GET", "/no/such/route")).status == 401
        assert (await server.ask("GET", "/no/such/route", x_api_key="all")).status == 404

    keys = (ApiKey.of("none", scopes=frozenset()), ApiKey.of("all"))
    run_inside(test, settings=with_settings(api_keys=keys))


@pytest.mark.parametrize("path", ["/health/", "//health", "/HEALTH", "/v1/models/health", "/health%2f", "/%68ealthy"])
def test_only_the_probes_themselves_need_no_key(path: str) -> None:
    async def test(server: Inside) -> None:
        assert (await server.ask("GET", path)).status == 401

    run_inside(test, settings=with_settings(api_keys=("sesame",)))


def test_a_route_that_declares_nothing_is_refused() -> None:
    async def forgotten(request: Request) -> Response:
        return Response(b"secret")

    async def test(server: Inside) -> None:
        server.app.routes.append(Route("/forgotten", forgotten))
        for key in ("", "sesame"):
            answer = await server.ask("GET", "/forgotten", x_api_key=key)
            assert answer.status == (403 if key or not keys else 401)
            assert b"secret" not in answer.body

    for keys in ((), ("sesame",)):
        run_inside(test, settings=with_settings(api_keys=keys))


@pytest.mark.program
def test_refusals_on_the_wire() -> None:
    async def test(server: Live) -> None:
        wrong_host = await server.ask("GET", "/health", host="evil.example")
        assert (wrong_host.status, wrong_host.error["type"]) == (403, "permission_error")
        no_key = await server.ask("POST", "/v1/chat/completions", b"x" * 100_000)
        assert (no_key.status, no_key.error["code"]) == (401, "invalid_api_key")
        assert no_key.headers["www-authenticate"] == "Bearer"

    run_live(test, settings=with_settings(api_keys=("sesame",)))
