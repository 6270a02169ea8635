"""`/api/openapi.json`: the API described for machines."""

from fastapi import APIRouter, Request

from farm.api.present import Json

router = APIRouter(include_in_schema=False)


@router.get("/api/openapi.json")
def openapi(request: Request) -> Json:
    return request.app.openapi()
