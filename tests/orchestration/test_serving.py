"""`biomass serve`: masses are those of `biomass predict` bit for bit; what is refused, and in which words."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
from blended_study import blend_five, finished_study
from starlette.testclient import TestClient
from test_all_rows import as_searched
from tiny_study import RANDOM
from typer.testing import CliRunner
from unusable_pictures import turned_with_a_wrong_tag, without_an_8_bit_form

from biomass_models.errors import UserError
from orchestration.answers.opened import BlendPlace, open_blend
from orchestration.answers.photographs import PATH
from orchestration.bundle.export import export_bundle
from orchestration.cli import app
from orchestration.inspect.trace import trace
from orchestration.serving.address import TOKEN, token_for
from orchestration.serving.app import Served, make_app
from orchestration.serving.asked import Limits, RequestError, read_asked
from orchestration.serving.guard import COOKIE, POLICY
from orchestration.serving.model_thread import ModelThread
from orchestration.serving.page import style
from orchestration.serving.pictures import TrainingPhotographs
from orchestration.serving.schema import SCHEMA
from orchestration.serving.uploads import shown_name
from orchestration.study.seeds import content_id

pytestmark = pytest.mark.slow
HERE = "http://127.0.0.1:8000"
WORD = "a-token-of-a-test-0123"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_pasture: Path) -> tuple[Any, Path]:
    """A blend of a probe and a family with maps, and where its study lies."""
    folder = tmp_path_factory.mktemp("served")
    ledger = finished_study(folder / "study", tiny_pasture, folder / "cache", ("probe", "density"))
    as_searched(ledger, tiny_pasture)
    blend_five(ledger, tiny_pasture, folder)
    return open_blend(BlendPlace(ledger.storage.uri, None, None)), folder


@pytest.fixture
def served(world: tuple[Any, Path], tiny_pasture: Path) -> Iterator[Served]:
    model = ModelThread(4, 1)
    yield Served(blend=world[0], model=model, trained=TrainingPhotographs(world[0], tiny_pasture))
    model.close()


@pytest.fixture
def client(served: Served) -> TestClient:
    return TestClient(make_app(served), base_url=HERE)


def photographs(pasture: Path) -> list[Path]:
    return sorted((pasture / "test").iterdir())


def parts(*files: Path | tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    pairs = [(file.name, file.read_bytes()) if isinstance(file, Path) else file for file in files]
    return [("photographs", (name, content, "image/jpeg")) for name, content in pairs]


def test_masses_are_those_of_predict_bit_for_bit(
    client: TestClient, world: tuple[Any, Path], tiny_pasture: Path, tmp_path: Path
) -> None:
    """As JSON, and the page's table to the byte but for paths."""
    options = ("--unit", "kg/ha", "--area", "0.21", "--level", "0.5,0.6", "--cache", str(world[1] / "cache"))
    for suffix in ("parquet", "csv"):
        arguments = ["predict", str(world[1] / "study"), str(tiny_pasture / "test"), "--out"]
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / f"m.{suffix}"), *options])
        assert result.exit_code == 0, result.output
    typed = {"unit": "kg/ha", "area": "0.21", "level": ["0.5", "0.6"]}
    found = client.post("/predict", files=parts(*photographs(tiny_pasture)), data=typed).json()
    jsonschema.validate(found, SCHEMA)
    table = pd.read_parquet(tmp_path / "m.parquet")
    assert [one["name"] for one in found["photographs"]] == [Path(path).name for path in table[PATH]]
    for (_, row), one in zip(table.iterrows(), found["photographs"], strict=True):
        assert one["unlike_percentile"] == row["unlike_percentile"] and one["nearest"] == row["nearest"]
        for name, mass in one["masses"].items():
            assert mass["mass"] == row[f"{name}_kg_ha"]
            for each in mass["intervals"]:
                for end in ("low", "high"):
                    bound = row[f"{name}_kg_ha_{end}_{100 * each['level']:g}"]
                    assert each[end] == (None if pd.isna(bound) else bound)
    assert any(each["high"] is not None for each in found["photographs"][0]["masses"]["Dry_Total"]["intervals"])
    page = client.post("/", files=parts(*photographs(tiny_pasture)), data=typed).text
    content = page.split("data:text/csv;charset=utf-8;base64,")[1].split('"')[0]
    theirs = pd.read_csv(tmp_path / "m.csv")
    theirs[PATH] = theirs[PATH].map(lambda path: Path(path).name)
    assert base64.b64decode(content).decode() == theirs.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def test_a_bundle_is_served_as_its_study_is(
    client: TestClient, served: Served, world: tuple[Any, Path], tiny_pasture: Path
) -> None:
    """The whole answer, with intervals and neighbours, and the whole page, with maps."""
    study, bundle = world[1] / "study", world[1] / "bundle"
    export_bundle(str(study), world[0].name, bundle, weights=RANDOM)
    other = TestClient(make_app(replace(served, blend=open_blend(BlendPlace(str(bundle), None, None)))), base_url=HERE)
    for path in ("/predict", "/"):
        mine, theirs = (
            one.post(path, files=parts(*photographs(tiny_pasture)), data={"level": "0.5"}) for one in (client, other)
        )
        assert mine.status_code == 200 and mine.content == theirs.content
    card = client.post("/predict", files=parts(photographs(tiny_pasture)[0])).json()["card"]
    found = trace(bundle, [str(study)])
    assert (found.kind, found.ensemble) == ("bundle", world[0].name) and content_id(dict(found.card)) == card


def test_the_page_has_pictures_maps_and_nearest_training_photographs(client: TestClient, tiny_pasture: Path) -> None:
    first = client.get("/")
    assert first.status_code == 200 and 'capture="environment"' in first.text and 'multiple=""' in first.text
    page = client.post("/", files=parts(*photographs(tiny_pasture)[:2])).text
    assert page.count("<article") == 2 and page.count("density of each place</figcaption>") == 6
    assert "Nearest training photographs" in page and page.count('alt="training photograph ') == 6
    for text in (first.text, page):  # nothing comes from elsewhere, nothing is styled or scripted in the page itself
        assert "http" not in text.replace("http-equiv", "") and " style=" not in text and "<style" not in text
        assert text.count("<script") == 1
    assert "prefers-color-scheme: dark" in style() and "--paper: #14191f" in style().rpartition("prefers-color")[2]


def test_headers_of_every_response(client: TestClient) -> None:
    for path in ("/", "/page.css", "/page.js", "/healthz", "/schema.json", "/gone"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == POLICY and "unsafe" not in POLICY
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert client.get("/healthz").json() == {"status": "ok", "requests": 0}
    jsonschema.Draft202012Validator.check_schema(client.get("/schema.json").json())


def bomb(width: int, height: int, text: int = 0) -> bytes:
    """A PNG of few bytes whose header promises many pixels, or that holds a text which unpacks to many bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([1, 0, 0, 0, 0])
    pixels = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(text))) if text else b""
    pixels += chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_what_cannot_be_read_has_its_sentence_and_the_rest_goes_on(
    served: Served, world: tuple[Any, Path], tiny_pasture: Path
) -> None:
    """A text called .jpg, bombs beyond both of Pillow's limits, a file that is too large."""
    limits = Limits(photograph_mb=0.5)
    client = TestClient(make_app(replace(served, limits=limits)), base_url=HERE)
    good = photographs(tiny_pasture)[0]
    sent = (
        ("<i>note.jpg", b"no photograph"),
        ("../../bomb.png", bomb(30_000, 30_000)),
        ("half-a-bomb.png", bomb(10_000, 10_000)),
        ("texts.png", bomb(8, 8, text=80 << 20)),
        ("large.jpg", good.read_bytes() + bytes(1 << 19)),
    )
    found = client.post("/predict", files=parts(*sent, good)).json()
    jsonschema.validate(found, SCHEMA)
    *bad, last = found["photographs"]
    for one, words in zip(
        bad, ("another file", "decompression bomb", "at most 89 million pixels", "too large for", "0.5 MB"), strict=True
    ):
        assert words in one["unreadable"] and one["masses"] is None
        assert "/tmp" not in one["unreadable"] and "biomass-serve" not in one["unreadable"]
    assert [one["name"] for one in bad][:2] == ["<i>note.jpg", "bomb.png"]
    alone = client.post("/predict", files=parts(good)).json()["photographs"][0]
    assert alone == last and last["unreadable"] is None
    page = client.post("/", files=parts(*sent, good))
    assert page.status_code == 200 and "<i>note" not in page.text and "&lt;i&gt;note.jpg" in page.text
    none = client.post("/", files=parts(*sent))
    assert none.status_code == 200 and "No photograph could be read" in none.text


def test_what_pillow_opens_and_models_cannot_use_is_a_refused_photograph(
    client: TestClient, tiny_pasture: Path, tmp_path: Path
) -> None:
    bad = without_an_8_bit_form(tmp_path)
    sent = parts(*bad, turned_with_a_wrong_tag(tmp_path / "turned.jpg"), photographs(tiny_pasture)[0])
    found = client.post("/predict", files=sent).json()["photographs"]
    assert ["8 or 16 bits" in (one["unreadable"] or "") for one in found] == [True] * 3 + [False] * 2
    assert all(one["masses"] for one in found[3:]) and client.post("/", files=sent).status_code == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"unit": "pounds"}, "unit is one of"),
        ({"unit": "kg/ha"}, "needs the area"),
        ({"unit": "kg/ha", "area": "wide"}, "area is a number"),
        ({"area": "nan", "unit": "kg/ha"}, "area is m2 of a quadrat"),
        ({"area": "1e-310", "unit": "g/m2"}, "area is m2 of a quadrat"),
        ({"level": "most"}, "level is a number"),
        ({"level": "1.5"}, "level"),
        ({"level": "0.1,0.2,0.3,0.4,0.5,0.6"}, "at most 5 levels"),
        ({"joint": "perhaps"}, "joint is true or false"),
        ({"units": "g"}, "fields are unit"),
    ],
)
def test_a_wrong_question_is_refused(
    client: TestClient, tiny_pasture: Path, fields: dict[str, str], words: str
) -> None:
    answer = client.post("/predict", files=parts(photographs(tiny_pasture)[0]), data=fields)
    assert answer.status_code == 400 and words in answer.json()["error"] and "--" not in answer.json()["error"]


def test_requests_that_are_no_form_too_many_or_too_large(served: Served, tiny_pasture: Path) -> None:
    client = TestClient(make_app(replace(served, limits=Limits(photographs=2, photograph_mb=0.01))), base_url=HERE)
    one = photographs(tiny_pasture)[0]
    said = [
        (client.post("/predict", json={}), 415, "multipart/form-data"),
        (client.post("/predict", data={"unit": "g"}, files=[("photographs", ("", b"", ""))]), 400, "at least one"),
        (client.post("/predict", files=parts(one, one, one)), 413, "at most 2 photographs"),
        (client.post("/predict", files=parts(*[one] * 9)), 413, "at most 2 photographs"),
        (client.post("/predict", files=parts(("a.jpg", bytes(2 << 20)))), 413, "at most 1 MB"),
        (client.post("/predict", files=[("other", ("a.jpg", b"x", "image/jpeg"))]), 400, "in the field photographs"),
        (client.post("/predict", files=parts(one), data={"unit": "g" * 5000}), 413, "longer"),
        (client.get("/predict"), 405, "by POST"),
        (client.get("/etc/passwd"), 404, "/healthz"),
    ]
    for answer, status, words in said:
        assert answer.status_code == status and words in answer.text, answer.text

    def chunks() -> Iterator[bytes]:  # without a length that could be looked at
        yield b'--x\r\nContent-Disposition: form-data; name="photographs"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(1 << 16)

    form = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/predict", content=chunks(), headers=form).status_code == 413
    assert client.post("/predict", content=b"--x\r\nbroken", headers=form).status_code == 400
    page = client.post("/", files=parts(one, one, one))
    assert page.status_code == 413 and 'role="alert"' in page.text and served.model.admitted == 0


def test_only_those_with_the_token_may_ask(served: Served) -> None:
    client = TestClient(make_app(replace(served, token=WORD)), base_url="http://field.example", follow_redirects=False)
    wrong: list[dict[str, Any]] = [{}, {"cookie": f"{COOKIE}=x"}]
    wrong += [{"authorization": text} for text in (f"Bearer {WORD[:-1]}", "Bearer ü".encode(), f"Basic {WORD}", WORD)]
    for given in wrong:
        answer = client.post("/predict", headers=given)
        assert answer.status_code == 401 and "token is needed" in answer.json()["error"]
    asking = client.get("/")
    assert asking.status_code == 401 and 'action="/token"' in asking.text
    assert client.get("/healthz").status_code == client.get("/page.css").status_code == 200
    assert client.post("/predict", headers={"authorization": f"Bearer {WORD}"}).status_code == 415
    assert client.post("/token", data={"token": "wrong"}).status_code == 401
    for form in ({"data": {"token": "x" * 5000}}, {"data": {"token": "x"}, "files": {"token": b"x" * 5000}}):
        assert client.post("/token", **form).status_code == 400  # open to all, so that it takes no more than a token
    for opening in (client.post("/token", data={"token": WORD}), client.get(f"/?token={WORD}")):
        assert opening.status_code == 303 and opening.headers["location"] == "/"
        assert "httponly" in opening.headers["set-cookie"].lower()
    assert client.get("/").status_code == 200  # by the cookie
    assert client.post("/predict", headers={"origin": "http://elsewhere.example"}).status_code == 403


def test_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert token_for("127.0.0.1") is None and token_for("0.0.0.0") != token_for("0.0.0.0")
    monkeypatch.setenv(TOKEN, WORD)
    assert token_for("::") == token_for("localhost") == WORD
    for short in ("short", "with a space in the middle"):
        monkeypatch.setenv(TOKEN, short)
        with pytest.raises(UserError, match="letters and digits"):
            token_for("0.0.0.0")


@pytest.mark.parametrize("path", ["/predict", "/", "/token"])
def test_a_request_that_breaks_off_is_no_bug(served: Served, path: str) -> None:
    """A phone that loses its network while it sends: quietly 499, and its place in the queue is free again."""
    said: list[str] = []
    headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    body = b'--x\r\nContent-Disposition: form-data; name="token"\r\n\r\nhalf'
    events = iter([{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(make_app(replace(served, say=said.append))(scope, receive, send))
    assert sent[0]["status"] == 499 and said == [] and served.model.admitted == 0


@pytest.mark.parametrize("host", ["127.0.0.2:8000", "[::1]:8000", "127.8.8.8"])
def test_every_address_of_loopback_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


def test_loopback_answers_to_its_own_names_alone(client: TestClient) -> None:
    """A page of another site may point its name at this machine, or send a form here."""
    for host in ("127.0.0.1.evil.example", "evil.example", "192.168.0.2", "[::2]", "0.0.0.0", ""):
        assert client.get("/", headers={"host": host}).status_code == 403
    assert client.get("/", headers={"host": "localhost:8000"}).status_code == 200
    assert client.post("/predict", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/predict", headers={"origin": HERE}).status_code == 415


def test_a_full_queue_says_when_to_come_back(served: Served, tiny_pasture: Path) -> None:
    """The model thread is held, the queue is filled; what was admitted is answered once it goes on."""
    client = TestClient(make_app(served), base_url=HERE)
    held = threading.Event()
    served.model._waiting.put((Future(), lambda _: held.wait(60), held))
    answers: list[int] = []
    one = photographs(tiny_pasture)[0]

    def ask() -> None:
        answers.append(TestClient(make_app(served), base_url=HERE).post("/predict", files=parts(one)).status_code)

    waiting = [threading.Thread(target=ask) for _ in range(4)]
    for thread in waiting:
        thread.start()
    deadline = threading.Event()
    while client.get("/healthz").json()["requests"] < 4:
        deadline.wait(0.01)
    refused = client.post("/predict", files=parts(one))
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
    assert "waiting" in refused.json()["error"]
    held.set()
    for thread in waiting:
        thread.join()
    assert answers == [200] * 4 and served.model.admitted == 0


def test_who_waits_is_told_that_the_server_stops(served: Served, tiny_pasture: Path) -> None:
    client = TestClient(make_app(served), base_url=HERE)
    served.model.close()
    for path in ("/predict", "/"):
        answer = client.post(path, files=parts(photographs(tiny_pasture)[0]))
        assert answer.status_code == 503 and "retry-after" in answer.headers
    assert client.get("/healthz").status_code == 503


def test_work_of_a_client_that_has_gone_is_given_up(served: Served) -> None:
    class Gone:
        async def is_disconnected(self) -> bool:
            return True

    stopped = threading.Event()

    def work(should_stop: Any) -> None:
        while not should_stop():
            stopped.wait(0.01)
        stopped.set()

    with pytest.raises(RequestError, match="gone"):
        asyncio.run(served.model.run(work, Gone()))  # type: ignore[arg-type]
    assert stopped.wait(10)


def test_nothing_stays_unless_it_is_kept(
    served: Served, tiny_pasture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are ours: one that was sent leads nowhere."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    one = photographs(tiny_pasture)[0]
    sent = parts(("../../../escape.jpg", one.read_bytes()), ("torn.jpg", b"torn"))
    assert TestClient(make_app(served), base_url=HERE).post("/predict", files=sent).status_code == 200
    assert not list((tmp_path / "temporary").iterdir())
    keeping = replace(served, keep=tmp_path / "kept")
    found = TestClient(make_app(keeping), base_url=HERE).post("/predict", files=sent).json()
    own = next((tmp_path / "kept").iterdir())
    assert {path.name for path in own.iterdir()} == {"0001.jpg", "answer.json", "masses.csv", "masses.csv.origin.json"}
    assert trace(own / "masses.csv").ensemble == served.blend.name
    assert (own / "0001.jpg").read_bytes() == one.read_bytes()
    kept = json.loads((own / "answer.json").read_text())
    assert [one.pop("file") for one in kept["photographs"]] == ["0001.jpg", None] and kept == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "temporary"]


def test_names_that_were_sent_are_only_shown() -> None:
    assert shown_name("C:\\photos\\a.jpg") == "a.jpg" and shown_name("../..") == ".." and shown_name("") == "photograph"
    assert shown_name("x\u202egpj.exe") == "x\\u202egpj.exe" and len(shown_name("a" * 5000 + ".jpg")) == 100


def test_limits_and_fields(world: tuple[Any, Path]) -> None:
    for wrong in ({"photographs": 49}, {"photographs": 0}, {"photograph_mb": 0.0}, {"queue": 0}):
        with pytest.raises(UserError):
            Limits(**wrong)  # type: ignore[arg-type]
    asked = read_asked(world[0], {"unit": ["", "g"], "level": ["0.8,0.9", "0.8"], "joint": []})
    assert (asked.conversion.unit, asked.options.levels, asked.options.joint) == ("g", (0.8, 0.9), False)
