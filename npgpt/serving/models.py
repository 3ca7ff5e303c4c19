"""GET /v1/models, GET /v1/models/{name} and GET /health: what is served, and whether it is well."""

from fastapi import APIRouter

from npgpt.serving.answers import Health, Model, Models
from npgpt.serving.errors import RESPONSES
from npgpt.serving.served import Served


def router(served: Served) -> APIRouter:
    """The routes."""
    routes = APIRouter()
    model = Model(id=served.name, created=served.created, max_model_len=served.block_size)

    @routes.head("/v1/models", include_in_schema=False)
    @routes.get("/v1/models", responses=RESPONSES)
    async def models() -> Models:
        """All models: one."""
        return Models(data=[model])

    @routes.head("/v1/models/{name:path}", include_in_schema=False)
    @routes.get("/v1/models/{name:path}", responses=RESPONSES)
    async def one_model(name: str) -> Model:
        """One of them."""
        served.check_name(name)
        return model

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health", responses=RESPONSES)
    async def health() -> Health:
        """That the server answers."""
        state = served.engine.state()
        return Health(model=served.name, running=state.running, waiting=state.waiting)

    return routes
