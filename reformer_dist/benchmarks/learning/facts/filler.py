"""Sentences about nothing that is asked: what lies between facts.

In: draws. Out: an English sentence of ASCII letters, without digits and without the words of any fact.
"""

import random
import re

WORDS = {
    "person": "gardener, carpenter, teacher, tailor, painter, doctor, shepherd, baker, traveller, musician,"
    " student, farmer, widow, stranger, miller, pilot, judge, sailor, cook, neighbour, mechanic, hunter, printer, weaver",
    "animal": "horse, dog, heron, fox, cat, donkey, swallow, goat, crow, hedgehog, cow, goose, sparrow, badger, owl, mule,"
    " lamb, otter, pigeon, hare, pony, squirrel",
    "thing": "basket, ladder, lantern, letter, kettle, violin, blanket, hammer, map, bottle, umbrella, chair, coat, wheel,"
    " rope, mirror, drum, suitcase, bucket, cart, candle, shovel, notebook, barrel, saddle, clock, hat, bell, parcel",
    "place": "river, market, orchard, road, bridge, meadow, forest, square, hill, shore, garden, field, valley, pond,"
    " crossroads, pasture, lane, vineyard, ferry, barn, cottage, churchyard, fence, canal",
    "quality": "old, quiet, narrow, heavy, wet, small, crooked, pale, warm, broken, patient, clumsy, tall, empty, grey,"
    " friendly, dusty, tired, young, cautious, restless, muddy, gentle, stubborn, cheerful, worn, curious, slow, plain",
    "did": "carried, repaired, found, painted, sold, forgot, borrowed, noticed, dropped, washed, described, counted, hid,"
    " measured, lifted, wanted, followed, praised, ignored, moved, remembered, polished, dragged, admired",
    "went": "walked, wandered, hurried, limped, returned, ran, strolled, drifted, turned, climbed, marched, crept",
    "manner": "slowly, without a word, carefully, in great haste, as usual, with some effort, once more, rather late,"
    " quite happily, against all advice, for no clear reason, step by step, as if in a dream, with a sigh",
    "time": "in the morning, before noon, after the rain, at dusk, on market day, late in the autumn, that winter,"
    " early in spring, during the storm, after supper, a week later, when the bells rang, at low tide, at sunrise,"
    " on the longest day, after the harvest, before the snow came, in the heat of the day, towards evening",
    "weather": "wind, rain, fog, frost, snow, drizzle, thunder, mist, sunshine, hail",
    "number": "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve",
}
"""What the blanks of a template may be."""
TEMPLATES = (
    "The {quality} {person} {did} the {thing} {manner}.",
    "{time}, the {person} {went} to the {place} and {did} the {quality} {thing}.",
    "Nobody {did} the {thing} that lay beside the {place}.",
    "There was {weather} over the {place}, and the {animal} {went} back {manner}.",
    "One {quality} {animal} {went} along the {place} {time}.",
    "The {person} and the {person} {did} the same {thing} {time}.",
    "Behind the {place} stood the {quality} {thing} which the {person} {did} {number} times.",
    "{time}, {number} {person}s were seen near the {place}.",
    "The {thing} was {quality}, the {thing} was {quality}, and the {person} {did} both.",
    "Because of the {weather}, the {person} {went} home {manner}.",
    "If the {animal} was {quality}, the {person} never {did} it.",
    "{manner}, the {animal} {went} past the {quality} {person}.",
    "It was said that some {person} once {did} the {thing} {number} times {time}.",
    "The {place} looked {quality} {time}, and even the {animal} {did} it.",
    "While the {weather} lasted, the {person} {did} the {quality} {thing} of the {person}.",
    "The {person} from the other side of the {place} {went} away {time}.",
)
_CHOICES = {name: words.split(", ") for name, words in WORDS.items()}
_BLANK = re.compile(r"\{(\w+)\}")


def sentence(draws: random.Random) -> str:
    """A sentence, from its first letter to its full stop."""
    filled = _BLANK.sub(lambda blank: draws.choice(_CHOICES[blank[1]]), draws.choice(TEMPLATES))
    return filled[0].upper() + filled[1:]
