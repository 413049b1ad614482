"""Conversations, corrections and things shown once: what the page and the server write while they are killed."""

import json
import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.concepts.example import Example
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.record import CorrectedBox
from fourfold.assistant.refine.store import CorrectionStore
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.chaos.process import Process, count_operations, kills
from tests.chaos.rounds import Outcome

Operation = tuple[str, dict[str, Any]]
OPERATIONS = 40
_BETWEEN_KILLS = 10  # operations, in whose time a process that writes is killed


def script(dice: random.Random, length: int = OPERATIONS) -> list[Operation]:
    """What is written, in order: each can be done after those before it."""
    done: list[Operation] = []
    talks: dict[str, int] = {}  # title: messages
    corrections: list[str] = []
    shown: list[str] = []
    for number in range(length):
        title = dice.choice(sorted(talks)) if talks else ""
        choices = ["create", "correct", "show once"]
        choices += ["append"] * 4 if talks else []
        choices += ["supersede", "replace", "show", "withdraw", "branch"] if title and talks[title] > 1 else []
        choices += ["delete"] if len(talks) > 2 else []
        choices += ["forget"] if len(corrections) > 2 else []
        choices += ["forget once"] if len(shown) > 2 else []
        match what := dice.choice(choices):
            case "create":
                talks[f"talk {number}"] = 0
                done.append((what, {"title": f"talk {number}"}))
            case "append" | "branch":
                talks[title] += 2
                done.append((what, {"title": title, "words": f"words {number}", "picture": dice.random() < 0.4}))
            case "supersede" | "replace" | "show" | "withdraw":
                done.append((what, {"title": title, "at": dice.random(), "words": f"words {number}"}))
            case "delete":
                del talks[title]
                done.append((what, {"title": title}))
            case "correct":
                corrections.append(f"correction-{number}")
                done.append((what, {"id": corrections[-1], "number": number}))
            case "forget":
                done.append((what, {"id": corrections.pop(dice.randrange(len(corrections)))}))
            case "show once":
                shown.append(f"once-{number}")
                done.append((what, {"id": shown[-1], "number": number}))
            case "forget once":
                done.append((what, {"id": shown.pop(dice.randrange(len(shown)))}))
    return done


@dataclass
class Stores:
    """The three stores below a folder."""

    folder: Path
    history: ChatHistory = field(init=False)
    corrections: CorrectionStore = field(init=False)
    concepts: ConceptStore = field(init=False)

    def __post_init__(self) -> None:
        self.history = ChatHistory(self.folder / "history.sqlite")
        self.corrections = CorrectionStore(self.folder / "refine")
        self.concepts = ConceptStore(self.folder / "refine")

    def do(self, operation: Operation) -> None:
        """One operation, as the page or the server would."""
        what, given = operation
        history = self.history
        if what == "create":
            history.create(given["title"])
        elif what in ("append", "branch"):
            words = given["words"]
            parts: list[Any] = [{"type": "text", "text": words}]
            if given["picture"]:
                uri = Attachment(encoded(picture(len(words) + int(words.split()[1])))).data_uri
                parts.insert(0, {"type": "image_url", "image_url": {"url": uri}})
            messages = [HumanMessage(parts), AIMessage(f"answer to {words}")]
            history.append(self._named(given["title"]), messages, keep=0 if what == "branch" else None)
        elif what in ("supersede", "replace", "show", "withdraw"):
            name = self._named(given["title"])
            versions = history.versions(name)
            chosen = versions[int(given["at"] * len(versions))]
            if what == "withdraw":
                if sum(version.parent == chosen.parent for version in versions) > 1:
                    history.withdraw(name, chosen.number)
            elif what == "show":
                history.show(name, chosen.number)
            else:
                kind = AIMessage if chosen.message.type == "ai" else HumanMessage
                getattr(history, what)(name, chosen.number, kind(given["words"]))
        elif what == "delete":
            history.delete(self._named(given["title"]))
        elif what == "correct":
            number = given["number"]
            boxes = (CorrectedBox(f"thing {number}", Box(0.1, 0.1, 0.5, 0.5)),)
            fields = {"id": given["id"], "chosen": None, "boxes": boxes} if number % 2 else {"id": given["id"]}
            self.corrections.add(correction(number, **fields), encoded(picture(number)))
        elif what == "forget":
            self.corrections.forget(given["id"])
        elif what == "show once":
            number = given["number"]
            example = Example(name=f"Rex {number}", boxes=(Box(0.1, 0.1, 0.6, 0.6),), id=given["id"])
            self.concepts.add([(example, Attachment(encoded(picture(1000 + number))))])
        elif what == "forget once":
            self.concepts.forget_example(given["id"])

    def state(self) -> str:
        """All that the stores say, without names and times that are random; equal for equal content."""
        talks = {}
        for info in self.history.conversations():
            rows = [
                (v.number, v.parent, v.shown, v.message.type, v.message.content) for v in self.history.versions(info.id)
            ]
            talks[info.title] = rows
        records = [(c.id, c.image, c.chosen, str(c.boxes)) for c in self.corrections.list()]
        shown = [
            (
                concept.name,
                [(e.id if not e.correction else e.correction, e.image, str(e.boxes)) for e in concept.examples],
            )
            for concept in self.concepts.list()
        ]
        with closing(sqlite3.connect(self.folder / "history.sqlite")) as connection:
            pictures = connection.execute("SELECT sha256 FROM images ORDER BY 1").fetchall()
        with closing(sqlite3.connect(self.folder / "refine" / "corrections.sqlite")) as connection:
            pictures += connection.execute("SELECT sha256 FROM images ORDER BY 1").fetchall()
        forgotten = sorted(self.corrections.forgotten())
        return json.dumps([sorted(talks.items()), records, shown, pictures, forgotten], default=str)

    def damage(self) -> str:
        """What SQLite finds wrong with its files; "" for nothing."""
        found = []
        for path in (self.folder / "history.sqlite", self.folder / "refine" / "corrections.sqlite"):
            with closing(sqlite3.connect(path)) as connection:
                found += [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
                found += [str(row) for row in connection.execute("PRAGMA foreign_key_check")]
        return "; ".join(found)

    def _named(self, title: str) -> str:
        return next(info.id for info in self.history.conversations() if info.title == title)


class StoreKills:
    """A process writes; it is killed; what is there must be what was acknowledged, or with the one step under way."""

    name = "stores"

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome, todo = Outcome(), script(dice)
        undisturbed = Stores(folder / "undisturbed")
        states = [undisturbed.state()]
        for operation in todo:
            undisturbed.do(operation)
            states.append(undisturbed.state())
        (folder / "killed").mkdir()
        (folder / "tried").mkdir()
        (folder / "trying").touch()
        try_out = partial(write, folder / "tried", todo[:_BETWEEN_KILLS], folder / "trying")
        seconds, operations, _ = count_operations(try_out, folder / "log.txt")
        done = 0
        while done < len(todo):
            acknowledged = folder / "acknowledged"
            acknowledged.write_bytes(b"")
            work = partial(write, folder / "killed", todo[done:], acknowledged)
            process = Process(work, folder / "log.txt", kills(dice, seconds, operations))
            code = process.kill_when_due()
            told = done + len(acknowledged.read_bytes())
            if code == 0:
                outcome.expect(told == len(todo), "a writer ended early")
            elif code == -9:
                outcome.kills["page and server: stores"] += 1
            else:
                outcome.problems.append(f"a writer failed with {code}: {process.said()[-400:]}")
                return outcome
            after = Stores(folder / "killed")
            outcome.expect(not after.damage(), f"damaged: {after.damage()}")
            now = after.state()
            possible = [number for number in (told, told + 1) if number <= len(todo) and states[number] == now]
            if not possible:
                outcome.problems.append(f"after {told} acknowledged steps the stores hold neither these nor one more")
                return outcome
            done = possible[-1]
        for path in (folder / "killed").rglob("*.sqlite*"):
            gone = _left_of(todo, path.read_bytes())
            outcome.expect(not gone, f"{path.name} still holds what was deleted: {gone}")
        return outcome


def write(folder: Path, todo: list[Operation], acknowledged: Path) -> None:
    """Do operations one after another; a byte is written down after each."""
    stores = Stores(folder)
    handle = os.open(acknowledged, os.O_WRONLY | os.O_APPEND)
    for operation in todo:
        stores.do(operation)
        os.write(handle, b".")


def _left_of(todo: list[Operation], content: bytes) -> str:
    """Words of a deleted conversation that are still in a file."""
    deleted = {given["title"] for what, given in todo if what == "delete"}
    words = {given["words"] for what, given in todo if given.get("title") in deleted and "words" in given}
    return ", ".join(sorted(word for word in words if f'answer to {word}"'.encode() in content))


def wait(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What a condition gives, once it holds.

    Raises:
        TimeoutError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.01)
    return found
