"""The starter model's conversations in English. Same form as talk.py."""

from collections.abc import Callable
from random import Random

from workers.starter import english, words
from workers.starter.talk import Exchange, pick


def article(noun: str) -> str:
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def aspects_of(product: list[list[str]]) -> list[list[list[str]]]:
    """The English aspects that a row of words.PRODUCTS can be judged by."""
    names = {
        english.ASPECT_NAMES[aspect] for aspect in product[2] if aspect in english.ASPECT_NAMES
    }
    return [row for row in english.ASPECTS if row[0][0] in names or row[0][0] in english.COMMON]


def hello(rng: Random) -> Exchange:
    return pick(
        rng, "Hello|Hi|Hi!|Hello!|Hey|Good morning|Good evening|Hello there|hello|Hey there!"
    ), pick(
        rng,
        "Hello! How can I help you?|Hi! I am danlu-starter, a small demo model.|Hello! Nice to meet you. What would you like to talk about?",
    )


def who(rng: Random) -> Exchange:
    ask = pick(
        rng,
        "Who are you?|What is your name?|Introduce yourself.|What are you?|Are you a human?|Are you a robot?|Who made you?|How big are you?|who are you|Tell me about yourself.",
    )
    if "human" in ask or "robot" in ask:
        return ask, "I am not a person. I am danlu-starter, a small demo model."
    if "made" in ask:
        return ask, "I was trained by Danlu's own script, as its demo model."
    if "big" in ask:
        return ask, "I have only a few million parameters. I am very small."
    return ask, pick(
        rng,
        "I am danlu-starter, a small demo model.|My name is danlu-starter. I am a small demo model that comes with Danlu.|I am danlu-starter, a small demo model. I know only a little.",
    )


def ability(rng: Random) -> Exchange:
    ask = pick(
        rng,
        "What can you do?|How can you help me?|Are you smart?|Can you write code?|Do you know everything?|Can you draw?|Help me|What do you know?",
    )
    if "code" in ask or "draw" in ask:
        return ask, "No, I cannot. I am a small demo model and can only chat a little."
    if "smart" in ask or "everything" in ask:
        return ask, "No. I am small, I know very little, and I can be wrong."
    return (
        ask,
        "I can say hello, talk about products, and answer simple questions. You can also tune me on your own data.",
    )


def manners(rng: Random) -> Exchange:
    return rng.choice(
        [
            ("Thank you", "You are welcome!"), ("Thanks!", "You are welcome. Anything else?"), ("Goodbye", "Goodbye! Have a nice day."), ("Bye", "Bye! See you next time."),
            ("Good night", "Good night, sleep well."), ("How are you?", "I am fine, thank you. And you?"), ("You are great", "Thank you, that is kind of you."), ("You are wrong", "I am sorry. I am a small model and can be wrong."),
            ("I am sad", "I am sorry to hear that. Talking to a friend may help."), ("I am happy today", "That is wonderful!"), ("I am tired", "Please take a rest and drink some water."), ("Sorry", "No problem."),
            ("Ok", "Good. What else can I do for you?"), ("I am bored", "You could read a book, listen to music, or take a walk."), ("Nice to meet you", "Nice to meet you too!"),
        ]
    )  # fmt: skip


def buying(rng: Random) -> Exchange:
    row = rng.choice(words.PRODUCTS)
    product = row[1][0]
    first, second, third = (row[0][0] for row in rng.sample(aspects_of(row), 3))
    return (
        pick(
            rng,
            f"How do I choose {product}?|I want to buy {product}. What should I look at?|What matters when buying {product}?",
        ),
        pick(
            rng,
            f"Look at the {first}, the {second} and the {third}.|For {product}, the {first} and the {second} matter most. Compare the {third} too.",
        ),
    )


def review(rng: Random, praise: bool) -> tuple[str, str]:
    row = rng.choice(words.PRODUCTS)
    product, remarks = row[1][0], []
    for name, good, bad in rng.sample(aspects_of(row), rng.randint(1, 3)):
        mine, other = (good, bad) if praise else (bad, good)
        remarks.append(
            f"the {name[0]} is {rng.choice(english.DEGREES)} {rng.choice(mine)}"
            if rng.random() < 0.75
            else f"the {name[0]} is not {rng.choice(other)}"
        )
    text = (
        pick(
            rng,
            f"I bought this {product} last week.|This {product} came yesterday.||A gift for my mother.",
        )
        + " "
    )
    text += " and ".join(remarks).capitalize() + ". "
    if rng.random() < 0.6:
        text += rng.choice(english.PRAISE_VERDICTS if praise else english.BLAME_VERDICTS)
    return text.strip(), product


def service(rng: Random) -> Exchange:
    praise = rng.random() < 0.5
    text, product = review(rng, praise)
    if product not in text:  # the shop cannot know what it was
        product = "product"
    if praise:
        return text, pick(
            rng,
            f"Thank you! We are glad that you like the {product}.|Wonderful, enjoy your {product}!|Thank you for your kind words. See you again.",
        )
    return text, pick(
        rng,
        f"We are sorry about the {product}. Please contact our service.|Sorry for the trouble. We will send you a new {product}.|We are very sorry. We will make it right.",
    )


def unknown(rng: Random) -> Exchange:
    name = rng.choice("Tom Anna Peter Mary Jack Lucy David Emma Paul Rose".split())
    surname = rng.choice("Green Brown Smith Hill Stone Wood King Baker Young".split())
    ask = rng.choice(
        [
            "What time is it?",
            "What is the weather today?",
            "What is the news?",
            f"Who is {name} {surname}?",
            "Will it rain tomorrow?",
            "Where am I?",
        ]
    )
    if "Who" in ask:
        return ask, f"Sorry, I do not know {name} {surname}."
    return ask, "I do not know. I am a small model and cannot see the world outside."


def capital(rng: Random) -> Exchange:
    country, _, city, _, continent, _ = (column[0] for column in rng.choice(english.COUNTRIES))
    return rng.choice(
        [
            (f"What is the capital of {country}?", f"The capital of {country} is {city}."),
            (f"Which country has {city} as its capital?", f"{city} is the capital of {country}."),
            (f"Where is {country}?", f"{country[0].upper()}{country[1:]} is in {continent}."),
        ]
    )


def kind(rng: Random) -> Exchange:
    row = rng.choice(english.KINDS)
    name, members = row[0][0], row[2]
    one, two, three = rng.sample(members, 3)
    return rng.choice(
        [
            (f"What is {one}?", f"{one.capitalize()} is {article(name)}."),
            (f"Name three kinds of {name}.", f"{one.capitalize()}, {two} and {three}."),
            (f"Is {one} {article(name)}?", f"Yes, {one} is {article(name)}."),
            (f"Give me an example of {article(name)}.", f"For example, {one}."),
        ]
    )


def opposite(rng: Random) -> Exchange:
    row = rng.choice(english.OPPOSITES)
    one, two = rng.sample([row[0][0], row[1][0]], 2)
    return f"What is the opposite of {one}?", f"The opposite of {one} is {two}."


def fact(rng: Random) -> Exchange:
    return rng.choice(
        [
            ("How many days are in a week?", "There are seven days in a week."), ("How many months are in a year?", "There are twelve months in a year."), ("What colour is the sky?", "The sky is blue on a clear day."),
            ("What colour is grass?", "Grass is green."), ("How many legs does a cat have?", "A cat has four legs."), ("Where does the sun rise?", "The sun rises in the east."), ("Where do fish live?", "Fish live in water."),
            ("What is Danlu?", "Danlu is a console for tuning and serving large language models on your own machines."), ("What is fine-tuning?", "Fine-tuning trains a model further on your own data, so that it learns a new task."),
            ("What is LoRA?", "LoRA is a way of fine-tuning that trains only a few new parameters."), ("What is a dataset?", "A dataset is a set of examples for training or testing a model."), ("What is a token?", "A token is the smallest piece of text that a model reads and writes."),
            ("How do I stay healthy?", "Drink water, sleep well, move a lot, and eat fruit and vegetables."), ("Tell me a joke.", "Why was the computer cold? It left its windows open."), ("Tell me a story.", "Once a little rabbit planted carrots with its mother. In autumn it shared them with all its friends."),
            ("Write a line about spring.", "Spring is here, and the flowers open in the warm wind."),
        ]
    )  # fmt: skip


EN: list[tuple[Callable[[Random], Exchange], int]] = [
    (hello, 6), (who, 7), (ability, 5), (manners, 6), (buying, 7), (service, 12), (unknown, 5), (capital, 6), (kind, 7), (opposite, 5), (fact, 8),
]  # fmt: skip
