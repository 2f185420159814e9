"""Secrets are never shown, and what is shown can be sent back."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.masking import SecretLost, mask_settings, mask_url, unmask_settings, unmask_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("smpp://user:hidden@h:2775?window=10", "smpp://user:***@h:2775?window=10"),
        ("smpp://user:p%40ss@[::1]:2775", "smpp://user:***@[::1]:2775"),
        ("https://h/send?api_key=hidden&to=1", "https://h/send?api_key=***&to=1"),
        ("https://h/send?access_token=hidden", "https://h/send?access_token=***"),
        ("twilio://AC1:hidden@api.example", "twilio://AC1:***@api.example"),
        ("smpp://h:2775", "smpp://h:2775"),
        ("smpp://user@h", "smpp://user@h"),
    ],
)
def test_a_url_is_shown_without_its_secrets_and_taken_back(url: str, shown: str) -> None:
    assert mask_url(url) == shown
    assert "hidden" not in shown
    assert unmask_url(shown, url) == url


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        ("smpp://user:***@evil.example:2775", "smpp://user:hidden@h:2775"),
        ("smpp://user:***@h:2776", "smpp://user:hidden@h:2775"),
        ("smpps://user:***@h:2775", "smpp://user:hidden@h:2775"),
        ("smpp://other:***@h:2775", "smpp://user:hidden@h:2775"),
        ("smpp://user:***@h", "smpp://user@h"),
        ("smpp://user:***@h", None),
        ("https://h/?token=***", "https://h/?to=1"),
    ],
)
def test_a_secret_stays_only_where_it_goes_to_the_same_place(sent: str, known: str | None) -> None:
    with pytest.raises(SecretLost):
        unmask_url(sent, known)


def test_what_may_change_beside_a_masked_password() -> None:
    changed = unmask_url("smpp://u:***@h:1/path?window=20", "smpp://u:hidden@h:1?window=10")
    assert changed == "smpp://u:hidden@h:1/path?window=20"
    assert unmask_url("smpp://u:new@elsewhere:1", "smpp://u:hidden@h:1") == "smpp://u:new@elsewhere:1"


SETTINGS: dict[str, Any] = {
    "headers": {"Authorization": "Bearer hidden", "Accept": "application/json"},
    "auth_tokens": ["hidden", "hidden too"],
    "secret": {"nested": "hidden"},
    "timeout_s": 5,
}


def test_settings_are_shown_without_secrets_and_taken_back() -> None:
    shown = mask_settings(SETTINGS)
    assert shown == {
        "headers": {"Authorization": "***", "Accept": "application/json"},
        "auth_tokens": ["***", "***"],
        "secret": {"nested": "***"},
        "timeout_s": 5,
    }
    assert unmask_settings(shown, SETTINGS) == SETTINGS
    assert unmask_settings({**shown, "timeout_s": 6}, SETTINGS)["timeout_s"] == 6
    for lost in ({"password": "***"}, {"auth_tokens": ["***"]}, {"timeout_s": "***"}):
        with pytest.raises(SecretLost):
            unmask_settings(lost, SETTINGS)
