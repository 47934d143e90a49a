"""Host names and A-labels (RFC 1123 §2.1, RFC 3696 §2, UTS 46)."""

import pytest

from stsresolver.net.domain_names import a_labels, is_host_name

HOST_NAMES = [
    ("mail.example.com", True, "a host name"),
    ("MAIL.example.com", False, "lower case is the one form"),
    ("mail.example.com.", False, "no trailing dot"),
    ("hostname", False, "a single label"),
    ("192.0.2.1", False, "an address"),
]


@pytest.mark.requirement("DNS-11")
@pytest.mark.parametrize(("name", "good", "why"), HOST_NAMES, ids=[case[2] for case in HOST_NAMES])
def test_host_name(name, good, why):
    assert is_host_name(name) is good, why


@pytest.mark.requirement("HTTPS-20")
def test_a_labels_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"no domain name: 'b\\xfc_cher'"):
        a_labels("bü_cher")


@pytest.mark.requirement("LIB-6")
def test_text_longer_than_any_name_is_not_converted(monkeypatch):
    """An old idna takes quadratic time for a long text: it never gets one."""
    monkeypatch.setattr("idna.encode", lambda *_, **__: pytest.fail("converted"))
    with pytest.raises(ValueError, match="no domain name: 4904 characters"):
        a_labels("ü" * 4900 + ".com")
