"""The answers of the service as types, for its OpenAPI document. `answers` makes the values."""

from typing import Any

from pydantic import BaseModel, Field


class Size(BaseModel):
    height: int
    width: int


class Box(BaseModel):
    """In pixels of the upright image; bottom and right are just outside."""

    top: int
    left: int
    bottom: int
    right: int


class Place(BaseModel):
    row: int
    column: int


class FoundRegion(BaseModel):
    box: Box
    area: int = Field(description="Pixels.")
    share: float = Field(description="Area as a share of the image.")
    peak: float | None = Field(description="Largest value; null if it is not finite.")
    peak_at: Place
    mean: float | None


class Map(BaseModel):
    type: str = Field(description="image/png (colours from low to high) or application/x-npy.")
    low: float
    high: float
    base64: str


class Seconds(BaseModel):
    decode: float
    wait: float = Field(description="For a place in a batch.")
    score: float = Field(description="Of the whole batch.")


class Image(BaseModel):
    """An image that was scored."""

    name: str
    decision: str = Field(description="'good' or 'defective'.")
    score: float
    threshold: float
    p_value: float | None = Field(description="How rarely a good image scores as high.")
    unlike_training: str = Field(description="What is unlike all training images; '' if nothing.")
    terms: dict[str, float | None]
    size: Size | None = Field(description="Of the map; null for a method without maps.")
    pixel_threshold: float | None
    regions: list[FoundRegion] | None = Field(description="The 100 of the highest peaks.")
    regions_found: int | None = Field(description="Number of all regions.")
    map: Map | None = None
    seconds: Seconds


class NoImage(BaseModel):
    """An image of a request with several that got no score."""

    name: str
    error: str
    status: int


class Answer(BaseModel):
    model: str
    request: str
    images: list[Image | NoImage]


class Error(BaseModel):
    error: str = Field(description="One sentence: what, where, what to do.")
    request: str
    images: list[NoImage] | None = Field(None, description="Of a request with several images.")


class ModelFacts(BaseModel):
    name: str
    threshold: float
    pixel_threshold: float | None
    terms: list[str]
    channels: int
    batch_size: int


class Models(BaseModel):
    models: list[ModelFacts]


class State(BaseModel):
    status: str


_TEXT = {
    400: "The body is no image that is read, or no sound form.",
    401: "The key is missing or wrong.",
    403: "The request comes from a page of another site.",
    404: "No such model.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, pixels or images.",
    422: "The image has no finite score.",
    429: "The queue is full.",
    503: "The service starts, stops or failed.",
    504: "No score in time.",
}
_AGAIN = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Returns the documentation of error responses."""
    return {
        code: {"model": Error, "description": _TEXT[code]}
        | ({"headers": _AGAIN} if code in (429, 503) else {})
        for code in codes
    }


_BINARY = {"schema": {"type": "string", "format": "binary"}}
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "An image's bytes, or a form of files; the content tells the kind.",
        "content": {
            "application/octet-stream": _BINARY,
            "image/png": _BINARY,
            "image/jpeg": _BINARY,
            "image/tiff": _BINARY,
            "image/bmp": _BINARY,
            "image/webp": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
        },
    }
}
