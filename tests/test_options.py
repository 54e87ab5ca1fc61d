import dataclasses
from typing import Any

import pytest

from mxfast import MAX_BULK_ITEMS, ClientOptions
from tests.conftest import KEY, SECRET


def test_defaults() -> None:
    options = ClientOptions("plant:5120", KEY)
    assert dataclasses.asdict(options) == {
        "endpoint": "plant:5120",
        "api_key": KEY,
        "plaintext": False,
        "ca_file": None,
        "server_name_override": None,
        "call_timeout": 30.0,
        "stream_timeout": None,
        "connect_timeout": 10.0,
        "max_message_bytes": 16 * 1024 * 1024,
        "max_bulk_items": MAX_BULK_ITEMS,
        "allow_insecure": False,
    }


def test_localhost_is_not_plaintext_unless_asked_for() -> None:
    assert ClientOptions("localhost:5120", KEY).plaintext is False


def test_repr_masks_the_key() -> None:
    shown = repr(ClientOptions("localhost:5120", KEY))
    assert SECRET not in shown
    assert "mxgw_test_***" in shown
    assert "localhost:5120" in shown


@pytest.mark.parametrize("key", ["plainsecret", "mxgw_onlyone", "mxgw__nothing", "Bearer"])
def test_repr_shows_nothing_of_a_malformed_key(key: str) -> None:
    shown = repr(ClientOptions("localhost:5120", key))
    assert key not in shown
    assert "api_key='***'" in shown


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("localhost:5120", "localhost"),
        ("10.1.2.3:443", "10.1.2.3"),
        ("[::1]:5120", "::1"),
        ("gateway.plant.example:1", "gateway.plant.example"),
    ],
)
def test_endpoint(endpoint: str, host: str) -> None:
    assert ClientOptions(endpoint).host == host


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost",
        ":5120",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:port",
        "localhost:٣",
        "http://localhost:5120",
        "::1:5120",
        "a b:1",
        "user@host:1",
    ],
)
def test_endpoint_must_be_host_and_port(endpoint: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        ClientOptions(endpoint)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "[::1]"])
def test_key_may_travel_in_plaintext_on_this_machine(host: str) -> None:
    assert ClientOptions(f"{host}:5120", KEY, plaintext=True).plaintext


@pytest.mark.parametrize("host", ["plant", "10.0.0.1", "[::2]", "localhost.example", "128.0.0.1"])
def test_key_is_refused_in_plaintext_to_another_machine(host: str) -> None:
    with pytest.raises(ValueError, match="plaintext") as caught:
        ClientOptions(f"{host}:5120", KEY, plaintext=True)
    assert SECRET not in str(caught.value)
    assert ClientOptions(f"{host}:5120", KEY, plaintext=True, allow_insecure=True).plaintext
    assert ClientOptions(f"{host}:5120", plaintext=True).plaintext, "without a key there is no risk"


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("endpoint", 5120, TypeError),
        ("api_key", b"mxgw_a_b", TypeError),
        ("api_key", "mxgw_a_secret\n", ValueError),
        ("api_key", "mxgw_a_sécret", ValueError),
        ("api_key", "mxgw_a secret", ValueError),
        ("plaintext", 1, TypeError),
        ("allow_insecure", "no", TypeError),
        ("call_timeout", 0, ValueError),
        ("call_timeout", float("nan"), ValueError),
        ("call_timeout", None, TypeError),
        ("connect_timeout", -1, ValueError),
        ("connect_timeout", True, TypeError),
        ("stream_timeout", float("inf"), ValueError),
        ("stream_timeout", "1", TypeError),
        ("max_message_bytes", 0, ValueError),
        ("max_message_bytes", 2**31, ValueError),
        ("max_message_bytes", 1e6, TypeError),
        ("max_bulk_items", 0, ValueError),
        ("max_bulk_items", "1000", TypeError),
    ],
)
def test_bad_values(field: str, value: object, error: type[Exception]) -> None:
    fields: dict[str, Any] = {"endpoint": "localhost:5120", field: value}
    with pytest.raises(error, match=field) as caught:
        ClientOptions(**fields)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("field", ["ca_file", "server_name_override"])
def test_tls_options_do_not_go_with_plaintext(field: str) -> None:
    fields: dict[str, Any] = {field: "x"}
    with pytest.raises(ValueError, match=field):
        ClientOptions("localhost:5120", plaintext=True, **fields)
