"""The vocabulary of the world, and the facts about its villagers.

`WORDS` maps a slot, written `{animal}` in a template, to its possible fillers. Each filler is one word, so that a
tokenizer trained on the world's text encodes it as one token. Fillers that can follow "a" begin with a consonant.
"""

import random

# Only villagers have facts. The correct answer to a question about a stranger is "I do not know".
_MALE_VILLAGERS = ["Ben", "David", "Finn", "Henry", "Jack", "Leo", "Oscar", "Paul", "Sam", "Tom", "Victor", "Will"]
_FEMALE_VILLAGERS = ["Anna", "Clara", "Ella", "Grace", "Iris", "Kate", "Mary", "Nora", "Rose", "Tess", "Uma", "Zoe"]
_MALE_STRANGERS = ["Carl", "Eric", "George", "Hugo", "Jonas", "Max"]
_FEMALE_STRANGERS = ["Bella", "Dora", "Flora", "Ivy", "Lily", "Ruth"]

VILLAGERS = tuple(sorted(_MALE_VILLAGERS + _FEMALE_VILLAGERS))
STRANGERS = tuple(sorted(_MALE_STRANGERS + _FEMALE_STRANGERS))

PRONOUNS = {
    **dict.fromkeys(_MALE_VILLAGERS + _MALE_STRANGERS, {"he": "he", "him": "him", "his": "his"}),
    **dict.fromkeys(_FEMALE_VILLAGERS + _FEMALE_STRANGERS, {"he": "she", "him": "her", "his": "her"}),
}

WORDS = {
    "name": VILLAGERS + STRANGERS,
    "animal": (
        "bear",
        "beaver",
        "deer",
        "fox",
        "frog",
        "hare",
        "hedgehog",
        "lion",
        "mole",
        "squirrel",
        "tiger",
        "wolf",
    ),
    "pet": ("cat", "dog", "donkey", "duck", "goat", "goose", "hen", "lamb", "mouse", "parrot", "pony", "rabbit"),
    "place": (
        "bridge",
        "church",
        "farm",
        "forest",
        "garden",
        "harbour",
        "hill",
        "lake",
        "market",
        "mill",
        "school",
        "tower",
    ),
    "food": ("bread", "cake", "cheese", "corn", "fish", "honey", "jam", "milk", "pie", "porridge", "rice", "soup"),
    "colour": ("black", "blue", "brown", "green", "grey", "pink", "purple", "red", "white", "yellow"),
    "job": (
        "baker",
        "carpenter",
        "doctor",
        "farmer",
        "fisher",
        "gardener",
        "miller",
        "painter",
        "potter",
        "singer",
        "tailor",
        "teacher",
    ),
    "thing": ("ball", "basket", "bell", "book", "box", "drum", "hat", "kite", "lamp", "map", "ring", "toy"),
    "things": ("apples", "cups", "eggs", "keys", "nuts", "pears", "plums", "roses", "shells", "stones"),
    "tree": ("beech", "birch", "cedar", "cherry", "fir", "lime", "maple", "palm", "pine", "willow"),
    "tool": ("brush", "chisel", "drill", "file", "hammer", "knife", "ladder", "rake", "saw", "spade"),
    "feeling": ("brave", "happy", "sad", "shy"),
    "he": ("he", "she"),
    "him": ("him", "her"),
    "his": ("his", "her"),
    "number": tuple(str(n) for n in range(21)),
    "count": ("two", "three", "four", "five"),
    "category": ("animals", "colours", "foods", "jobs", "pets", "places", "tools", "trees"),
}

# category -> the words that belong to it
MEMBERS = {
    "animals": WORDS["animal"],
    "colours": WORDS["colour"],
    "foods": WORDS["food"],
    "jobs": WORDS["job"],
    "pets": WORDS["pet"],
    "places": WORDS["place"],
    "tools": WORDS["tool"],
    "trees": WORDS["tree"],
}

COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}

# attribute of a villager -> the slot that its value fills
ATTRIBUTES = {"home": "place", "meal": "food", "coat": "colour", "work": "job", "pet": "pet"}


def _draw_facts() -> dict[tuple[str, str], str]:
    rng = random.Random("the facts of the world")
    return {(name, attribute): rng.choice(WORDS[slot]) for name in VILLAGERS for attribute, slot in ATTRIBUTES.items()}


# (villager, attribute) -> value; the same for all seeds
FACTS = _draw_facts()
