import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from t2l_router.middleware import BodyLimitMiddleware, BodyTooLarge, RequestIdMiddleware


async def echo(request: Request) -> PlainTextResponse:
    body = await request.body()
    return PlainTextResponse(f"{request.state.request_id} {len(body)}")


async def too_large(request, error):
    return PlainTextResponse(str(error), 413)


app = Starlette(
    routes=[Route("/", echo, methods=["POST"])], exception_handlers={BodyTooLarge: too_large}
)
client = TestClient(RequestIdMiddleware(BodyLimitMiddleware(app, 10)))


def test_new_request_id():
    """Every response has an id of its own, and the application knows it."""
    one, two = client.post("/"), client.post("/")

    assert one.headers["x-request-id"] != two.headers["x-request-id"]
    assert one.text == f"{one.headers['x-request-id']} 0"


def test_error_has_an_id_too():
    """Responses that no route made have an id."""
    assert client.get("/nowhere").headers["x-request-id"].startswith("req_")


def test_given_request_id():
    """The caller's own id comes back."""
    answer = client.post("/", headers={"x-request-id": "trace-1.2_3"})

    assert answer.headers["x-request-id"] == "trace-1.2_3"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a;b", "<script>", "ü".encode()])
def test_odd_request_id_is_replaced(given):
    """An id that could break a log or a header is replaced."""
    answer = client.post("/", headers={"x-request-id": given})

    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("n_bytes", "status"), [(0, 200), (10, 200), (11, 413)])
def test_body_limit(n_bytes, status):
    """A body up to the limit is read, a larger one is refused."""
    assert client.post("/", content=b"x" * n_bytes).status_code == status


@pytest.mark.parametrize(("n_chunks", "status"), [(10, 200), (11, 413)])
def test_body_limit_without_length(n_chunks, status):
    """A body of unknown length is refused as soon as it is too large."""
    assert client.post("/", content=(b"x" for _ in range(n_chunks))).status_code == status


def test_false_length():
    """A length that isn't a number doesn't break the limit."""
    answer = client.post("/", content=b"x" * 11, headers={"content-length": "ten"})

    assert answer.status_code == 413
