"""Session affinity by header matches: which values of a header or cookie belong to the canary.

A gateway divides by weight or by what a request carries, never by a hash of it. What can stand in a route is
a regular expression, so the hash is of what one can look at: the last two letters or digits of a value. In
each class of characters the last one is ranked, and the first ones of that rank belong to the canary; the one
on the border is divided by the character before it. So a decimal number, a hexadecimal digest or a UUID meets
its weight to half a percent, a value never leaves the canary while the weight rises, and every value belongs
to exactly one side in whatever order a gateway tries its rules. A value without letters or digits belongs to
the stable revision.
"""

import hashlib
import re
from dataclasses import dataclass

from longshore.api.rollout import Affinity

CLASSES = ("0123456789", "abcdef", "ghijklmnopqrstuvwxyz", "ABCDEF", "GHIJKLMNOPQRSTUVWXYZ")
"""Characters that stand for each other: those of decimal and of hexadecimal numbers, and the rest."""

_ANY = "0-9A-Za-z"


@dataclass(frozen=True)
class Sides:
    """Header and the regular expressions (RE2, anchored) that its values match on each side."""

    header: str
    canary: str
    stable: str


def sides_of(affinity: Affinity, weight: int, salt: str) -> Sides:
    """Divide the values of the header or cookie.

    Args:
        affinity: which header or cookie.
        weight: percent of values that belong to the canary, 1 to 99.
        salt: makes the order of characters its own, so that not the same people try every model first.
    """
    if affinity.cookie is None:
        assert affinity.header is not None  # the rules of the kind: exactly one
        canary, stable = _values(weight, salt, "")
        return Sides(affinity.header, f"^{canary}$", f"^{stable}$")
    canary, stable = _values(weight, salt, ";")
    name = re.escape(affinity.cookie)
    return Sides("Cookie", rf"^(?:.*;\s*)?{name}={canary}(?:;.*)?$", rf"^(?:.*;\s*)?{name}={stable}(?:;.*)?$")


def _values(weight: int, salt: str, end: str) -> tuple[str, str]:
    """Give the expressions for the canary's and for the stable revision's values.

    A value is told by its last letter or digit; what follows, padding perhaps, is passed over.

    Args:
        weight: percent.
        salt: of the order.
        end: character that ends a value; empty: none does.
    """
    before, rest = f"[^{end}]*" if end else ".*", f"[^{_ANY}{end}]*"
    whole: dict[bool, str] = {True: "", False: ""}
    ends: dict[bool, list[str]] = {True: [], False: []}
    for members in CLASSES:
        ranked = _ranked(members, salt, "last")
        share = weight * len(members) / 100
        full = int(share)
        whole[True] += ranked[:full]
        whole[False] += ranked[full + 1 :]
        border, part = ranked[full], share - full
        first = "".join(_ranked(m, salt, "before")[: round(part * len(m))] for m in CLASSES)
        if first:
            ends[True].append(f"{before}[{first}]{border}")
            ends[False].append(f"(?:{before}[^{first}{end}])?{border}")
        else:
            whole[False] += border
    chosen = {
        side: "|".join([*([f"{before}[{whole[side]}]"] if whole[side] else []), *ends[side]])
        for side in (True, False)
    }
    return f"(?:{chosen[True]}){rest}", f"(?:(?:{chosen[False]}){rest}|{rest})"


def _ranked(members: str, salt: str, place: str) -> str:
    def rank(character: str) -> bytes:
        return hashlib.sha256(f"{salt}/{place}/{character}".encode()).digest()

    return "".join(sorted(members, key=rank))
