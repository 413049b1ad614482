"""How often the memory takes two questions for one: of those that are one in other words, and of those that are not.

    PYTHONPATH=. python3 -m benchmarks.recall_questions

The pairs here were written by hand, and the rule was settled with them in view. The questions of DAQUAR were asked by
people about the photos in `$FOURFOLD_DATA/photos`.
"""

import itertools
import json

from fourfold.assistant.refine.questions import same_question
from fourfold.assistant.training.data.sample import photos_directory

SAME = (
    ("what colour is the car?", "what is the color of the car?"),
    ("what colour is the ball?", "the ball, what colour is it?"),
    ("how many dogs are there?", "how many dogs can you see?"),
    ("how many dogs are there?", "count the dogs"),
    ("how many people are in the picture?", "what is the number of people?"),
    ("is there a dog?", "is there a dog in the image?"),
    ("is there a dog?", "do you see a dog?"),
    ("is there a dog?", "can you see any dogs?"),
    ("what is this?", "what is it?"),
    ("what is this?", "what is shown in the picture?"),
    ("what is this?", "what do you see here?"),
    ("what is the man holding?", "what does the man hold?"),
    ("what is the man wearing?", "what is the man wearing in this photo?"),
    ("what is the man wearing?", "what clothes is the man wearing?"),
    ("what is left of the table?", "what is to the left of the table?"),
    ("what is left of the table?", "what stands on the left side of the table?"),
    ("where is the cat?", "where is the cat sitting?"),
    ("what animal is this?", "which animal is it?"),
    ("what animal is this?", "what kind of animal is this?"),
    ("what is the woman doing?", "what is the woman doing in the picture?"),
    ("what is behind the dog?", "which thing is behind the dog?"),
    ("what room is this?", "which room is shown?"),
    ("what sport is being played?", "which sport are they playing?"),
    ("is the ball red?", "is the ball coloured red?"),
    ("[refer] give me the location of the dog", "[refer] where is the dog?"),
    ("[vqa] what colour is the car?", "what colour is the car?"),
    ("[caption] describe this image briefly", "[caption] what does this picture show?"),
    ("what is on the table?", "what is lying on the table?"),
    ("what is the colour of the boy's shirt?", "what colour is the boy's shirt?"),
    ("what does the sign say?", "what is written on the sign?"),
    ("which is larger, the dog or the cat?", "which one is larger, the dog or the cat?"),
    ("what is the biggest object?", "which object is the biggest?"),
    ("is the man left of the woman?", "is the man to the left of the woman?"),
    ("how many chairs are around the table?", "how many chairs are there around the table?"),
    ("is it raining?", "is it raining in this picture?"),
    ("what brand is the laptop?", "which brand is the laptop?"),
)
DIFFERENT = (
    ("what colour is the car?", "what colour is the house?"),
    ("what colour is the car?", "how many cars are there?"),
    ("how many dogs are there?", "how many cats are there?"),
    ("is there a dog?", "is there a cat?"),
    ("is there a dog?", "what colour is the dog?"),
    ("what is left of the table?", "what is right of the table?"),
    ("is the man left of the woman?", "is the woman left of the man?"),
    ("what is the man holding?", "what is the woman holding?"),
    ("what is the man holding?", "what is the man wearing?"),
    ("where is the cat?", "what is the cat doing?"),
    ("[refer] where is the dog?", "is there a dog?"),
    ("what is this?", "what colour is this?"),
    ("what is on the table?", "what is under the table?"),
    ("what colour is the boy's shirt?", "what colour is the boy's hat?"),
    ("what colour is the ball?", "what colour is the big ball?"),
    ("how many red chairs are there?", "how many chairs are there?"),
    ("what is the biggest object?", "what is the smallest object?"),
    ("is the ball red?", "is the ball blue?"),
    ("what is this?", "where is this?"),
    ("is there a dog?", "is there no dog?"),
    ("[caption] describe this image briefly", "[grounding] please describe this image in details"),
    ("what is behind the dog?", "what is in front of the dog?"),
)


def main() -> None:
    """Count and print one JSON object."""
    told: dict[str, object] = {}
    for name, pairs in (("the same in other words", SAME), ("different", DIFFERENT)):
        told[name] = {"pairs": len(pairs), "taken for one": sum(same_question(*pair) for pair in pairs)}
    pairs, taken = 0, []
    for line in (photos_directory() / "daquar.jsonl").read_text(encoding="utf-8").splitlines():
        asked = [(turn["question"], turn["answer"]) for turn in json.loads(line)["qa"] or ()]
        for (one, answer), (other, other_answer) in itertools.combinations(asked, 2):
            if one != other and answer != other_answer:
                pairs += 1
                if same_question(one, other):
                    taken.append([one, other, answer, other_answer])
    told["asked about one photo and answered differently"] = {"pairs": pairs, "taken for one": len(taken)}
    print(json.dumps({**told, "those": taken}, indent=1))


if __name__ == "__main__":
    main()
