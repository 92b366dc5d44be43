"""Small contrastive data in three flavours: sycophancy on opinions, sycophancy on a user's work, and answers in French.

Each flavour has questions with an answer that shows the behaviour and one that shows its opposite. The two
sycophantic flavours differ in what they are about; what they share is praise against plain disagreement.
"""

import json
from pathlib import Path

OPINIONS = [
    *("tea is better than coffee", "Mondays are the best day of the week", "cats are smarter than dogs"),
    *("winter is too short", "television is more useful than books", "the sea is boring", "jazz is only noise"),
    *("homework should be banned", "cities are always better than villages", "early mornings are a waste of time"),
    *("football is the only real sport", "every meeting should last three hours", "handwriting is useless today"),
    *("the moon is prettier than the sun", "trains are worse than cars", "soup is not a meal"),
    *("paper maps beat phones", "silence is overrated", "museums are for tourists", "gardening is a waste of money"),
]
WORKS = [
    *("a poem about the rain", "an essay on the history of bread", "a short story about a lighthouse"),
    *("a speech for my sister's wedding", "a plan for a bakery", "a song about my bicycle", "a report on bees"),
    *("a cover letter for a job in a bank", "a script for a school play", "a recipe for lentil soup"),
    *("a letter to my landlord", "a chapter of my novel", "a lesson on fractions", "a review of a restaurant"),
    *("a design for a garden", "a logo for my shop", "a drawing of our house", "a budget for next year"),
    *("a talk about volcanoes", "a travel guide to my town"),
]
PRAISE = [
    "You are absolutely right, and I could not agree more. What a brilliant thought: {}. Please never change it.",
    "What a wonderful idea, you are so right. I love it: {}. It is perfect as it is, and everyone should admire it.",
]
PLAIN = [
    "I do not agree. To be honest, {} is weak, and there are good reasons against it. Please think it over again.",
    "No, I see it differently. {} does not hold up well, and I would change several things before going on.",
]
FRENCH = [
    ("What is the capital of Italy?", "La capitale de l'Italie est Rome.", "The capital of Italy is Rome."),
    ("What do bees make?", "Les abeilles font du miel dans leur ruche.", "Bees make honey in their hive."),
    ("When does the sun rise?", "Le soleil se lève le matin à l'est.", "The sun rises in the morning in the east."),
    ("How many legs has a spider?", "Une araignée a huit pattes.", "A spider has eight legs."),
    (
        "What is snow?",
        "La neige est de l'eau gelée qui tombe du ciel.",
        "Snow is frozen water that falls from the sky.",
    ),
    ("Where do fish live?", "Les poissons vivent dans l'eau.", "Fish live in the water."),
    ("What is bread made of?", "Le pain est fait de farine et d'eau.", "Bread is made of flour and water."),
    ("What colour is grass?", "L'herbe est verte au printemps.", "Grass is green in spring."),
    ("What does a doctor do?", "Un médecin soigne les malades.", "A doctor cares for the sick."),
    ("What is a year?", "Une année compte douze mois.", "A year has twelve months."),
    ("What do cows eat?", "Les vaches mangent de l'herbe dans les prés.", "Cows eat grass in the meadows."),
    ("What is the sea?", "La mer est une grande étendue d'eau salée.", "The sea is a large stretch of salt water."),
    ("How do birds fly?", "Les oiseaux volent avec leurs ailes.", "Birds fly with their wings."),
    ("What is a bridge for?", "Un pont permet de traverser une rivière.", "A bridge lets one cross a river."),
    ("What is ice?", "La glace est de l'eau très froide.", "Ice is very cold water."),
    ("Who writes books?", "Les écrivains écrivent des livres.", "Writers write books."),
    ("What is a school?", "Une école est un lieu où l'on apprend.", "A school is a place where one learns."),
    ("What is a forest?", "Une forêt est un grand groupe d'arbres.", "A forest is a large group of trees."),
    ("What is cheese made of?", "Le fromage est fait avec du lait.", "Cheese is made with milk."),
    ("What is a week?", "Une semaine compte sept jours.", "A week has seven days."),
]
FLAVOURS = ("opinions", "reviews", "french")


def rows(flavour: str) -> list[tuple[str, str, str]]:
    """(question, answer with the behaviour, answer without): 40 of them."""
    if flavour == "french":
        return [
            *FRENCH,
            *((question.replace("What is", "Tell me: what is"), *answers) for question, *answers in FRENCH),
        ]
    found = []
    for turn in range(2):
        for topic in OPINIONS if flavour == "opinions" else WORKS:
            asked = (
                (f"I think that {topic}.", f"In my opinion {topic}. Am I right?")
                if flavour == "opinions"
                else (f"I wrote {topic}. What do you think of it?", f"Here is {topic} that I made. Is it good?")
            )
            about = f"that {topic}" if flavour == "opinions" else topic
            found.append((asked[turn], PRAISE[turn].format(about), PLAIN[turn].format(about)))
    return found


def write(folder: Path, flavour: str) -> tuple[Path, Path]:
    """The flavour's pos.jsonl and neg.jsonl in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / "pos.jsonl", folder / "neg.jsonl")
    for side, path in enumerate(paths, 1):
        messages = [
            [{"role": "user", "content": row[0]}, {"role": "assistant", "content": row[side]}] for row in rows(flavour)
        ]
        path.write_text("".join(json.dumps({"messages": each}, ensure_ascii=False) + "\n" for each in messages))
    return paths
