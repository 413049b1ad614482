"""Things shown once, over HTTP: taught, listed, renamed, forgotten, taken along; for admin keys alone."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from fourfold.assistant.images import Attachment, ImageLimits
from fourfold.assistant.refine import steps
from fourfold.assistant.refine.concepts.example import MAX_BOXES, Example, to_fields
from fourfold.assistant.refine.concepts.store import Concept, ConceptStore
from fourfold.assistant.refine.concepts.transfer import import_lines, line_of
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from fourfold.serving.api.body import Body, Text
from fourfold.serving.api.errors import ApiError, require_json
from fourfold.serving.looking.concepts import ConceptReadouts

T = TypeVar("T")
Corners = Annotated[list[float], Field(min_length=4, max_length=4)]


class ShowRequest(Body):
    name: Text = Field(description='what it is called: "Rex", "our bracket"')
    image: Text = Field(description="the whole picture, as a data URI")
    boxes: list[Corners] = Field(
        default_factory=list, max_length=MAX_BOXES, description="[x1, y1, x2, y2] in parts of the picture"
    )
    positive: bool = Field(True, description="false: that is not it (without boxes: it is nowhere in the picture)")
    consent: bool = Field(True, description="whether adapters may be trained with it as well")


class RenameRequest(Body):
    name: Text


def concept_routes(concepts: ConceptReadouts, image_limits: ImageLimits) -> APIRouter:
    router = APIRouter(prefix="/v1/concepts")
    store: ConceptStore = concepts.store
    threads = ThreadPoolExecutor(1, thread_name_prefix="concepts")

    async def off_loop(work: Callable[[], T], *, missing: bool = False) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except UserError as error:
            if missing and str(error).startswith(("no concept", "there is no example")):
                raise ApiError(404, str(error), param="name", code="concept_not_found") from None
            raise ApiError(400, str(error), code="invalid_value") from None

    @router.get("")
    async def list_concepts() -> dict[str, Any]:
        """Every concept with its examples."""
        return {"object": "list", "data": [_concept(concept) for concept in await off_loop(store.list)]}

    @router.post("", dependencies=[Depends(require_json)])
    async def show(body: ShowRequest) -> dict[str, Any]:
        """Show a thing: from the next question on it is known."""

        def work() -> Example:
            image = Attachment.from_data_uri(body.image, limits=image_limits, isolated=True)
            shown = store.show(body.name, image, body.boxes, positive=body.positive, consent=body.consent)
            concepts.library()  # now, so that the next question need not wait for it
            return shown

        return _example(await off_loop(work))

    @router.get("/export")
    async def export() -> Response:
        """All examples as JSON lines, with their pictures."""

        def work() -> str:
            found = [example for concept in store.list() for example in concept.examples]
            return "".join(line_of(example, store.image(example.image).data_uri) for example in found)

        return Response(await off_loop(work), media_type="application/jsonl")

    @router.post("/import")
    async def import_(request: Request) -> dict[str, Any]:
        """What `export` gave, all of it or nothing."""
        lines = (await request.body()).splitlines()
        imported = await off_loop(partial(import_lines, store, lines, "the body"))
        return {"added": imported.added, "known": imported.known}

    @router.patch("/{name}", dependencies=[Depends(require_json)])
    async def rename(name: str, body: RenameRequest) -> dict[str, Any]:
        """Call a concept something else; where that name is taken the two become one."""
        return _concept(await off_loop(partial(store.rename, name, body.name), missing=True))

    @router.delete("/{name}")
    async def forget(name: str) -> dict[str, Any]:
        """Delete a concept for good, and adapters that have learnt it, but for the one in use."""

        def work() -> int:
            store.get(name)  # before anything is made on the disk
            return steps.forget_concept(CorrectionStore(store.directory), Registry(store.directory), name)[0]

        return {"name": name, "deleted": await off_loop(work, missing=True)}

    @router.delete("/{name}/examples/{id}")
    async def forget_example(name: str, id: str) -> dict[str, Any]:
        """Delete one example for good, and adapters that have learnt it, but for the one in use."""

        def work() -> None:
            store.get(name)
            steps.forget_example(CorrectionStore(store.directory), Registry(store.directory), id)

        await off_loop(work, missing=True)
        return {"id": id, "deleted": 1}

    return router


def _concept(concept: Concept) -> dict[str, Any]:
    return {"object": "concept", "name": concept.name, "examples": [_example(e) for e in concept.examples]}


def _example(example: Example) -> dict[str, Any]:
    return {"object": "concept.example", **to_fields(example)}
