"""Eyes for agents: an MCP server whose tools look at pictures."""

from fourfold.serving.mcp.answerers import Answerer, LocalModel, local_model
from fourfold.serving.mcp.endpoint import Endpoint
from fourfold.serving.mcp.pictures import Pictures
from fourfold.serving.mcp.server import create_server

__all__ = ["Answerer", "Endpoint", "LocalModel", "Pictures", "create_server", "local_model"]
