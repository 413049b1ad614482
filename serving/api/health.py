"""What a supervisor asks: is the process alive, and does it take requests."""

from fastapi import APIRouter
from pydantic import BaseModel

from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.request_tracker import RequestTracker


class Health(BaseModel):
    status: str


def health_routes(tracker: RequestTracker) -> APIRouter:
    router = APIRouter()

    @router.get("/health", response_model=Health)
    @router.get("/ready", response_model=Health)
    async def ready() -> Health:
        """Whether this server takes requests."""
        if tracker.closing:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        return Health(status="ok")

    @router.get("/live", response_model=Health)
    async def live() -> Health:
        """That this process answers at all, also while the model is being loaded and while the last answers end."""
        return Health(status="ok")

    return router
