"""Every problem code that the API answers with: stable, for programs; a title, for people.

Guarantee: `tests/api/test_problems.py` holds that no other code leaves the API. A code, once
published, keeps its meaning; a new one is one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        # the request as a whole
        "malformed_json": "The body is not JSON",
        "malformed_row": "The row can't be read",
        "json_too_deep": "The JSON is nested too deeply",
        "invalid_utf8": "The body is not UTF-8",
        "invalid_request": "The request is not valid",
        "request_too_large": "The body is over the size limit",
        "unsupported_media_type": "The content type is not one that this route reads",
        "request_timeout": "The body did not arrive in time",
        "incomplete_body": "The body ended early",
        "not_found": "There is no such thing",
        "method_not_allowed": "The method is not allowed here",
        "conflict": "The request conflicts with the present state",
        "asked_already": "This person was asked already",
        "internal_error": "Something went wrong on our side",
        "not_acceptable": "The request can't be answered in that form",
        # who asks
        "unauthenticated": "A valid API key is needed",
        "forbidden": "The key's scopes don't allow this",
        # load
        "overloaded": "Too much at once",
        "rate_limited": "Too many requests",
        "database_unavailable": "The database can't be reached",
        "unavailable": "The service can't do this now",
        # idempotency
        "invalid_idempotency_key": "The idempotency key is not valid",
        "idempotency_key_reused": "The idempotency key belongs to another request",
        "idempotency_in_progress": "A request with this idempotency key is under way",
        "idempotency_answer_not_kept": "The request was done; its answer holds a secret and was not kept",
        # lists
        "invalid_cursor": "The cursor is not valid here",
        # fields
        "required": "A field is missing",
        "unknown_field": "There is no such field",
        "wrong_type": "The field has another type",
        "invalid_value": "The value is not allowed",
        "too_long": "The value is too long",
        "too_short": "The value is too short",
        "out_of_range": "The number is out of range",
        "duplicate_key": "A key is written twice in one object",
        "nul_character": "NUL can't be stored",
        "lone_surrogate": "Half of a surrogate pair is not a character",
        "invalid_time": "The time is not valid",
        "time_in_past": "The time has passed",
        "time_too_far": "The time is too far away",
        # messages
        "invalid_number": "The number can't be texted",
        "invalid_timezone": "There is no such time zone",
        "invalid_sender": "The sender is not valid",
        "sender_required": "No sender is given, and the tenant has no default",
        "body_or_template": "Either a body or a template is needed",
        "empty_body": "The text is empty",
        "body_too_long": "The text is too long",
        "template_syntax": "The body's variables can't be read",
        "template_too_many_variables": "The body has too many variables",
        "missing_variable": "A variable has no value",
        "too_many_variables": "There are too many variables",
        "unknown_template": "There is no such template",
        "invalid_metadata": "The metadata is not valid",
        "invalid_callback_url": "The callback URL is not allowed",
        "too_late": "It is too late for that",
        # the rules of the recipient's country
        "forbidden_category": "Texts of this category are forbidden there",
        "sender_not_allowed": "The sender can't be used there",
        "sender_not_registered": "The sender must be registered there",
        "sender_replaced": "Another sender will be shown there",
        "sender_label_required": "The sender must be marked as advertising there",
        "pack_test_failed": "A test in the country pack does not hold",
        "brand_required": "The text must begin with a brand, and none is set",
        "opt_out_text_required": "The text must say how to opt out",
        "link_shortener": "The text links by a public shortener",
        "link_not_allowed": "The text has a link that is not allowed there",
        "phone_number_in_text": "The text has a phone number, which is not delivered there",
        # keywords
        "reserved_keyword": "The word means stop, start or help",
        # batches
        "no_valid_recipients": "No recipient is valid",
        "too_many_recipients": "There are too many recipients",
        "batch_not_loading": "The batch is no longer loading",
        "batch_state": "The batch's state does not allow this",
        "upload_mismatch": "The file differs from what was already stored",
    }
)
