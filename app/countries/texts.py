"""What a country's pack says of a sender and a text: found before anything is accepted.

Guarantee: a finding names its code, its rule and what the sender of the message can do about it, and never
repeats the text.

Pure. Codes are those of the API's problems.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from app.countries import schema
from app.domain import labels, links
from app.domain.message import Category

_MISSING = {
    "brand": ("brand_required", "the text must begin with a brand: set the sender's `signature` or a `brand`"),
    "opt_out": (
        "opt_out_text_required",
        "the text must say how to opt out: write it into the text, or set the tenant's `opt_out` of the country",
    ),
}  # fmt: skip


class Finding(msgspec.Struct, frozen=True):
    """What is wrong; `refuse`: so wrong that the message is not accepted. `field` is the request's.

    `spared`: it would be, but for where it goes.
    """

    code: str
    detail: str
    rule: str  # "AE.label"
    refuse: bool
    field: str
    spared: bool = False


class Said(msgspec.Struct, frozen=True):
    """What a tenant has set that the rules on texts ask for. `registered`: where its sender is, by country."""

    brand: str = ""
    opt_out: str = ""
    domains: frozenset[str] = frozenset()
    registered: bool = False

    @property
    def words(self) -> Mapping[str, str]:
        """What marks are made of."""
        return {"brand": self.brand, "opt_out": self.opt_out}


class TextRules(msgspec.Struct, frozen=True):
    """One country's rules on the texts of one category, ready for use."""

    country: str  # the pack's id
    version: str
    category: str
    sender: schema.SenderId
    sender_mark: schema.SenderMark | None
    start: labels.Mark | None
    end: labels.Mark | None
    links: schema.Links | None
    forbidden: schema.Forbidden | None

    @property
    def silent(self) -> bool:
        """Whether nothing of a text can be against these rules, so that it need not be looked at."""
        return self.start is None and self.end is None and self.links is None

    def of_sender(self, sender: str, said: Said) -> list[Finding]:
        """What is wrong with category and sender, whatever the text."""
        found = []
        if self.forbidden is not None:
            found.append(
                self._finding("forbidden_category", self.forbidden.basis, "forbidden", field="category")
            )
        named = not sender.isdigit()
        mark = self.sender_mark
        if mark is not None and not (named and sender.startswith(mark.start) and sender.endswith(mark.end)):
            detail = f"marketing comes from a name such as {mark.start}Brand{mark.end}, at most 11 characters"
            found.append(self._finding("sender_label_required", detail, "label"))
        return found + self._registration(sender, named=named, said=said)

    def _registration(self, sender: str, *, named: bool, said: Said) -> list[Finding]:
        rule = self.sender
        kind = "names" if named else "numbers"
        policy = rule.names if named else rule.numbers
        if not named and self.category == "marketing" and rule.marketing_numbers is not None:
            policy = rule.marketing_numbers
        if named and sender.casefold() in {word.casefold() for word in rule.refused_words}:
            return [self._finding("sender_not_allowed", "no network there takes this name", "sender_id")]
        if policy == "refused":
            detail = f"{kind} can't send {self.category} texts there: {rule.registration or 'networks refuse them'}"
            return [self._finding("sender_not_allowed", detail, "sender_id")]
        if policy == "replaced":
            detail = f"networks there replace {kind}: {rule.registration}"
            return [self._finding("sender_replaced", detail, "sender_id", refuse=False)]
        if policy == "registered" and not said.registered:
            detail = (
                f"senders must be registered there ({rule.registration}): once yours is, "
                "add the country to the sender's `registered`"
            )
            return [
                self._finding(
                    "sender_not_registered", detail, "sender_id", refuse=rule.unregistered == "refuse"
                )
            ]
        return []

    def ends(self, text: str, said: Said) -> tuple[str, str, list[Finding]]:
        """What goes before and behind a text, and what is missing for one of them: that one is empty then."""
        found: dict[str, Finding] = {}
        made = ["", ""]
        for place, marks in enumerate(((self.start, None), (None, self.end))):
            try:
                made[place] = labels.ends(text, *marks, said.words)[place]
            except labels.Missing as missing:
                code, detail = _MISSING[missing.name]
                found[code] = self._finding(code, detail, "label", field="body")
        return made[0], made[1], list(found.values())

    def of_text(self, text: str, said: Said) -> list[Finding]:
        """What is wrong with a text's links and numbers."""
        rule = self.links
        if rule is None:
            return []
        found = []
        for host in links.hosts(text) if rule.policy != "any" else ():
            fault = self._link(host, rule, said.domains)
            if fault is not None:
                found.append(fault)
                break
        if rule.phone_numbers != "allow" and links.has_phone_number(text.replace(said.opt_out or "\0", "")):
            detail = f"a phone number in the text is not delivered there: {rule.detail}"
            refuse = rule.phone_numbers == "refuse"
            found.append(self._finding("phone_number_in_text", detail, "links", refuse=refuse, field="body"))
        return found

    def _link(self, host: str, rule: schema.Links, domains: Collection[str]) -> Finding | None:
        refuse = rule.breach == "refuse"
        if links.is_shortener(host):
            detail = f"links by public shorteners are not delivered there: {rule.detail}"
            return self._finding("link_shortener", detail, "links", refuse=refuse, field="body")
        if rule.policy == "refused":
            detail = f"texts with links are not delivered there: {rule.detail}"
            return self._finding("link_not_allowed", detail, "links", refuse=refuse, field="body")
        if rule.policy == "allow_list" and not links.is_allowed(host, domains):
            detail = (
                f"only links to allow-listed domains are delivered there ({rule.detail}): "
                "once yours is, add it to the tenant's `link_domains` of the country"
            )
            return self._finding("link_not_allowed", detail, "links", refuse=refuse, field="body")
        return None

    def _finding(
        self, code: str, detail: str, part: str, *, refuse: bool = True, field: str = "sender"
    ) -> Finding:
        return Finding(code, f"{self.country}: {detail}", f"{self.country}.{part}", refuse, field)


class Refusal(Exception):
    """A text that can't be made what the rules demand."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.code)
        self.finding = finding


def rules_of(id_: str, version: str, data: schema.CountryFile, category: Category) -> TextRules:
    """A pack's rules on texts of that category."""
    name = category.name
    label, words = data.label, data.opt_out.keywords
    forbidden = data.forbidden
    link = data.links
    return TextRules(
        id_,
        version,
        name,
        data.sender_id,
        label.sender if category is Category.marketing else None,
        label.start.mark(words) if label.start and name in label.start.categories else None,
        label.end.mark(words) if label.end and name in label.end.categories else None,
        link
        if link and name in link.categories and (link.policy, link.phone_numbers) != ("any", "allow")
        else None,
        forbidden if forbidden and name in forbidden.categories else None,
    )
