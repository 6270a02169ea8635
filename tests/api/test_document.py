"""The OpenAPI document: complete, and true. Requests made from it get no 5xx, and answers that it describes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from farm.api.app import create_app
from farm.api.document import OPERATIONS, described
from farm.api.services import Services
from farm.db import tokens
from farm.domain.fields import FIELDS
from farm.domain.person import Role
from tests.served.machine import Machine
from tests.served.pictures import offer_i2v

EXAMPLES = 25  # an operation: with 150 it takes a minute of CPU
TRUE = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def document(services: Services) -> dict[str, Any]:
    return described(create_app(services))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_is_described_with_its_answers_and_refusals(document: dict[str, Any]) -> None:
    said = dict(operations(document))
    assert set(said) == set(OPERATIONS)
    ids = [operation["operationId"] for operation in said.values()]
    assert len(ids) == len(set(ids))
    for name, operation in said.items():
        assert operation["summary"].endswith("."), name
        for code, answer in operation["responses"].items():
            assert answer["description"], (name, code)
            if code >= "400" and (name, code) != ("GET /readyz", "503"):
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Error"), (name, code)
        if operation["security"]:
            assert {"401", "403", "429", "503"} <= set(operation["responses"]), name
        if name.split()[0] in {"PATCH", "POST"} and not name.endswith(
            ("cancel", "hold", "release", "retry", "front")
        ):
            assert operation["requestBody"]["content"], name


def test_every_field_of_a_wish_is_described(document: dict[str, Any]) -> None:
    assert set(document["components"]["schemas"]["Wish"]["properties"]) == set(FIELDS)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for found in set(text.split('"#/components/schemas/')[1:]):
        assert found.split('"')[0] in document["components"]["schemas"]


def test_the_document_is_served_to_who_has_not_signed_in_yet(services: Services) -> None:
    with TestClient(create_app(replace(services, public=True))) as client:
        served = client.get("/api/openapi.json")
        assert (served.status_code, served.json()["info"]["title"]) == (200, "turbofarm")


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "/events" not in name])  # endless by design
def test_requests_made_from_the_document_get_answers_that_it_describes(
    services: Services, machine: Machine, name: str
) -> None:
    offer_i2v(services)
    app = create_app(replace(services, public=True))
    secret = tokens.create(services.db, "mei", Role.ADMIN, "test").secret
    headers = {"Authorization": f"Bearer {secret}"}
    with TestClient(app, headers=headers) as client:
        done = client.post("/api/jobs", json={"prompt": "a kite", "project": "p"}).json()["id"]
        machine.take("mei/p/interactive/demo-t2v")
        machine.step(3)
        machine.finish()
        queued = client.post("/api/jobs", json={"prompt": "a boat"}).json()["id"]
        client.post("/api/batches", json={"name": "night", "rows": ["a kite"]})
        there = {
            "job_id": [done, queued], "video_id": [done, queued], "worker_id": ["w1"], "gpu": ["cpu:studio:1"],
            "name": ["night", "studio"], "lane": ["mei/default/interactive/demo-t2v"], "prefix": ["farm_aaaa"],
        }  # fmt: skip
        method, path = name.split(" ")
        operation = schemathesis.openapi.from_asgi("/api/openapi.json", app)[path][method]
        made = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode))

        @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate])
        @given(case=made, known=st.sampled_from([True, True, False]), data=st.data())
        def ask(case: schemathesis.Case, known: bool, data: st.DataObject) -> None:
            if known:  # made-up ids lead nowhere
                real = {key: data.draw(st.sampled_from(there[key])) for key in case.path_parameters if key in there}
                case.path_parameters = {**case.path_parameters, **real}
            case.validate_response(case.call(headers=headers), checks=TRUE)

        ask()
