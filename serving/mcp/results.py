"""What the tools give back, as JSON that agents read."""

from pydantic import BaseModel, Field

from fourfold.assistant.tools.results import Chance, Corners
from fourfold.serving.looking.claim import Claim, Source


class Claimed(BaseModel):
    """One thing that is said of the picture."""

    phrase: str = Field(description='what it is about; "no dog" where that is the claim')
    box: Corners | None = Field(description="[x1, y1, x2, y2], 0..1 from the left and the top; null: it has no place")
    confidence: Chance | None = Field(description="chance that it is right, 0..1; null where nobody measured that")
    source: Source = Field(description="who says so; model: the language model's own word, its weakest witness")

    @classmethod
    def of(cls, claim: Claim) -> "Claimed":
        return cls(phrase=claim.phrase, box=claim.box, confidence=claim.confidence, source=claim.source)


class Look(BaseModel):
    """An answer."""

    answer: str = Field(description='in plain words; "Not sure" where it is doubtful')
    claims: list[Claimed]
    model: str


class Found(BaseModel):
    """Where a thing is."""

    thing: str
    found: list[Claimed] = Field(description="each with its box; empty where it is not seen or cannot be pointed at")
    answer: str = Field(description="the same in words, or why nothing was found")
    size: tuple[int, int] = Field(description="width and height of the picture in pixels")
    model: str


class Counted(BaseModel):
    """How many of a kind there are."""

    thing: str
    number: int | None = Field(description="null: it cannot be told")
    at_least: bool = Field(description="there may be more")
    answer: str = Field(description='in words; "Not sure" where it is doubtful')
    claims: list[Claimed]
    model: str


class Decision(BaseModel):
    """The answer to a closed question."""

    question: str
    answer: str = Field(description="the likeliest option")
    probabilities: dict[str, Chance] = Field(description="of each option; together 1")
    calibrated: bool = Field(description="whether the probabilities were fitted to what turned out right")
    source: str = Field(description="who says so")


class Decisions(BaseModel):
    """The answers to closed questions, in the order of the questions."""

    decisions: list[Decision]
    model: str
