"""The audit: whoever changes what was done is found out."""

import hashlib
from dataclasses import asdict

from hypothesis import assume, given
from hypothesis import strategies as st

from gigafactory.factory.events import Acted, to_row
from gigafactory.ledger.audit import Head, head, link, verify
from gigafactory.ledger.store import HOUSE, Ledger, Row, read

WORDS = st.text(max_size=8)
SAID = st.dictionaries(
    WORDS, st.none() | st.booleans() | st.integers() | st.floats(0, 1e9) | WORDS, max_size=3
)
ACTS = st.lists(st.tuples(st.floats(0, 2e9), WORDS, WORDS, WORDS, SAID), min_size=1, max_size=8)


def chain(acts):
    previous, chained = "", []
    for at_s, by, did, about, said in acts:
        digest = link(previous, {"at_s": at_s, "by": by, "did": did, "about": about, "said": said})
        chained.append(Acted(at_s, by, did, about, said, previous, digest))
        previous = digest
    return chained


def rows(path, acts):
    ledger = Ledger(path)
    ledger.append(HOUSE, *chain(acts)).result()
    ledger.close()
    return list(read(path, HOUSE, kinds=["Acted"]))


def row(seq, act):
    kind, subject, at_s, body = to_row(act)
    return Row(seq, HOUSE, kind, subject, at_s, at_s, body)


STORY = [
    (1.0, "ann", "key.make", "k1", {"role": "admin"}),
    (2.0, "ann", "key.make", "k2", {"role": "viewer"}),
    (3.0, "bob", "key.revoke", "k2", {}),
    (4.0, "ann", "user.set", "eve", {7: "words in the ledger", 12: (1, 2)}),
]


def test_a_chain_that_nobody_touched_is_whole(tmp_path):
    kept = rows(tmp_path / "ledger.db", STORY)
    assert verify(kept) is None
    assert head(kept) == Head(4, kept[-1].body["digest"])
    assert verify(kept, noted=head(kept)) is None
    assert verify(kept, noted=head(kept[:2])) is None
    assert (verify([]), head([])) == (None, Head(0, ""))


def test_the_digest_is_of_the_digest_before_and_all_that_was_said():
    first, second = chain(STORY[:2])
    assert link(first.digest, asdict(second)) == second.digest
    said = b'{"about":"k1","at_s":1.0,"by":"ann","did":"key.make","said":{"role":"admin"}}'
    assert first.digest == hashlib.sha256(said).hexdigest()


def test_it_says_where_the_chain_breaks(tmp_path):
    kept = rows(tmp_path / "ledger.db", STORY)
    kept[1] = kept[1]._replace(body={**kept[1].body, "said": {"role": "operator"}})
    fault = verify(kept)
    assert fault.where == "row 2 of the ledger, act 2"
    assert "it was changed" in fault.why


def test_a_tail_cut_off_is_missed_by_who_noted_the_head(tmp_path):
    kept = rows(tmp_path / "ledger.db", STORY)
    noted = head(kept)
    assert verify(kept[:3]) is None
    assert "4 acts were noted" in verify(kept[:3], noted).why


def test_a_chain_forged_anew_is_found_by_who_noted_the_head(tmp_path):
    noted = head(rows(tmp_path / "ledger.db", STORY))
    forged = rows(tmp_path / "forged.db", [*STORY[:3], (4.0, "ann", "user.set", "mallory", {})])
    assert verify(forged) is None
    assert "another digest" in verify(forged, noted).why


@given(ACTS, st.data())
def test_any_row_changed_removed_swapped_or_put_in_is_found(acts, data):
    kept = [row(n, act) for n, act in enumerate(chain(acts), start=1)]
    assert verify(kept) is None
    place = data.draw(st.integers(0, len(kept) - 1))
    forged = list(kept)
    match data.draw(st.sampled_from(["change", "remove", "swap", "put in"])):
        case "change":
            it = kept[place]
            name = data.draw(
                st.sampled_from(["by", "did", "about", "said", "previous", "digest", "new", "at_s",
                                 "subject", "kind", "run"])
            )  # fmt: skip
            value = data.draw(st.floats(0, 2e9) if name == "at_s" else WORDS)
            if name in Row._fields:
                assume(getattr(it, name) != value)
                forged[place] = it._replace(**{name: value})
            else:
                assume(it.body.get(name) != value)
                forged[place] = it._replace(body={**it.body, name: value})
        case "remove":
            assume(place < len(kept) - 1)  # the last is missed by its head only
            del forged[place]
        case "swap":
            other = data.draw(st.integers(0, len(kept) - 1))
            assume(other != place)
            forged[place], forged[other] = kept[other], kept[place]
        case "put in":
            forged.insert(place, row(0, chain([data.draw(ACTS)[0]])[0]))
            # Before the first, a first of its own follows rightly; then the old first does not.
    assert verify(forged) is not None
