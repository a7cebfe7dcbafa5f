"""What a fault brings about by its nature: of a subject that has it, these findings are true too.

It is what textbooks and the papers named in the rules say, written down without looking at which
findings the rules explain by which.
"""

from __future__ import annotations

__all__ = ["CONSEQUENCES"]

# Nothing passes forward or backward.
_CUT_OFF = "GS101 GS103 GS203 GS204 GS205 GS304 GS501 GS703"
# Everything grows, in both directions.
_TOO_LARGE = "GS102 GS104 GS206 GS301 GS401 GS402 GS502 GS503 GS504"
_UNITS_PUSHED_AWAY = "GS201 GS202 GS601"

CONSEQUENCES: dict[str, frozenset[str]] = {
    cause: frozenset(" ".join(codes).split())
    for cause, codes in {
        "GS101": ("GS206 GS304 GS501 GS703",),
        "GS102": (_TOO_LARGE,),
        "GS103": ("GS101 GS304 GS501",),
        "GS104": ("GS502 GS503",),
        "GS201": (_CUT_OFF,),
        "GS202": (_CUT_OFF, "GS602"),
        "GS203": (_CUT_OFF,),
        "GS204": (_CUT_OFF,),
        "GS205": (_CUT_OFF,),
        # What grows or decays over depth in one direction mostly does so in the other.
        "GS206": (_TOO_LARGE, "GS101 GS703"),
        "GS301": (_TOO_LARGE, _UNITS_PUSHED_AWAY, _CUT_OFF),
        "GS302": (_CUT_OFF,),
        "GS303": (_TOO_LARGE, _UNITS_PUSHED_AWAY, _CUT_OFF, "GS602"),
        "GS304": ("GS501",),
        "GS401": (_CUT_OFF, "GS503"),
        "GS402": ("GS101 GS103 GS304 GS401 GS501",),
        "GS502": ("GS503",),
        "GS503": ("GS104 GS401",),
        "GS504": ("GS104 GS301 GS502 GS503",),
        "GS602": ("GS101 GS103 GS501",),
        "GS701": (_TOO_LARGE, _UNITS_PUSHED_AWAY, _CUT_OFF),
        "GS702": ("GS101 GS103 GS202 GS501 GS504 GS703",),
        "GS703": (_CUT_OFF,),
    }.items()
}
