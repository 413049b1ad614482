"""POST /v1/eyes: where the read-outs see a thing, how sure they are, and their map of the picture."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends
from PIL import Image
from pydantic import Field

from fourfold.assistant.chat.intent import MAX_PHRASE, without_article
from fourfold.prompts.errors import UserError
from fourfold.serving.api.body import Body, Text
from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.errors import ApiError, require_json
from fourfold.serving.api.request_tracker import RequestTracker
from fourfold.serving.looking import Looking
from fourfold.serving.looking.claim import Claim, boxes_of


class EyesRequest(Body):
    image: Text = Field(description="data:image/...;base64,..., or an allowed https URL")
    phrase: Text = Field(min_length=1, max_length=MAX_PHRASE, description='"the red ball", "man on the left"')
    several: bool = Field(False, description="every one, not the surest alone")


def eyes_routes(looking: Looking, tracker: RequestTracker) -> APIRouter:
    router = APIRouter()
    threads = ThreadPoolExecutor(2, thread_name_prefix="eyes")

    @router.post("/v1/eyes", dependencies=[Depends(require_json)])
    async def eyes(body: EyesRequest) -> dict[str, Any]:
        """What the read-outs see of a phrase; `noun` is null where they know no word of it."""
        content = [{"type": "image_url", "image_url": {"url": body.image}}, {"type": "text", "text": body.phrase}]
        chat = ChatRequest.model_validate({"messages": [{"role": "user", "content": content}]})
        in_flight, conversation = await tracker.read(chat)
        try:
            image = conversation.messages[0]["content"][0]["image"]
            work = partial(_seen, looking, image, without_article(body.phrase), body.several)
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except UserError as error:
            raise ApiError(400, str(error), param="phrase") from None
        finally:
            tracker.end(in_flight)

    return router


def _seen(looking: Looking, image: Image.Image, phrase: str, several: bool) -> dict[str, Any]:
    finding = looking.eyes(image).find(phrase, several=several)
    if finding is None:
        return {"phrase": phrase, "noun": None, "boxes": [], "presence": None, "source": None, "map": None}
    claims = boxes_of(phrase, finding.boxes, finding.confidence, finding.source)  # type: ignore[arg-type]
    rows, columns = finding.map.shape
    low, high = float(finding.map.min()), float(finding.map.max())
    scaled = (finding.map - low) / (high - low or 1.0)
    return {
        "phrase": phrase,
        "noun": finding.noun,
        "boxes": [{"box": told["box"], "confidence": told["confidence"]} for told in map(Claim.to_json, claims)],
        "presence": round(finding.presence, 3),
        "source": finding.source,
        "map": {"rows": rows, "columns": columns, "values": [round(float(value), 3) for value in scaled.ravel()]},
    }
