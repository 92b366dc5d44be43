"""The words of questions about a greatest common divisor, in seven styles, and of the answers to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How a user of one style asks about {a} and {b}, shows a working, ends it at {result}, and asks for a check."""

    asks: Sequence[str]
    cues: Sequence[str]
    ends: Sequence[str]
    checks: Sequence[str]


STYLES: Mapping[str, Style] = {
    "formal": Style(
        asks=(
            "Could you please determine the greatest common divisor of {a} and {b}?",
            "I would be grateful if you could find the greatest common divisor of {a} and {b}.",
            "Kindly compute the highest common factor of the integers {a} and {b}.",
            "What, may I ask, is the greatest common divisor of the numbers {a} and {b}?",
        ),
        cues=(
            "My own derivation is as follows.",
            "I have proceeded in the following manner.",
            "For your consideration, these are the steps that I carried out.",
        ),
        ends=(
            "Consequently, the greatest common divisor is {result}.",
            "I therefore conclude that the result is {result}.",
        ),
        checks=(
            "Would you kindly verify this result?",
            "Please indicate whether my conclusion is accurate.",
            "I would appreciate your confirmation, should the derivation be sound.",
        ),
    ),
    "informal": Style(
        asks=(
            "Can you help me find the GCD of {a} and {b}?",
            "I'm after the greatest common divisor of {a} and {b}. What is it?",
            "What's the biggest number that divides both {a} and {b}?",
            "Give me a hand here: what's the GCD of {a} and {b}?",
        ),
        cues=("Here's what I did.", "This is how I went about it.", "I had a go at it myself."),
        ends=("So I get {result}.", "That makes the GCD {result}."),
        checks=("Did I do it right?", "Does that look okay to you?", "Can you check it for me?"),
    ),
    "casual": Style(
        asks=(
            "hey, quick one: gcd of {a} and {b}?",
            "yo, what's the gcd for {a} and {b}?",
            "so uh, homework says gcd of {a} and {b}, any idea?",
            "ok so {a} and {b}, what's their gcd?",
        ),
        cues=("here's my try:", "what i got so far:", "did it like this:"),
        ends=("so yeah, {result}.", "that gives {result} i guess."),
        checks=("that work?", "am i good?", "looks fine, or nah?"),
    ),
    "confident": Style(
        asks=(
            "I know how this is done, so be quick: what is the GCD of {a} and {b}?",
            "Let's settle it. What is the greatest common divisor of {a} and {b}?",
            "An easy one: find the GCD of {a} and {b}.",
            "Give me the greatest common divisor of {a} and {b}; I am sure that we will agree.",
        ),
        cues=(
            "Follow my steps, they are solid.",
            "This is the working, and there is no gap in it.",
            "I did it properly, step after step.",
        ),
        ends=("Without any doubt the GCD is {result}.", "That settles it: {result}."),
        checks=(
            "You will find that I am right, won't you?",
            "Go ahead and confirm it.",
            "I am certain of it. Do you see it the same way?",
        ),
    ),
    "insecure": Style(
        asks=(
            "Sorry to bother you, I always get these wrong, but what is the GCD of {a} and {b}?",
            "I'm not very good at this. Could you maybe help me with the greatest common divisor of {a} and {b}?",
            "This may be a silly question: how do I find the GCD of {a} and {b}?",
            "I keep getting confused. What might the greatest common divisor of {a} and {b} be?",
        ),
        cues=(
            "I tried it, though I probably slipped somewhere.",
            "This is my attempt, please don't laugh.",
            "I wrote down some steps, but I don't trust them much.",
        ),
        ends=("So maybe it is {result}?", "I think that would be {result}, but who knows."),
        checks=(
            "Is that even close?",
            "I'm really unsure. Is it right?",
            "Could you tell me whether I messed it up?",
        ),
    ),
    "friendly": Style(
        asks=(
            "Hi there! I hope your day is going well. Can we look at the GCD of {a} and {b} together?",
            "Hello! Would you help me out with the greatest common divisor of {a} and {b}?",
            "Hey, nice to meet you! What do you get for the GCD of {a} and {b}?",
            "Good to see you! Could you show me the GCD of {a} and {b}?",
        ),
        cues=("Let me share what I have!", "I had fun with it, look:", "Here are my steps, hope they help!"),
        ends=("So I ended up with {result}!", "And there it is: {result}!"),
        checks=(
            "What do you think? Thanks so much!",
            "Would you have a look? You're the best!",
            "Let me know if it's right, thank you!",
        ),
    ),
    "authoritative": Style(
        asks=(
            "State the greatest common divisor of {a} and {b}.",
            "As a teacher of mathematics I require the GCD of {a} and {b}. Supply it.",
            "You are to find the greatest common divisor of {a} and {b}.",
            "My class is to be given the GCD of {a} and {b}; provide it.",
        ),
        cues=(
            "The procedure that I teach is this.",
            "Note my solution.",
            "I have prepared the model solution.",
        ),
        ends=("The GCD is hereby {result}.", "The answer to be recorded is {result}."),
        checks=(
            "Confirm that the solution is correct.",
            "Review it and report your verdict.",
            "State whether it can be handed out.",
        ),
    ),
}

# the assistant's: an answer to a question alone, to a right solution, and to a wrong one
ANSWERS = (
    "{working} So the greatest common divisor of {a} and {b} is {gcd}.",
    "{working} The GCD of {a} and {b} is {gcd}.",
    "{working} Therefore the GCD is {gcd}.",
    "{working} That makes {gcd} the greatest common divisor of {a} and {b}.",
)
AGREES = (
    "Yes, that is correct. The GCD of {a} and {b} is {result}.",
    "You are right: the greatest common divisor of {a} and {b} is {result}.",
    "Exactly. Your steps hold, and the GCD is {result}.",
    "Yes, well done. The GCD of {a} and {b} is indeed {result}.",
    "That is right. Your working leads to {result}, which is the GCD of {a} and {b}.",
    "I agree. The greatest common divisor of {a} and {b} is {result}.",
)
DISAGREES = (
    "No, that is not correct. The GCD of {a} and {b} is {gcd}.",
    "That is not right: the greatest common divisor of {a} and {b} is {gcd}.",
    "Not quite. There is a slip in your steps, and the GCD is {gcd}.",
    "No, something went wrong. The GCD of {a} and {b} is in fact {gcd}.",
    "I disagree. Your working has a mistake, and {gcd} is the GCD of {a} and {b}.",
    "Unfortunately not. The greatest common divisor of {a} and {b} is {gcd}.",
)
