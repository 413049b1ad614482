"""COCO's 80 classes, and the nouns that mean one of them."""

import re
from functools import cache

from fourfold.assistant.english import PEOPLE, singular, words_in, words_of

# By the numbers that detectors trained on COCO give them: 1 to 90 with holes.
CLASSES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip
# Nouns that name a class, or things of which every one is of the class. A noun that is wider than a class ("animal",
# "vehicle", "food") or only overlaps it ("glove") is none of these: counting the class would not count it.
_SYNONYMS = {
    "bicycle": "bike cycle",
    "car": "automobile sedan suv taxi cab jeep racecar minivan",
    "motorcycle": "motorbike dirtbike scooter moped vespa motor-bike",
    "airplane": "plane aeroplane aircraft jet airliner jetliner",
    "bus": "minibus schoolbus",
    "train": "locomotive tram streetcar",
    "truck": "lorry pickup",
    "boat": "canoe kayak ship sailboat ferry rowboat yacht raft motorboat speedboat gondola",
    "traffic light": "stoplight traffic-light",
    "fire hydrant": "hydrant",
    "stop sign": "stopsign",
    "bird": "seagull gull duck goose pigeon parrot eagle owl swan crow sparrow hen rooster penguin flamingo",
    "cat": "kitten kitty tomcat",
    "dog": "puppy pup hound greyhound poodle terrier retriever labrador collie dalmatian doggy beagle bulldog spaniel",
    "horse": "pony foal mare stallion",
    "sheep": "lamb ram ewe",
    "cow": "bull calf cattle steer ox",
    "bear": "grizzly",
    "backpack": "rucksack knapsack",
    "umbrella": "parasol",
    "handbag": "purse",
    "tie": "necktie",
    "suitcase": "luggage",
    "skis": "ski",
    "sports ball": "ball football basketball baseball soccer-ball volleyball",
    "tennis racket": "racket racquet",
    "wine glass": "wineglass goblet",
    "cup": "mug teacup",
    "donut": "doughnut",
    "couch": "sofa settee loveseat",
    "chair": "armchair",
    "potted plant": "houseplant pottedplant",
    "dining table": "diningtable table",
    "tv": "television tvmonitor monitor telly",
    "remote": "remote-control",
    "cell phone": "cellphone phone smartphone mobile telephone",
    "refrigerator": "fridge",
    "oven": "stove",
    "teddy bear": "teddy",
    "hair drier": "hairdryer hairdrier",
    "sandwich": "burger hamburger",
    "hot dog": "hotdog",
    "orange": "tangerine mandarin",
}  # fmt: skip
_PHRASES = {
    "tennis racquet": "tennis racket",
    "remote control": "remote",
    "mobile phone": "cell phone",
    "soccer ball": "sports ball",
    "tennis ball": "sports ball",
    "beach ball": "sports ball",
    "hair dryer": "hair drier",
    "cellular phone": "cell phone",
    "computer mouse": "mouse",
    "pickup truck": "truck",
    "school bus": "bus",
    "dirt bike": "motorcycle",
    "motor bike": "motorcycle",
    "flower pot": "potted plant",
    "pot plant": "potted plant",
    "house plant": "potted plant",
    "stop light": "traffic light",
    "tv set": "tv",
    "wine glasses": "wine glass",
}
_AFTER = re.compile(r"\b(?:in|on|with|at|and|who|that|which|near|next|behind|under|beside|by|from)\b")
_LONGEST = 100  # characters; nothing longer names one thing


def class_of(noun: str) -> str | None:
    """COCO's class that a noun means, or None for a noun that no class stands for.

    Near synonyms and plurals are known. Words before a noun are passed over where the whole is no class, and so is
    what follows a preposition: "bikes" is `bicycle`, "the big brown dog on the left" is `dog`, "hot dog" is itself.
    """
    if len(noun) > _LONGEST:
        return None
    thing = _AFTER.split(noun.lower(), maxsplit=1)[0]
    # "a cup of coffee" is a cup, "a group of people" are people.
    for part in thing.split(" of ", 1):
        words = [singular(word) for word in words_of(part)]
        for start in range(len(words)):
            if found := _nouns().get(" ".join(words[start:])):
                return found
    return None


@cache
def _nouns() -> dict[str, str]:
    """Every noun that is known, singular, and its class."""
    known = {" ".join(singular(word) for word in name.split()): name for name in CLASSES.values()}
    for name, others in _SYNONYMS.items():
        known |= {singular(other): name for other in others.split()}
    known |= {" ".join(singular(word) for word in phrase.split()): name for phrase, name in _PHRASES.items()}
    # Counting persons does not count teams.
    return known | dict.fromkeys(PEOPLE - words_in("crowd couple team family group audience band"), "person")
