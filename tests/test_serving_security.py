"""Keys and the bucket of tokens, by themselves."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from arra.errors import InputError
from arra.serving import security
from arra.serving.security import Keys, RateLimit

KEY = "a-key-of-sixteen-letters"


def write(tmp_path, text: str):
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    return path


def test_keys_have_names_and_may_be_digests(tmp_path):
    digest = hashlib.sha256(b"another-key-of-as-many").hexdigest()
    keys = Keys.read(
        write(tmp_path, f"# all\n\nalice {KEY}\nbob sha256:{digest}\nключ-из-букв-и-тире\n")
    )
    assert len(keys) == 3
    assert keys.client(f"Bearer {KEY}") == "alice"
    assert keys.client(f"bearer   {KEY} ") == "alice"
    assert keys.client("Bearer another-key-of-as-many") == "bob"
    # headers are bytes, which servers read as latin-1
    assert keys.client("Bearer " + "ключ-из-букв-и-тире".encode().decode("latin-1")) == "key-5"
    basic = base64.b64encode(f"anybody:{KEY}".encode()).decode()
    assert keys.client(f"Basic {basic}") == "alice"
    for wrong in (
        "",
        "Bearer",
        "Bearer ",
        KEY,
        f"Token {KEY}",
        f"Bearer {KEY}x",
        "Basic ???",
        "Basic",
    ):
        assert keys.client(wrong) is None
    assert keys.client(f"Bearer {digest}") is None  # who reads the file has no key


def test_all_keys_are_compared_in_constant_time(tmp_path, monkeypatch):
    keys = Keys.read(write(tmp_path, f"{KEY}\nanother-key-of-as-many\na-third-key-of-as-many\n"))
    compared, equal = [], hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return equal(one, other)

    monkeypatch.setattr(security.hmac, "compare_digest", compare)
    for presented in (f"Bearer {KEY}", "Bearer x", ""):
        compared.clear()
        keys.client(presented)
        assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no key"),
        ("# nothing\n", "no key"),
        ("short\n", "line 1: a key of 5 characters"),
        (f"alice {KEY}\nalice another-key-of-as-many\n", "line 2: the name alice"),
        (f"alice {KEY} more\n", "line 1: expected"),
        ("sha256:abc\n", "line 1: expected 64"),
    ],
)
def test_a_bad_file_of_keys_is_named(tmp_path, text, said):
    with pytest.raises(InputError, match=said) as raised:
        Keys.read(write(tmp_path, text))
    assert KEY not in str(raised.value)
    with pytest.raises(InputError, match="cannot be read"):
        Keys.read(tmp_path / "nothing")


def test_a_bucket_fills_as_time_goes():
    now = [0.0]
    limit = RateLimit(60.0, 4, clock=lambda: now[0])
    assert limit.take("a", 3) == 0.0
    assert limit.take("a", 3) == pytest.approx(2.0)  # 1 is left, and one comes each second
    assert limit.take("b", 4) == 0.0
    now[0] = 1.9
    assert limit.take("a", 3) == pytest.approx(0.1)
    now[0] = 2.0
    assert limit.take("a", 3) == 0.0
    limit.give_back("a", 3)
    assert limit.take("a", 3) == 0.0
    now[0] = 1000.0
    assert limit.take("a", 5) == pytest.approx(1.0)  # never more than fit
    limit.give_back("a", 100)
    assert limit.take("a", 5) > 0.0


def test_without_a_rate_everybody_may():
    limit = RateLimit(0.0, 1)
    assert {limit.take("a", 1000) for _ in range(100)} == {0.0}


def test_as_many_clients_as_there_are_addresses_fit(monkeypatch):
    monkeypatch.setattr(security, "_MOST_BUCKETS", 50)
    now = [0.0]
    limit = RateLimit(60.0, 2, clock=lambda: now[0])
    for number in range(500):
        now[0] += 0.001
        assert limit.take(f"address {number}", 2) == 0.0
        assert len(limit._buckets) <= 50
    assert limit.take("address 499", 1) > 0.0  # those who came last are not forgotten
    now[0] += 10.0
    assert limit.take("new", 1) == 0.0
    assert list(limit._buckets) == ["new"]  # all others were full again
