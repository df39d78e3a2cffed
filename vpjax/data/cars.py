"""Facts in the class names of Stanford Cars, such as "Acura Integra Type R 2001".

    facts("Audi S4 Sedan 2012") -> full_name, make "Audi", model "S4", type "sedan", year "2012"

Names end with the year; those of the few-shot splits begin with it. Krause et al. 2013.
"""

import re

MAKES = ("AM General", "Aston Martin", "Land Rover")  # of two words
TYPES = {
    "sedan": "sedan",
    "suv": "SUV",
    "coupe": "coupe",
    "convertible": "convertible",
    "hatchback": "hatchback",
    "wagon": "wagon",
    "minivan": "minivan",
    "van": "van",
    "cab": "pickup truck",
}


def facts(name: str) -> dict[str, str]:
    """Return the facts that templates for cars ask for; without a type in the name it is "car"."""
    words = name.replace("_", " ").split()
    year = next((w for w in words if re.fullmatch(r"(19|20)\d\d", w)), "")
    words = [w for w in words if w != year]
    full = " ".join(words)
    make = next((m for m in MAKES if full.startswith(m + " ")), words[0])
    rest = full[len(make) :].split()
    body = rest[-1].lower() if rest else ""
    kind = TYPES.get(body, "car")
    if body in TYPES:
        rest = rest[: -2 if body == "cab" else -1]  # "Crew Cab"
    return {
        "name": name,
        "full_name": " ".join(filter(None, (full, year))),
        "make": make,
        "model": " ".join(rest) or full,
        "type": kind,
        "category": kind,
        "year": year,
    }
