"""The pages in `docs/countries/`: one per pack, made from it, with its sources and how sure they are.

    python -m app.countries.pages docs/countries

Guarantee: pure but for `main`; the same packs make the same pages (`tests/countries/test_pages.py` holds the
committed ones to it).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from app.countries import schema
from app.countries.packs import Pack, Packs

NOTICE: Final = (
    "Research, not law: engineering defaults from public sources, with the day they were read and how sure they "
    "are. Have them confirmed before you rely on them."
)
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LINK: Final = re.compile(r"https?://\S+")
_UNSOURCED: Final = "no source link: custom or caution, not a rule that was read"


def is_linked(source: str) -> bool:
    """Whether a source can be followed."""
    return _LINK.match(source) is not None


def pages(packs: Packs) -> dict[str, str]:
    """File names and contents."""
    made = {f"{pack.id}.md": _page(pack) for pack in packs.all()}
    made["README.md"] = _index(packs)
    return made


def _index(packs: Packs) -> str:
    lines = ["# Countries", "", NOTICE, "", "| | | confidence | reviewed | source |", "|---|---|---|---|---|"]
    for pack in packs.all():
        data = pack.data
        linked = "linked" if any(map(is_linked, data.sources)) else "**none**"
        lines.append(
            f"| [{pack.id}]({pack.id}.md) | {data.name} | {data.confidence} | {data.reviewed} | {linked} |"
        )
    return "\n".join(
        [*lines, "", "Made by `python -m app.countries.pages`; the rules are in `app/countries/rules/`.", ""]
    )


def _page(pack: Pack) -> str:
    data = pack.data
    title = data.name if pack.id == "default" else f"{data.name} ({pack.id})"
    lines = [f"# {title}", "", NOTICE, ""]
    lines += [f"Reviewed {data.reviewed}; confidence {data.confidence}; version `{pack.version}`."]
    if data.covers:
        lines += [f"Holds for {', '.join(data.covers)}, too."]
    if not any(map(is_linked, data.sources)):
        lines += ["", f"**These rules have {_UNSOURCED}.**"]
    for heading, body in (
        ("Marketing hours", _hours(data.marketing, data.field_confidence.get("hours", data.confidence))),
        ("OTP and transactional", _other_hours(data)),
        ("Consent", _consent(data)),
        ("Opt-out", _opt_out(data)),
        ("Frequency cap", _cap(data.cap)),
        ("Label", _label(data.label)),
        ("Senders", _senders(data.sender_id)),
        ("Links", _links(data.links)),
        ("Forbidden", _forbidden(data.forbidden)),
        ("Do-not-contact registers", [data.do_not_contact] if data.do_not_contact else []),
        ("States", list(_states(data.subdivisions))),
        ("Where sources disagree", [f"- {one}" for one in data.conflicts]),
        ("Notes", [data.notes] if data.notes else []),
        (
            "Confidence by field",
            [f"- {name}: {value}" for name, value in sorted(data.field_confidence.items())],
        ),
        ("Sources", list(_sources(data.sources))),
    ):
        if body:
            lines += ["", f"## {heading}", "", *body]
    return "\n".join([*lines, ""])


def _hours(hours: schema.MarketingHours, confidence: str = "") -> list[str]:
    lines = [f"Basis: {hours.basis}{f' (confidence {confidence})' if confidence else ''}.", ""]
    lines += [f"- by default: {_windows(hours.safe)}"]
    widest = "no wider hours are known" if hours.allowed is None else _windows(hours.allowed)
    return [*lines, f'- at most, where a tenant\'s terms say `hours = "allowed"`: {widest}']


def _windows(windows: schema.Windows) -> str:
    week = windows.week()
    parts = []
    start = 0
    for day in range(1, 8):
        if day == 7 or week[day] != week[start]:
            span = _DAYS[start] if day - start == 1 else f"{_DAYS[start]} to {_DAYS[day - 1]}"
            parts.append(f"{span} {', '.join(_clock(*window) for window in week[start]) or 'closed'}")
            start = day
    shut = "; public holidays closed" if windows.holidays == "closed" else ""
    return ("; ".join(parts) if len(parts) > 1 else parts[0].replace("Monday to Sunday", "every day")) + shut


def _clock(opens: int, shuts: int) -> str:
    return "-".join(f"{moment // 3600:02}:{moment // 60 % 60:02}" for moment in (opens, shuts))


def _other_hours(data: schema.CountryFile) -> list[str]:
    lines = []
    for name in ("otp", "transactional"):
        hours = getattr(data, name)
        lines += [f"- {name}: at every hour"] if hours is None else [f"- {name}:", *_hours(hours)]
    return lines


def _consent(data: schema.CountryFile) -> list[str]:
    soft = (
        "an earlier sale of the like may do" if data.consent.soft_opt_in else "an earlier sale is not enough"
    )
    return [f"`{data.consent.type}`; {soft}.", *([data.consent.detail] if data.consent.detail else [])]


def _opt_out(data: schema.CountryFile) -> list[str]:
    words = ", ".join(data.opt_out.keywords) or "none of its own"
    law = f" The law's deadline: {data.opt_out.deadline}; ours: at once." if data.opt_out.deadline else ""
    return [f"Words, beside those of its languages: {words}.{law}"]


def _cap(cap: schema.Cap | None) -> list[str]:
    if cap is None:
        return []
    return [
        f"At most {cap.max} marketing texts to one recipient in any {cap.per}.",
        *([cap.scope] if cap.scope else []),
    ]


def _label(label: schema.Label) -> list[str]:
    lines = []
    if label.prefix or label.suffix or label.detail:
        demand = "Demanded" if label.required else "Not demanded"
        stated = [f"start: {label.prefix}"] if label.prefix else []
        stated += [f"end: {label.suffix}"] if label.suffix else []
        stated += [label.detail] if label.detail else []
        lines += [
            f"{demand}, in the {'sender' if label.where == 'sender_id' else 'text'}. {'; '.join(stated)}."
        ]
    for where, mark in (("start", label.start), ("end", label.end)):
        if mark is not None:
            instead = f", or `{mark.otherwise}` where that is not set" if mark.otherwise else ""
            lines += [
                "",
                f"Volley adds at the {where} of {', '.join(mark.categories)}, unless it is there: "
                f"`{mark.add}`{instead}.",
            ]
    if label.sender is not None:
        lines += ["", f"Volley accepts marketing only from `{label.sender.start}…{label.sender.end}`."]
    if label.required and label.start is label.end is label.sender is None:
        lines += ["", "Volley does not check it."]
    return lines


def _senders(sender: schema.SenderId) -> list[str]:
    lines = [f"- names: {sender.names}", f"- numbers: {sender.numbers}"]
    if sender.marketing_numbers:
        lines += [f"- numbers, of marketing: {sender.marketing_numbers}"]
    if "registered" in (sender.names, sender.numbers):
        what = "refused" if sender.unregistered == "refuse" else "warned of"
        lines += [f"- what the tenant has not declared as registered is {what}"]
    if sender.refused_words:
        lines += [f"- never taken: {', '.join(sender.refused_words)}"]
    if sender.registration:
        lines += [f"- registration: {sender.registration}"]
    two_way = {True: "yes", False: "no", None: "unknown"}[sender.two_way]
    return [*lines, f"- people can answer: {two_way}"]


def _links(links: schema.Links | None) -> list[str]:
    if links is None:
        return []
    does = {
        "any": "nothing",
        "no_shorteners": "links by public shorteners",
        "allow_list": "links to domains that the tenant has not named as allow-listed",
        "refused": "every link",
    }[links.policy]
    lines = [
        f"{links.detail}.",
        "",
        f"Volley {'refuses' if links.breach == 'refuse' else 'warns of'}: {does} ({', '.join(links.categories)}).",
    ]
    if links.phone_numbers != "allow":
        lines += [
            f"Volley {'refuses' if links.phone_numbers == 'refuse' else 'warns of'}: phone numbers in the text."
        ]
    return lines


def _forbidden(forbidden: schema.Forbidden | None) -> list[str]:
    return [] if forbidden is None else [f"{', '.join(forbidden.categories)}: {forbidden.basis}."]


def _states(states: Mapping[str, schema.Subdivision]) -> Iterator[str]:
    for code, state in sorted(states.items()):
        yield f"### {state.name} ({code})"
        yield ""
        yield f"Confidence {state.confidence}. Holds beside the country's: both must be open."
        if state.marketing is not None:
            yield ""
            yield from _hours(state.marketing)
        if state.cap is not None:
            yield ""
            yield from _cap(state.cap)
        yield ""


def _sources(sources: list[str]) -> Iterator[str]:
    for source in sources:
        link = _LINK.match(source)
        yield f"- {source}" if link is None else f"- <{link[0]}>{source[link.end() :]}"
    if not any(map(is_linked, sources)):
        yield f"- {_UNSOURCED}"


def main(folder: Path) -> None:
    """Write the pages; those of packs that are no more go."""
    made = pages(Packs.load())
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, content in made.items():
        (folder / name).write_text(content, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/countries"))
