"""Names the classes of an event, in the order of their numbers.

Which event is of which is CosmicTagger v2.1's rule: a muon neutrino by its code, 14;
any neutrino in a neutral current; none where fewer than ten pixels are the neutrino's;
and everything else, electron neutrinos above all, is of the first class.
"""

EVENT_CLASSES = ("nue", "numu", "nc", "no_nu")
"""Names in tables."""

EVENT_CLASS_WORDS = (
    "\N{GREEK SMALL LETTER NU}e or other",
    "\N{GREEK SMALL LETTER NU}\N{GREEK SMALL LETTER MU}",
    "neutral current",
    "no neutrino",
)
"""Names for people."""

EVENT_CLASS_CODES = ((12, 0), (14, 0), (0, 1), (0, -1))
"""PDG code, 0 where the class does not say it, and current: 0 charged, 1 neutral, -1
none."""

NUM_EVENT_CLASSES = len(EVENT_CLASSES)

UNKNOWN_CLASS = -1
"""In place of a class."""
