import pytest
from starlette.types import Scope

from shimmy.core.errors import Forbidden, RequestError, Unauthorized
from shimmy.server.guards import Guard
from tests.server.live import Inside, Live, run_inside, run_live, with_settings

LOOPBACK = Guard((), "127.0.0.1", "127.0.0.1")
NAMED = Guard((), "dev.example", "127.0.0.1")
NETWORK = Guard((), "0.0.0.0", "0.0.0.0")
KEYED = Guard(("first", "second"), "0.0.0.0", "0.0.0.0")


def scope(path: str = "/v1/models", **headers: str) -> Scope:
    fields = {"host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return {"path": path, "headers": [(name.encode(), value.encode()) for name, value in fields.items()]}


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:11435", "localhost.", "app.localhost", "127.0.0.1:1", "127.8.8.8", "[::1]:80", "10.1.2.3"],
)
def test_a_loopback_server_has_local_names(host: str) -> None:
    LOOPBACK.check(scope(host=host))


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
        LOOPBACK.check(scope(host=host))


def test_the_name_it_is_bound_by_is_its_own() -> None:
    NAMED.check(scope(host="dev.example:80"))
    with pytest.raises(Forbidden):
        LOOPBACK.check(scope(host="dev.example:80"))


def test_on_a_network_any_name_may_lead_here() -> None:
    NETWORK.check(scope(host="models.example", origin="https://chat.example"))


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", "app://obsidian", "vscode-webview://x"],
)
def test_local_pages_and_applications_may_use_it(origin: str) -> None:
    LOOPBACK.check(scope(origin=origin))


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "null", "HTTPS://EVIL.EXAMPLE"]
)
def test_pages_from_elsewhere_may_not(origin: str) -> None:
    with pytest.raises(Forbidden):
        LOOPBACK.check(scope(origin=origin))


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
    KEYED.check(scope(**headers))


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
        KEYED.check(scope(**headers))


def test_without_keys_any_key_will_do() -> None:
    assert LOOPBACK.check(scope(authorization="Bearer dummy", x_api_key="dummy")) == ""


def test_each_key_is_a_tenant_whose_name_does_not_tell_the_key() -> None:
    first, second = (KEYED.check(scope(x_api_key=key)) for key in ("first", "second"))
    assert first != second and first and second
    assert KEYED.check(scope(authorization="Bearer first")) == first
    assert KEYED.check(scope("/health", x_api_key="first")) == ""
    again = Guard(("first",), "0.0.0.0", "0.0.0.0").check(scope(x_api_key="first"))
    assert again != first, "or one could find out by trying keys"


@pytest.mark.parametrize("path", ["/health", "/readyz"])
def test_probes_need_no_key(path: str) -> None:
    KEYED.check(scope(path))


@pytest.mark.parametrize("path", ["/health/", "//health", "/HEALTH", "/v1/models/health", "http://x/health"])
def test_only_probes_need_no_key(path: str) -> None:
    with pytest.raises(Unauthorized):
        KEYED.check(scope(path))


def test_two_ways_to_say_where_the_body_ends_are_refused() -> None:
    with pytest.raises(RequestError):
        LOOPBACK.check(scope(content_length="3", transfer_encoding="chunked"))


def test_compressed_bodies_are_refused() -> None:
    LOOPBACK.check(scope(content_encoding="identity"))
    with pytest.raises(RequestError):
        LOOPBACK.check(scope(content_encoding="gzip"))


def test_every_route_but_the_probes_needs_a_key() -> None:
    """Walks the route table, so that a new route cannot be forgotten."""

    async def test(server: Inside) -> None:
        routes = server.app.routes
        assert len(routes) >= 6
        for route in routes:
            for method in route.methods or ():
                answer = await server.ask(method, route.path.replace("{id:path}", "echo"))
                expected = {200} if route.path in ("/health", "/readyz") else {401}
                assert {answer.status} == expected, (method, route.path)
        assert (await server.ask("GET", "/no/such/route")).status == 401
        assert (await server.ask("GET", "/v1/models", x_api_key="sesame")).status == 200

    run_inside(test, settings=with_settings(api_keys=("sesame",)))


@pytest.mark.program
def test_refusals_on_the_wire() -> None:
    async def test(server: Live) -> None:
        wrong_host = await server.ask("GET", "/health", host="evil.example")
        assert (wrong_host.status, wrong_host.error["type"]) == (403, "permission_error")
        no_key = await server.ask("POST", "/v1/chat/completions", b"x" * 100_000)
        assert (no_key.status, no_key.error["code"]) == (401, "invalid_api_key")
        assert no_key.headers["www-authenticate"] == "Bearer"

    run_live(test, settings=with_settings(api_keys=("sesame",)))
