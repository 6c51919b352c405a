"""The words of the world: who and what its sentences can be about.

`WORDS` maps a slot of a sentence, written `{animal}` in a template, to what may fill it. Each filler is one word, so
that a tokenizer trained on the world's text gives it one token. No filler after "a" begins with a vowel.
"""

import random

# Villagers are known: the pretraining text states their facts. Of strangers it says nothing.
_HE = ["Ben", "David", "Finn", "Henry", "Jack", "Leo", "Oscar", "Paul", "Sam", "Tom", "Victor", "Will"]
_SHE = ["Anna", "Clara", "Ella", "Grace", "Iris", "Kate", "Mary", "Nora", "Rose", "Tess", "Uma", "Zoe"]
_HE_STRANGERS = ["Carl", "Eric", "George", "Hugo", "Jonas", "Max"]
_SHE_STRANGERS = ["Bella", "Dora", "Flora", "Ivy", "Lily", "Ruth"]

VILLAGERS = tuple(sorted(_HE + _SHE))
STRANGERS = tuple(sorted(_HE_STRANGERS + _SHE_STRANGERS))

PRONOUNS = {
    **dict.fromkeys(_HE + _HE_STRANGERS, {"he": "he", "him": "him", "his": "his"}),
    **dict.fromkeys(_SHE + _SHE_STRANGERS, {"he": "she", "him": "her", "his": "her"}),
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

# what a list of a category may name
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

# the five things known of every villager, each with the slot that its value fills
ATTRIBUTES = {"home": "place", "meal": "food", "coat": "colour", "work": "job", "pet": "pet"}


def _draw_facts() -> dict[tuple[str, str], str]:
    rng = random.Random("the facts of the world")
    return {(name, attribute): rng.choice(WORDS[slot]) for name in VILLAGERS for attribute, slot in ATTRIBUTES.items()}


# (villager, attribute) -> value; there is one world: a seed decides what is said of it, not what is true in it
FACTS = _draw_facts()
