"""What a small model that knows next to nothing says to greetings, thanks and questions about itself."""

import re
from enum import StrEnum
from importlib.util import find_spec


class Talk(StrEnum):
    """What somebody says who asks nothing about a picture."""

    GREETING = "greeting"
    THANKS = "thanks"
    ABOUT = "about"  # the model itself
    READING = "reading"  # whether it can read what is written in pictures


_AFTER = (
    r"(?:[\s,!.;]+(?:there|you|all|everyone|everybody|again|friend|bot|robot|model|assistant|fourfold|folks|dear|my))*"
)
_FORMS: tuple[tuple[Talk, str], ...] = (
    (
        Talk.GREETING,
        r"(?:hi+|hello+|hey+|hiya|howdy|greetings|welcome|good (?:morning|afternoon|evening|day)|hallo|hola|bonjour"
        r"|salut|ciao)" + _AFTER,
    ),
    (
        Talk.THANKS,
        r"(?:(?:ok|okay|great|good|cool|nice|perfect|super|wow|well|oh|yes|alright|very (?:good|nice))[\s,!.]*)*"
        r"(?:(?:many )?thanks?(?: you)?|thx|ty|cheers|danke|merci|gracias|bye|goodbye|good ?bye|see you|good night)"
        r"(?:[\s,]+(?:you|so|very|a lot|much|again|for (?:that|this|your help|the answer|helping)|bye|later|indeed))*"
        r"(?:[\s,.!;–-]+(?:(?:that|this|it|you)(?:'s| is| was| were| has been|'ve been)?"
        r"(?: (?:so|very|really|most|quite|a great|a big|of great))?"
        r" (?:helpful|helps?|helped(?: me)?|useful|great|good|nice|perfect|kind|all|right|correct)(?: a lot)?))?",
    ),
    (
        Talk.THANKS,
        r"(?:ok(?:ay)?|great|good|cool|nice|perfect|super|wow|awesome|well done|good (?:job|work)|i see|alright)"
        r"(?:[\s,]+(?:ok(?:ay)?|great|good|cool|nice|job|work|one|answer))*",
    ),
    (
        Talk.READING,
        r"(?:so |and )?(?:can|could|do|are) you (?:able to )?(?:also )?read"
        r"(?: (?:any )?(?:texts?|words|writing|signs|letters))?"
        r"(?: (?:in|on|from) (?:pictures|images|photos|a (?:picture|image|photo)))?",
    ),
    (
        Talk.ABOUT,
        r"(?:so |and |hi,? |hello,? )?(?:"
        r"what (?:can|could|do|should|may) (?:you|i|we) (?:do|know|ask|help|offer)\b.{0,30}|what else can you do"
        r"|what are you(?: able to do| capable of| good at| for)?|who are you|what(?:'s| is) your (?:name|purpose|job)"
        r"|how do(?:es)? (?:you|this|it) work|how (?:are|do) you(?: doing| today| feel)*|how is it going|what's up"
        r"|(?:are|r) you (?:an? )?(?:ai|bot|robot|human|real|person|chatgpt|gpt|machine|alive|there|ok|okay)\b.{0,20}"
        r"|(?:can|could|will) you help(?: me)?|help(?: me)?|introduce yourself|tell me about yourself"
        r"|who (?:made|built|created|trained) you|which model (?:are you|is this)|what model (?:are you|is this)"
        r"|how (?:good|smart|big|old) are you)",
    ),
)
_READ = tuple((talk, re.compile(form + r"[\s!.?…)(:]*", re.IGNORECASE)) for talk, form in _FORMS)
_LONGEST = 80  # characters; who writes more asks something


CAN_READ = "Yes, I am a small model with a reader for text: ask what it says in a picture."
CANNOT_READ = "No, I am a small model without a reader for text: install the extra `ocr` for one."


def has_reader() -> bool:
    """Whether the reader of text is installed."""
    return find_spec("rapidocr") is not None


def small_talk(words: str) -> Talk | None:
    """What is said where nothing is asked about a picture; None for anything else."""
    words = " ".join(words.split())
    if not words or len(words) > _LONGEST:
        return None
    return next((talk for talk, form in _READ if form.fullmatch(words)), None)


def reply_to(talk: Talk, line: str, *, picture: bool) -> str:
    """A fixed answer, at most two sentences.

    Args:
        talk: what was said.
        line: what the model is good at and what not, from its card: "Good at ...; often wrong about ...".
        picture: whether there is one in the conversation.
    """
    match talk:
        case Talk.GREETING:
            if picture:
                return "Hello! I am a small model: ask me what is in the picture, or where something is."
            return "Hello! I am a small model that looks at pictures: add one and ask me about it."
        case Talk.THANKS:
            return "You are welcome."
        case Talk.READING:
            return CAN_READ if has_reader() else CANNOT_READ
        case Talk.ABOUT:
            return f"I am a small model that looks at pictures, and I know little else. {line}"


WITHOUT_A_PICTURE = (
    "I am a small model that looks at pictures and knows little else. Add a picture and ask me about it."
)
"""The answer to whatever is asked without one."""
