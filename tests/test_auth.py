import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxfast.auth import Redactor, is_loopback, mask_key

KEY_CHARACTERS = st.characters(codec="ascii", exclude_categories=["Cc", "Zs"])
IDS = st.text(st.sampled_from("abcXYZ019-."), min_size=1, max_size=12)
SECRETS = st.text(KEY_CHARACTERS, min_size=4, max_size=40)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("mxgw_line4_s3cret", "mxgw_line4_***"),
        ("mxgw_line4_s3_cr_et", "mxgw_line4_***"),
        ("mxgw_line4", "***"),
        ("mxgw_line4_", "***"),
        ("mxgw__secret", "***"),
        ("secret", "***"),
        ("", "***"),
    ],
)
def test_mask_key(key: str, shown: str) -> None:
    assert mask_key(key) == shown


@given(IDS, SECRETS, st.text(max_size=20), st.text(max_size=20))
def test_own_key_never_survives(key_id: str, secret: str, before: str, after: str) -> None:
    key = f"mxgw_{key_id}_{secret}"
    text = Redactor(key)(f"{before}{key}{after}")
    assert key not in text
    # What is around it may happen to hold the secret only if it is part of the mask.
    assert secret not in text or secret in f"mxgw_{key_id}_***"


@given(SECRETS)
def test_malformed_own_key_never_survives(key: str) -> None:
    assert key not in Redactor(key)(f"no key {key} here") or key in "no key *** here"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key mxgw_other_s3cret refused", "key mxgw_other_*** refused"),
        ("(mxgw_other_s3cret)", "(mxgw_other_***)"),
        ("authorization: Bearer abc.def", "authorization: Bearer ***"),
        ("authorization: bearer mxgw_a_b", "authorization: bearer mxgw_a_***"),
        ("secret alone: d0nt5how", "secret alone: ***"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_foreign_keys_and_bare_secrets(text: str, shown: str) -> None:
    assert Redactor("mxgw_mine_d0nt5how")(text) == shown


def test_redactor_without_a_key() -> None:
    assert Redactor(None)("a mxgw_x_y b") == "a mxgw_x_*** b"


@pytest.mark.parametrize("host", ["localhost", "Localhost", "127.0.0.1", "127.255.0.9", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.", "127.0.0.1.example", "0.0.0.0", "::", "plant"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
