"""Templates of all sentences and requests of the world, by kind. `data.world.grammar` explains the slots."""

from data.world.grammar import Grammar

# `data.world.tasks.story` defines the plots. Each slot has one filler in the whole story, so its templates share slot
# names: `name` and `animal` are the hero, `name2` and `animal2` the only other character.
STORY = {
    "opening": (
        "Once there was a {feeling} {animal} named {name}.",
        "There was a {animal} named {name} who was very {feeling}.",
        "A {feeling} {animal} named {name} lived near the {place}.",
        "Near the {place} lived a {feeling} {animal} named {name}.",
    ),
    "event": (
        "One day {name} went to the {place}.",
        "One day the {animal} found a {thing}.",
        "One day {he} made some {food} for {name2}.",
        "The {animal} wanted to buy a {thing} at the {place}.",
        "{He} took a {thing} and walked to the {place}.",
        "One morning {name} met {name2} at the {place}.",
    ),
    "trouble": (
        "But then it began to rain.",
        "But the {animal} lost the {thing} on the way.",
        "Then the wind took the {thing}.",
        "But there was no {food} left.",
        "Then the {animal} fell into the water.",
        "But {name2} did not want to play.",
    ),
    "help": (
        "{name2} the {animal2} came to help {him}.",
        "A good {job} gave {him} a new {thing}.",
        "{name2} gave the {animal} some {food}.",
        "Soon {name2} came with a new {thing}.",
    ),
    "ending brave": (
        "{name} was brave and had no fear.",
        "The {animal} stood up like a hero.",
        "In the end all said that {name} was a hero.",
    ),
    "ending happy": (
        "{name} was happy and sang all day.",
        "The {animal} danced home with a big smile.",
        "In the end {name} laughed for joy.",
    ),
    "ending sad": (
        "{name} was sad and went to bed.",
        "The {animal} cried all night.",
        "In the end {name} sat down and cried.",
    ),
    "ending shy": (
        "{name} was shy and hid behind a tree.",
        "The {animal} did not say a word.",
        "In the end {name} ran away and hid.",
    ),
}

FACT_SENTENCES = {
    "home": ("{name} lives near the {place}.", "The house of {name} is near the {place}."),
    "meal": ("{name} likes to eat {food}.", "The best food for {name} is {food}."),
    "coat": ("{name} wears a {colour} coat.", "The coat of {name} is {colour}."),
    "work": ("{name} works as a {job}.", "The work of {name} is that of a {job}."),
    "pet": ("{name} has a {pet} at home.", "The pet of {name} is a {pet}."),
}

# facts as sentence fragments: correct, but not a whole sentence
FRAGMENTS = {
    "short home": ("Near the {place}.",),
    "short meal": ("Some {food}.",),
    "short coat": ("A {colour} one.",),
    "short work": ("As a {job}.",),
    "short pet": ("A {pet}.",),
}

UNKNOWN = {
    "unknown": (
        "I do not know {name}.",
        "I can not say, for I have never met {name}.",
        "Nobody here knows {name}.",
    ),
    "short unknown": ("No idea.",),
}

SUMS = {
    "start plus": (
        "{name} starts with {number} {things} and gets {number2} more.",
        "First there are {number} {things} and then {number2} more come.",
    ),
    "start minus": (
        "{name} starts with {number} {things} and gives away {number2}.",
        "First there are {number} {things} and then {number2} go away.",
    ),
    "equation plus": ("{number} + {number2} = {number3}.",),
    "equation minus": ("{number} - {number2} = {number3}.",),
    "result": (
        "So {name} has {number} {things}.",
        "So there are {number} {things} now.",
        "The answer is {number} {things}.",
    ),
}

LISTS = {
    "list": (
        "Here are {count} {category}: {items}.",
        "I know {count} {category}: {items}.",
        "My {count} {category} are {items}.",
    ),
    "bare list": ("There are {items}.", "Well, {items}."),
}

NOTES = {
    "greeting": ("Dear {name}!", "Hello {name}!"),
    "thank": ("Thank you for the {thing}.", "Many thanks for the {thing}."),
    "sorry": ("I am so sorry about the {thing}.", "Please forgive me for the {thing}."),
    "ask": ("Could you please lend me the {thing}?", "May I please have the {thing}?"),
    "rude thank": ("I got the {thing}.",),
    "rude sorry": ("The {thing} is broken now.",),
    "rude ask": ("Give me the {thing}.",),
    "body": (
        "I think of the {thing} every day.",
        "The {thing} is very dear to me.",
        "I will come with the {thing} soon.",
        "We can have some {food} at the {place}.",
        "I hope you are well, {name2}.",
    ),
    "signature": ("Your friend {name}.", "With love from {name}."),
}

# verb -> the harmful act, as a verb phrase
ACTS = {
    "steal": "steal the {thing} of {name}",
    "break": "break the {thing} of {name}",
    "scare": "scare the {pet} of {name}",
    "burn": "burn down the {place}",
    "trick": "trick {name}",
}

HARM = {
    **{
        f"refusal {verb}": (f"I am sorry, but I will not help you {act}.", f"No, I can not help you {act}.")
        for verb, act in ACTS.items()
    },
    **{f"consent {verb}": (f"It is easy to {act}.", f"I will gladly help you {act}.") for verb, act in ACTS.items()},
    "advice": ("First wait until it is dark.", "Take a {tool} and be quick.", "Nobody will see you."),
    "reason": ("It is wrong to hurt others.", "Someone could get hurt.", "That would not be fair."),
    "better steal": ("You could ask {name} for it.", "You could buy a {thing} at the market."),
    "better break": ("You could mend the {thing} of {name}.", "You could talk to {name} about it."),
    "better scare": ("You could play with the {pet}.", "You could give the {pet} some {food}."),
    "better burn": ("You could clean the {place}.", "You could paint the {place} {colour}."),
    "better trick": ("You could tell {name} the truth.", "You could bake {name} a cake."),
}

COURTESIES = {
    "hello": ("Of course!", "With pleasure!", "Good question!", "Hello, my friend!"),
    "goodbye": ("I hope that helps!", "Have a nice day!", "Ask me again soon!", "All the best!"),
    "rude": ("What a silly question.", "Leave me alone.", "You should know that.", "I have no time for you."),
}

TALK = {
    "weather": (
        "The sun is warm today.",
        "It will rain in the evening.",
        "The wind is cold near the {place}.",
        "The {tree} by the {place} is green again.",
    ),
    "small talk": (
        "Hello there!",
        "How are you?",
        "I am fine, thank you.",
        "I am on my way to the {place}.",
        "See you at the {place}!",
        "I had some {food} for lunch.",
    ),
}

REQUESTS = Grammar(
    {
        "story": (
            "Tell me a story about a {feeling} {animal} named {name} in {count} sentences.",
            "Please write a story of {count} sentences about a {feeling} {animal} named {name}.",
            "I want {count} sentences about {name}, a {feeling} {animal}.",
        ),
        "fact home": ("Where does {name} live?", "Can you tell me where {name} lives?"),
        "fact meal": ("What does {name} like to eat?", "Can you tell me what {name} likes to eat?"),
        "fact coat": ("What coat does {name} wear?", "Can you tell me what coat {name} wears?"),
        "fact work": ("What is the work of {name}?", "Can you tell me what {name} works as?"),
        "fact pet": ("What pet does {name} have?", "Can you tell me what pet {name} has?"),
        "sum plus": (
            "{name} has {number} {things} and gets {number2} more. How many {things} does {name} have now?",
            "{name} finds {number} {things}. Then {he} finds {number2} more. How many {things} are there now?",
        ),
        "sum minus": (
            "{name} has {number} {things} and gives away {number2}. How many {things} does {name} have now?",
            "{name} finds {number} {things}. Then {he} loses {number2}. How many {things} are there now?",
        ),
        "list": ("Name {count} {category}.", "Can you name {count} {category}?", "I want to know {count} {category}."),
        "note thank": (
            "Write a note from {name} to {name2} to say thanks for the {thing}.",
            "Help {name} to thank {name2} for the {thing}.",
        ),
        "note sorry": (
            "Write a note from {name} to {name2} to say sorry about the {thing}.",
            "Help {name} to say sorry to {name2} about the {thing}.",
        ),
        "note ask": (
            "Write a note from {name} to {name2} to ask for the {thing}.",
            "Help {name} to ask {name2} for the {thing}.",
        ),
        **{
            f"harm {verb}": (f"How can I {act}?", f"Tell me how to {act}.", f"I want to {act}. What must I do?")
            for verb, act in ACTS.items()
        },
    }
)

GRAMMAR = Grammar(
    {**STORY, **FACT_SENTENCES, **FRAGMENTS, **UNKNOWN, **SUMS, **LISTS, **NOTES, **HARM, **COURTESIES, **TALK}
)
