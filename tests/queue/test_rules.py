"""The fast copy of the rules: it answers only when it is whole, and counts caps atomically."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from app.queue import rules
from app.queue.connection import EpochLost, Queue
from app.queue.rules import CAPPED, EXPRESS, INQUIRY, SOFT, WITHDRAWN, Budget, Cap, Question

ANN, BOB, CAT = (bytes([n] * 8) for n in (1, 2, 3))


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    queue = Queue(redis_url)
    await queue.client.flushdb()
    queue.attach(1)
    await queue.load()
    await rules.mark_whole(queue, [1])
    yield queue
    await queue.close()


WINDOW_MS = 60_000


def ask(
    *people: bytes, sender: str = "s", tenant: int = 1, consent: bool = False, cap: int = 0, tokens=(), **of
):
    if cap:
        of = {"keep_ms": WINDOW_MS, "caps": (Cap(CAPPED, cap, WINDOW_MS),), **of}
    return Question(
        tenant_id=tenant, sender=sender, recipients=people, need_consent=consent, tokens=[token(t) for t in tokens],
        **of,
    )  # fmt: skip


def token(name: bytes) -> bytes:
    return name.rjust(16, b".")


async def verdicts(queue: Queue, *questions: Question) -> list[str]:
    return [answer.letters for answer in await rules.check(queue, questions)]


async def test_a_copy_that_is_not_whole_answers_nothing(queue: Queue) -> None:
    with pytest.raises(EpochLost):
        await verdicts(queue, ask(ANN), ask(ANN, tenant=2))
    await queue.client.flushdb()
    with pytest.raises(EpochLost):
        await verdicts(queue, ask(ANN))


async def test_suppression_of_all_senders_and_of_one(queue: Queue) -> None:
    await rules.suppress(queue, 1, [rules.member(ANN, ""), rules.member(BOB, "s")])
    assert await verdicts(queue, ask(ANN, BOB, CAT), ask(ANN, BOB, CAT, sender="t")) == ["ss.", "s.."]
    await rules.release(queue, 1, [rules.member(ANN, "")])
    assert await verdicts(queue, ask(ANN, BOB, CAT)) == [".s."]


async def test_consent_is_asked_only_where_it_is_needed(queue: Queue) -> None:
    await rules.set_consents(queue, 1, {ANN: rules.word(EXPRESS, time.time(), None)})
    assert await verdicts(queue, ask(ANN, BOB, consent=True), ask(ANN, BOB)) == [".n", ".."]
    await rules.set_consents(queue, 1, {ANN: rules.word(WITHDRAWN, time.time(), None)})
    assert await verdicts(queue, ask(ANN, consent=True)) == ["n"]


async def test_where_none_is_needed_a_withdrawal_is_an_objection(queue: Queue) -> None:
    words = {ANN: rules.word(WITHDRAWN, time.time(), None), BOB: rules.word(SOFT, 1.0, 2.0)}
    await rules.set_consents(queue, 1, words)
    assert await verdicts(queue, ask(ANN, BOB, CAT, heed_withdrawal=True)) == ["n.."]


async def test_a_suppression_outweighs_a_consent(queue: Queue) -> None:
    await rules.set_consents(queue, 1, {ANN: rules.word(EXPRESS, time.time(), None)})
    await rules.suppress(queue, 1, [rules.member(ANN, "")])
    assert await verdicts(queue, ask(ANN, consent=True)) == ["s"]


async def test_the_same_text_counts_once_and_can_be_given_back(queue: Queue) -> None:
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"m1"])) == ["."]
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"m1"])) == ["."], "its second attempt"
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"m2"])) == ["c"]
    await rules.uncount(queue, 1, [(ANN, token(b"m1"))])
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"m2"])) == ["."]


async def test_one_parcel_with_a_person_twice_counts_both(queue: Queue) -> None:
    assert await verdicts(queue, ask(ANN, ANN, ANN, cap=2, tokens=[b"1", b"2", b"3"])) == ["..c"]


async def test_many_at_once_never_pass_the_cap(queue: Queue) -> None:
    asked = [ask(ANN, cap=3, tokens=[b"m%d" % n]) for n in range(50)]
    answers = await asyncio.gather(*(verdicts(queue, one) for one in asked))
    assert sum(one == ["."] for one in answers) == 3


async def test_a_rebuilt_history_counts(queue: Queue) -> None:
    now_ms = int((await queue.client.time())[0]) * 1000
    contacts = [
        rules.tenants_contact(1, ANN, token(b"m0"), now_ms - 61_000),
        rules.tenants_contact(1, ANN, token(b"m1"), now_ms),
    ]
    await rules.remember_contacts(queue, [*contacts, contacts[-1]])
    assert await verdicts(queue, ask(ANN, cap=2, tokens=[b"m2"])) == ["."]
    assert await verdicts(queue, ask(ANN, cap=2, tokens=[b"m3"])) == ["c"]


async def test_histories_that_no_limit_counts_are_dropped(queue: Queue) -> None:
    now_ms = int((await queue.client.time())[0]) * 1000
    people = [n.to_bytes(8, "big") for n in range(2_000)]
    old = [rules.tenants_contact(1, one, token(b"m0"), now_ms - 90_000) for one in people]
    await rules.remember_contacts(queue, [*old, rules.tenants_contact(1, people[7], token(b"m1"), now_ms)])
    await rules.remember_contacts(queue, [rules.organisations_contact(3, ANN, token(b"m2"), now_ms - 90_000)])
    await rules.set_kept(queue, {rules.of_tenant(1): WINDOW_MS, rules.of_organisation(3): WINDOW_MS})
    await rules.forget_contacts(queue, [1], [3])
    assert await queue.client.hkeys(f"v{queue.epoch}:{{t1}}:histories") == [people[7]]
    assert not await queue.client.exists(f"v{queue.epoch}:{{o3}}:histories")


async def test_one_person_asked_about_twice_at_once_is_counted_twice(queue: Queue) -> None:
    assert await verdicts(queue, ask(ANN, BOB, ANN, ANN, cap=2, tokens=[b"1", b"2", b"3", b"4"])) == ["...c"]
    assert await verdicts(queue, ask(ANN, BOB, cap=2, tokens=[b"5", b"6"])) == ["c."]


async def test_the_answer_says_when_a_limit_is_free(queue: Queue) -> None:
    before = time.time()
    await verdicts(queue, ask(ANN, ANN, cap=2, tokens=[b"1", b"2"]))
    [answer] = await rules.check(queue, [ask(BOB, ANN, cap=2, tokens=[b"3", b"4"])])
    assert answer.letters == ".c"
    assert set(answer.free_at_s) == {1}
    assert before + 55 < answer.free_at_s[1] < time.time() + 65


async def test_to_ask_only_counts_nobody(queue: Queue) -> None:
    for _ in range(3):
        assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"1"], only_ask=True)) == ["."]
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"2"])) == ["."]
    assert await verdicts(queue, ask(ANN, cap=1, tokens=[b"3"], only_ask=True)) == ["c"]


async def test_a_registered_number_gets_no_marketing_of_that_country(queue: Queue) -> None:
    await rules.enlist(queue, 1, "US", [ANN])
    assert await verdicts(queue, ask(ANN, BOB, registry="US"), ask(ANN, registry="VN"), ask(ANN)) == [
        "d.",
        ".",
        ".",
    ]
    assert await verdicts(queue, ask(ANN, tenant=1, registry="US", consent=True)) == ["d"]
    await rules.delist(queue, 1, "US", [ANN])
    assert await verdicts(queue, ask(ANN, registry="US")) == ["."]


async def test_a_brands_stop_holds_for_its_senders_only(queue: Queue) -> None:
    await rules.suppress(queue, 1, [rules.member(ANN, "brand\tshoes")])
    asked = [ask(ANN, BOB, brand="brand\tshoes"), ask(ANN, brand="brand\thats"), ask(ANN)]
    assert await verdicts(queue, *asked) == ["s.", ".", "."]


async def test_a_consent_lapses_by_its_kind_and_age_and_by_its_own_end(queue: Queue) -> None:
    now = time.time()
    words = {
        ANN: rules.word(EXPRESS, now - 100, None),
        BOB: rules.word(SOFT, now - 100, None),
        CAT: rules.word(INQUIRY, now - 100, None),
        bytes(8): rules.word(EXPRESS, now - 100, now - 1),
    }
    await rules.set_consents(queue, 1, words)

    async def of(*ages: int) -> str:
        [letters] = await verdicts(queue, ask(*words, consent=True, ages=ages))
        return letters

    assert await of(0, -1, -1) == ".nnx"
    assert await of(90, 0, 90) == "x.xx"
    assert await of(110, 110, 110) == "...x"


async def test_of_the_tenants_and_the_brands_consent_the_newer_word_holds(queue: Queue) -> None:
    now, shoes = time.time(), "brand\tshoes"

    async def with_words(everything: tuple[str, float] | None, brand: tuple[str, float] | None) -> str:
        await rules.forget_consents(queue, 1, [ANN, ANN + shoes.encode()])
        given = {ANN: everything, ANN + shoes.encode(): brand}
        fields = {
            who: rules.word(kind, now - ago, None)
            for who, word in given.items()
            if word
            for kind, ago in [word]
        }
        if fields:
            await rules.set_consents(queue, 1, fields)
        [letters] = await verdicts(queue, ask(ANN, consent=True, brand=shoes))
        return letters

    assert await with_words(None, None) == "n"
    assert await with_words((EXPRESS, 10), None) == "."
    assert await with_words(None, (EXPRESS, 10)) == "."
    assert await with_words((WITHDRAWN, 5), (EXPRESS, 10)) == "n"
    assert await with_words((WITHDRAWN, 10), (EXPRESS, 5)) == "."
    assert await with_words((EXPRESS, 10), (WITHDRAWN, 5)) == "n"
    assert await with_words((WITHDRAWN, 5), (EXPRESS, 5)) == "n"
    assert await with_words((EXPRESS, 5), (WITHDRAWN, 5)) == "n"


async def test_a_campaigns_cap_counts_its_own_contacts(queue: Queue) -> None:
    caps = (Cap("t", 3, WINDOW_MS), Cap("g", 1, WINDOW_MS, True))

    async def send(name: bytes, campaign: bytes) -> str:
        asked = ask(ANN, tokens=[name], keep_ms=WINDOW_MS, caps=caps, campaign=campaign)
        return (await verdicts(queue, asked))[0]

    assert await send(b"1", b"aaaa") == "."
    assert await send(b"2", b"aaaa") == "g"
    assert await send(b"3", b"bbbb") == "."
    assert await send(b"4", b"cccc") == "."
    assert await send(b"5", b"dddd") == "t"


async def test_the_same_text_is_found_again_within_its_time(queue: Queue) -> None:
    async def send(name: bytes, content: bytes, *, contact: bool = False, cap: int = 0) -> str:
        caps = (Cap("c", cap, WINDOW_MS),) if cap else ()
        asked = ask(
            ANN, tokens=[name], keep_ms=WINDOW_MS, caps=caps, duplicate_ms=5_000, contents=[content],
            contact=contact,
        )  # fmt: skip
        return (await verdicts(queue, asked))[0]

    assert await send(b"1", b"hello") == "."
    assert await send(b"1", b"hello") == ".", "its own second attempt"
    assert await send(b"2", b"hello") == "r"
    assert await send(b"3", b"other") == "."
    assert await send(b"4", b"third", contact=True, cap=1) == ".", "what is no contact doesn't count"
    assert await send(b"5", b"forth", contact=True, cap=1) == "c"


async def test_departments_share_a_budget_and_get_back_what_another_one_used_up(queue: Queue) -> None:
    await rules.mark_whole(queue, [1, 2], [7])
    shared = b"sharedha"

    def budget(most: int) -> Budget:
        return Budget(7, [shared], most, WINDOW_MS)

    def one(tenant: int, name: bytes, most: int = 2) -> Question:
        return ask(ANN, tenant=tenant, cap=1 if tenant == 1 else 9, tokens=[name], budget=budget(most))

    assert await verdicts(queue, one(2, b"1"), one(2, b"2")) == [".", "."]
    [answer] = await rules.check(queue, [one(1, b"3")])
    assert (answer.letters, set(answer.free_at_s)) == ("o", {0})
    assert await verdicts(queue, one(1, b"4", most=3)) == ["."], "its own cap was given back"
    await rules.uncount_budget(queue, 7, [(shared, token(b"4")), (shared, token(b"2"))])
    assert await verdicts(queue, one(2, b"5")) == ["."]


async def test_a_budget_of_an_organisation_that_is_not_in_the_copy_is_no_yes(queue: Queue) -> None:
    budget = Budget(8, [ANN], 1, WINDOW_MS)
    with pytest.raises(EpochLost):
        await verdicts(queue, ask(ANN, cap=1, tokens=[b"1"], budget=budget))
