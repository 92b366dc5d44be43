"""The number that a worked answer ends in."""

import re
from decimal import Decimal, InvalidOperation

# with signs, commas between thousands, and decimals: -1,234.50
_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]*\d)")


def last_number(text: str) -> Decimal | None:
    """The last number of a text; None where there is none.

    >>> last_number("She has 3 bags of 1,250.00 g."), last_number("none")
    (Decimal('1250.00'), None)
    """
    found = _NUMBER.findall(text)
    if not found:
        return None
    try:
        return Decimal(found[-1].replace(",", "").replace("\u2212", "-"))
    except InvalidOperation:
        return None
