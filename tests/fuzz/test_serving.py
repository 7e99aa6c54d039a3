"""The service: whatever its OpenAPI document allows, and bytes that are no images."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("httpx", reason="needs the extra `test`")

from tests.fuzz.damage import bounded_memory, damaged, quick
from tests.fuzz.test_images import SOUND
from tests.serving.fakes import FakeModel, make_service
from vtadl_jax.serving.app import make_app
from vtadl_jax.serving.measured import Measured

ANSWERS = {200, 207, 400, 404, 405, 413, 422}
EVERY = tuple(content for kind in SOUND.values() for content in kind)


@pytest.fixture(scope="module")
def app():
    service = make_service(FakeModel(), FakeModel(maps=False), max_bytes=20_000, max_pixels=10_000)
    yield make_app(service, Measured())
    assert service.queued == 0
    assert service.batcher.unfinished == 0
    service.batcher.close(5)


@pytest.mark.fuzz
def test_what_the_openapi_document_allows_is_answered(app):
    schemathesis = pytest.importorskip("schemathesis", reason="needs the extra `test`")
    from schemathesis.specs.openapi import checks

    names = ("status_code", "content_type", "response_headers", "response_schema")
    wanted = [getattr(checks, f"{name}_conformance") for name in names]
    wanted.append(schemathesis.checks.not_a_server_error)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in schema.get_all_operations():

        @quick(8)
        @given(found.ok().as_strategy())
        def check(case):
            case.validate_response(case.call(), checks=wanted)

        check()


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_bytes_that_are_no_image_get_one_sentence(app):
    from fastapi.testclient import TestClient

    client = TestClient(app)

    @quick(50)
    @given(
        st.one_of(st.binary(max_size=200), damaged(EVERY)),
        st.sampled_from(
            [
                "application/octet-stream",
                "image/png",
                "multipart/form-data",
                "multipart/form-data; boundary=a",
                "multipart/form-data; boundary=a; charset=nonsense",
                "application/json",
                "",
            ]
        ),
        st.sampled_from(["", "?map=png", "?map=npy"]),
    )
    def check(content, kind, query):
        answer = client.post(f"/score{query}", content=content, headers={"content-type": kind})
        check_answer(answer)

    @quick(20)
    @given(st.lists(st.one_of(st.binary(max_size=50), damaged(EVERY)), min_size=1, max_size=5))
    def check_files(contents):
        files = [("file", (f"{i}.png", content)) for i, content in enumerate(contents)]
        answer = client.post("/score?map=png", files=files)
        check_answer(answer)
        if answer.status_code in (200, 207):
            assert len(answer.json()["images"]) == len(contents)

    with bounded_memory(), contextlib.closing(client):
        check()
        check_files()


def check_answer(answer):
    """Fails unless an answer is one of those that are documented, with one sentence if an error."""
    assert answer.status_code in ANSWERS
    body = answer.json()
    if answer.status_code not in (200, 207):
        assert body.keys() - {"images", "model"} == {"error", "request"}
        assert body["error"]
        assert body["error"].isprintable()
