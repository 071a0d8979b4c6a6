"""The base of every part of the kind, and the scalar types that Kubernetes users expect."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class Rule:
    """A cross-field rule, twice: in CEL for the API server, and as `holds` for a spec from a file.

    `message` says what to do. Source of the language: https://kubernetes.io/docs/reference/using-api/cel/
    """

    rule: str
    message: str
    holds: Callable[[Any], bool]
    """Tells of the part, defaults filled in, what `rule` tells of its JSON."""


class Part(BaseModel):
    """A frozen part of the kind: camelCase in YAML, snake_case in Python.

    Fields that this version does not know are dropped when parsing; `longshore.api.parse` names them.
    Subclasses list their cross-field rules in `RULES`.
    """

    RULES: ClassVar[tuple[Rule, ...]] = ()

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        allow_inf_nan=False,
    )

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule.message for rule in self.RULES if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def to_wire(self) -> dict[str, Any]:
        """Give the JSON form with Kubernetes' field names, without what is None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


_DURATION = r"^([0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h))+$"
_QUANTITY = r"^[0-9]{1,18}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_DNS_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

Duration = Annotated[str, Field(max_length=32, pattern=_DURATION, examples=["30s"])]
"""A length of time as in Go: 300ms, 30s, 1h30m."""


_LARGEST_INTEGER = 10**15


def _canonical(text: str) -> str:
    return canonical(text)


def _text_of_integer(value: Any) -> Any:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_INTEGER
    return str(value) if is_count else value


Quantity = Annotated[
    str,
    Field(
        max_length=32,
        pattern=_QUANTITY,
        examples=["512Mi"],
        description="A quantity: a whole number, or a text such as 500m or 1Gi.",
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maximum": _LARGEST_INTEGER,
        },
    ),
    AfterValidator(_canonical),
    BeforeValidator(_text_of_integer),
]
"""A Kubernetes quantity: 500m, 2, 1Gi. In YAML also a bare whole number."""

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=_DNS_NAME)]
"""Name of a Kubernetes object (RFC 1123 subdomain)."""

Label = Annotated[str, Field(min_length=1, max_length=63, pattern=_DNS_LABEL)]
"""A DNS label (RFC 1123)."""

Sha256 = Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""

Text = Annotated[str, Field(max_length=1024)]
"""A sentence or two for a person."""

Time = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
"""A moment in RFC 3339, UTC."""

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SUFFIX = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
}


def seconds(duration: str) -> float:
    """Convert a `Duration` to seconds.

    Raises:
        ValueError: the text is no duration such as `300ms` or `1h30m`.
    """
    if not re.fullmatch(_DURATION, duration):
        raise ValueError(
            f"{duration!r} is no duration: write a number with a unit, such as 300ms, 30s or 1h30m"
        )
    return sum(
        float(n) * _UNIT_SECONDS[u] for n, _, u in re.findall(r"([0-9]+(\.[0-9]+)?)(ms|s|m|h)", duration)
    )


def quantity(text: str) -> Decimal:
    """Convert a `Quantity` to its value in units (cores, bytes).

    Raises:
        ValueError: the text is no quantity such as `500m` or `1Gi`.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-zA-Z]*)", text)
    if not match or match[2] not in _SUFFIX:
        raise ValueError(
            f"{text!r} is no quantity: write a number with an optional unit, such as 500m, 2 or 1Gi"
        )
    return Decimal(match[1]) * _SUFFIX[match[2]]


_DECIMAL = ("m", "", "k", "M", "G", "T", "P", "E")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def canonical(text: str) -> str:
    """Write a `Quantity` as the API server stores it: 1000m is 1, 0.5Gi is 512Mi.

    Else what is applied and what stands would differ for ever. Containers' resources are rounded up to a
    thousandth. Source: `CanonicalizeBytes` in k8s.io/apimachinery/pkg/api/resource.

    Raises:
        ValueError: the text is no quantity such as `500m` or `1Gi`.
    """
    value = quantity(text)
    if text.endswith("i") and value >= 1024 and value == value.to_integral_value():
        return _scaled(int(value), 1024, _BINARY)
    thousandths = (value * 1000).to_integral_value(rounding="ROUND_CEILING")
    return _scaled(int(thousandths), 1000, _DECIMAL) if thousandths else "0"


def _scaled(value: int, base: int, suffixes: tuple[str, ...]) -> str:
    """Write a value without a fraction under the largest suffix."""
    power = 0
    while value % base == 0 and power + 1 < len(suffixes):
        value, power = value // base, power + 1
    return f"{value}{suffixes[power]}"


def millicores(text: str) -> int:
    """Convert a CPU quantity to whole millicores, rounded up."""
    value = quantity(text) * 1000
    return int(value.to_integral_value(rounding="ROUND_CEILING"))
