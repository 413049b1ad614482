"""Nobody changes what another is told: random mixes of clients, each of whom must get what a server of their own says.

`FOURFOLD_TRUST=200 pytest tests/trust/test_isolation.py` plays 200 random servers of up to 20 steps in place of a few
short ones.
"""

import concurrent.futures
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from fourfold.assistant.refine.memory import CorrectionMemory
from tests.serving.api.live import live_server
from tests.trust.clients import (
    ADMIN,
    ALICE,
    BOB,
    Ask,
    Situation,
    World,
    asks,
    correct,
    key_ring,
    show,
    told,
)

EXAMPLES = int(os.environ.get("FOURFOLD_TRUST", "0"))
ASKS = {ask.name: ask for ask in asks()}
STREAMS = [name for name, ask in ASKS.items() if "chat" in ask.path and name not in ("damaged", "nobody")]
ROUNDING = 2e-4
"""Torch computes under an adapter, and adds up in another order in company; onnxruntime, to the last bit, does not."""


def same(ask: Ask, got: Any, wanted: Any) -> bool:
    """To the last bit, or to rounding where torch computes."""
    return got == wanted if not ask.adapter else nearly(got, wanted)


def nearly(got: Any, wanted: Any) -> bool:
    if isinstance(got, float) and isinstance(wanted, int | float):
        return math.isclose(got, wanted, rel_tol=ROUNDING, abs_tol=ROUNDING)
    if isinstance(got, dict) and isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(nearly(got[key], wanted[key]) for key in got)
    if isinstance(got, list | tuple) and isinstance(wanted, list | tuple):
        return len(got) == len(wanted) and all(map(nearly, got, wanted))
    return got == wanted


class Clients(RuleBasedStateMachine):
    """One server, its owner, and those who ask it; after every step each has been told what they must be."""

    world: World

    @initialize()
    def start(self) -> None:
        self.situation = Situation()
        self.records: dict[tuple[int, str], str] = {}
        self.corrections, self.concepts = self.world.stores()
        self._engine = self.world.engine()
        engine = self._engine.__enter__()
        self._server = live_server(
            engine,
            keys=key_ring(),
            memory=CorrectionMemory(self.corrections),
            looking=self.world.looking(engine, self.concepts),
        )
        self.server = self._server.__enter__()
        self.clients = [httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=60) for key in (ALICE, BOB)]
        self.threads = concurrent.futures.ThreadPoolExecutor(12)

    def teardown(self) -> None:
        if hasattr(self, "threads"):
            self.threads.shutdown()
            for client in self.clients:
                client.close()
            self._server.__exit__(None, None, None)
            self._engine.__exit__(None, None, None)

    # What clients do.

    @rule(
        mix=st.lists(st.sampled_from(list(ASKS)), min_size=1, max_size=6),
        leave=st.lists(st.sampled_from(STREAMS), max_size=2),
    )
    def ask(self, mix: list[str], leave: list[str]) -> None:
        """At the same time, while others hang up in the middle of their answers."""
        self.play(mix, leave, None)

    # What the owner does, while clients ask.

    @rule(
        name=st.sampled_from(["tuned", "second"]),
        which=st.sampled_from("AB"),
        mix=st.lists(st.sampled_from(list(ASKS)), max_size=4),
    )
    def load(self, name: str, which: str, mix: list[str]) -> None:
        adapters = {**dict(self.situation.adapters), name: which}
        body = {"lora_name": name, "lora_path": str(self.world.adapters[which]), "load_inplace": True}
        self.play(mix, [], lambda: self.admin("POST", "/v1/load_lora_adapter", body), adapters=tuple(adapters.items()))

    @precondition(lambda self: self.situation.adapters)
    @rule(data=st.data(), mix=st.lists(st.sampled_from(list(ASKS)), max_size=4))
    def unload(self, data: st.DataObject, mix: list[str]) -> None:
        name = data.draw(st.sampled_from([name for name, _ in self.situation.adapters]))
        left = tuple(pair for pair in self.situation.adapters if pair[0] != name)
        self.play(mix, [], lambda: self.admin("POST", "/v1/unload_lora_adapter", {"lora_name": name}), adapters=left)

    @rule(
        number=st.sampled_from([0, 2]),
        answer=st.sampled_from(["the car is red", "it is green"]),
        mix=st.lists(st.sampled_from(list(ASKS)), max_size=4),
    )
    def correct(self, number: int, answer: str, mix: list[str]) -> None:
        if (number, answer) in self.situation.corrected:
            return

        def change() -> None:
            self.records[number, answer] = correct(self.corrections, number, answer)

        self.play(mix, [], change, corrected=(*self.situation.corrected, (number, answer)))

    @precondition(lambda self: self.situation.corrected)
    @rule(data=st.data(), mix=st.lists(st.sampled_from(list(ASKS)), max_size=4))
    def forget(self, data: st.DataObject, mix: list[str]) -> None:
        gone = data.draw(st.sampled_from(self.situation.corrected))
        left = tuple(pair for pair in self.situation.corrected if pair != gone)
        self.play(mix, [], lambda: self.corrections.forget(self.records.pop(gone)), corrected=left)

    @rule(
        name=st.sampled_from(["Rex", "bracket"]),
        number=st.sampled_from([0, 2]),
        mix=st.lists(st.sampled_from(list(ASKS)), max_size=4),
    )
    def show(self, name: str, number: int, mix: list[str]) -> None:
        if (name, number) in self.situation.shown:
            return
        self.play(mix, [], lambda: show(self.concepts, name, number), shown=(*self.situation.shown, (name, number)))

    @precondition(lambda self: self.situation.shown)
    @rule(data=st.data(), mix=st.lists(st.sampled_from(list(ASKS)), max_size=4))
    def hide(self, data: st.DataObject, mix: list[str]) -> None:
        name = data.draw(st.sampled_from(sorted({name for name, _ in self.situation.shown})))
        left = tuple(pair for pair in self.situation.shown if pair[0] != name)
        self.play(mix, [], lambda: self.admin("DELETE", f"/v1/concepts/{name}"), shown=left)

    def admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        headers = {"authorization": f"Bearer {ADMIN}"}
        response = httpx.request(method, self.server.url + path, json=body, headers=headers, timeout=60)
        assert response.status_code == 200, response.text

    def relevant(self, changed: Mapping[str, Any]) -> list[str]:
        """Requests whose answers a change is for."""
        if "adapters" in changed:
            return ["tuned: picture", "second: picture"]
        return ["remembers 0", "remembers 2"] if "corrected" in changed else ["eyes: where is Rex?"]

    def play(self, mix: list[str], leave: list[str], change: Callable[[], object] | None, **changed: Any) -> None:
        """Ask all at the same time, and once more when a change is done."""
        before, after = self.situation, Situation(**{**vars(self.situation), **changed})
        gone = [self.threads.submit(self.hang_up, number, ASKS[name]) for number, name in enumerate(leave)]
        answers = [self.threads.submit(self.once, number, ASKS[name]) for number, name in enumerate(mix)]
        changing = self.threads.submit(change) if change is not None else None
        for name, answer in zip(mix, answers, strict=True):
            self.check(ASKS[name], answer.result(), {before, after})
        for ended in [*gone, *([changing] if changing else [])]:
            ended.result()
        self.situation = after
        if change is not None:
            mix = [*mix, *self.relevant(changed)]
            again = [self.threads.submit(self.once, number, ASKS[name]) for number, name in enumerate(mix)]
            for name, answer in zip(mix, again, strict=True):
                self.check(ASKS[name], answer.result(), {after})

    def once(self, number: int, ask: Ask) -> Any:
        return told(ask, self.clients[number % 2].post(self.server.url + ask.path, json=ask.body))

    def hang_up(self, number: int, ask: Ask) -> None:
        body = {**ask.body, "stream": True, "ignore_eos": True, "max_tokens": 200}
        url = self.server.url + ask.path
        with self.clients[number % 2].stream("POST", url, json=body) as response:
            for place, _ in enumerate(response.iter_lines()):
                if place > 3 * number:
                    break

    def check(self, ask: Ask, got: Any, situations: set[Situation]) -> None:
        wanted = [self.world.alone(ask, situation) for situation in situations]
        assert any(same(ask, got, one) for one in wanted), f"{ask.name}: {got} in place of {wanted}"


def machine(of: World) -> type[Clients]:
    class Machine(Clients):
        world = of

    return Machine


def test_every_kind_of_client_while_everything_changes_once(world: World) -> None:
    """What `test_random_clients` draws at random, all of it and in one order."""
    clients, names, several = machine(world)(), list(ASKS), STREAMS[:2]
    clients.start()
    try:
        clients.play(names[::2], several, None)
        changes: list[tuple[Callable[[list[str]], None], list[str]]] = [
            (lambda mix: clients.load("tuned", "A", mix), names[1::8]),
            (lambda mix: clients.show("Rex", 0, mix), names[3::8]),
            (lambda mix: clients.correct(0, "the car is red", mix), names[5::8]),
            (lambda mix: clients.load("tuned", "B", mix), names[7::8]),
        ]
        for change, mix in changes:
            change(mix)
        clients.play(names[1::2], several, None)
        gone = clients.situation
        clients.play(names[2::8], [], lambda: clients.admin("DELETE", "/v1/concepts/Rex"), shown=())
        body = {"lora_name": "tuned"}
        clients.play(names[4::8], [], lambda: clients.admin("POST", "/v1/unload_lora_adapter", body), adapters=())
        [record] = clients.records.values()
        clients.play(names[6::8], [], lambda: clients.corrections.forget(record), corrected=())
        assert gone != clients.situation == Situation()
        clients.play(names, several, None)
    finally:
        clients.teardown()


def test_random_clients(world: World) -> None:
    run_state_machine_as_test(
        machine(world),
        settings=settings(
            max_examples=EXAMPLES or 1,
            stateful_step_count=20 if EXAMPLES else 10,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
