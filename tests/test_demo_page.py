"""The demo in a browser: a mask drawn on the canvas, models side by side, and no word to another host."""

import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64decode
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from test_cli_image_to_image import trained

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHOUT = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(WITHOUT), reason=f"not installed: {', '.join(WITHOUT)} (pip install -e '.[demo]')"),
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"),
]

WATCHED = """
import json, socket, sys
from main import main

connect = socket.socket.connect

def watched(self, address):
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps([self.family.name, str(address)]) + "\\n")
    return connect(self, address)

socket.socket.connect = watched
sys.exit(main(sys.argv[2:]))
"""
"""Runs a command, and writes every address that it connects to into a file."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a demo of a bidirectional, a one-directional and a diffusion model; and whom it calls."""
    kinds = {"bcm": "BCMModule", "ct": "CTModule", "edm": "DiffusionModule"}
    paths = [trained(tmp_path_factory.mktemp(name), kind, conditional=True) for name, kind in kinds.items()]
    folder, port = tmp_path_factory.mktemp("demo"), free_port()
    command = [sys.executable, "-c", WATCHED, str(folder / "calls"), "demo", "--port", str(port), "--ckpt_path", *paths]
    log = folder / "log"
    with open(log, "w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": "."})
    try:
        deadline = time.monotonic() + 180
        while "Ctrl-C" not in log.read_text():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", folder / "calls"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def shown(served, browser):
    """The page, and the hosts that it asks."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    hosts, errors = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(served[0])
    page.wait_for_selector("#canvas canvas")
    page.wait_for_function("document.querySelectorAll('#gallery img').length === 24")
    yield page, hosts
    page.close()
    assert errors == []


def stroke(page, *pixels):
    """Drag over pixels (column, row) of the canvas."""
    box = page.locator("#canvas canvas").bounding_box()
    for i, (column, row) in enumerate(pixels):
        at = box["x"] + (column + 0.5) * box["width"] / 8, box["y"] + (row + 0.5) * box["height"] / 8
        page.mouse.move(*at, steps=4)
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def brush(page, width):
    page.locator("#canvas .brush").fill(str(width))


def images_of(page, *names):
    """Pictures (8, 8) of the results, each pixel from the middle of its square; waits until they are there."""
    found = []
    for name in names:
        source = page.wait_for_selector(f"#{name} img").get_attribute("src")
        text = page.evaluate(
            """async url => {
                const data = new Uint8Array(await (await fetch(url)).arrayBuffer());
                return btoa(Array.from(data, byte => String.fromCharCode(byte)).join(""));
            }""",
            source,
        )
        pixels = np.asarray(Image.open(io.BytesIO(b64decode(text))).convert("L")).astype(int)
        side = pixels.shape[0] // 8
        assert (pixels == np.kron(pixels[side // 2 :: side, side // 2 :: side], np.ones((side, side)))).all()
        found.append(pixels[side // 2 :: side, side // 2 :: side])
    return found


def run(page):
    """Press the button, and wait for the answer in words."""
    page.evaluate("document.querySelectorAll('[id^=words]').forEach(e => e.dataset.old = e.innerText)")
    page.click("#run")
    page.wait_for_function("[...document.querySelectorAll('[id^=words]')].every(e => e.innerText !== e.dataset.old)")
    page.wait_for_timeout(500)  # pictures follow the words
    return [page.locator(f"#words{i}").inner_text() for i in range(3)]


def cut_off(page):
    """Names of what is shown in part, or over something else."""
    return page.evaluate(
        """() => {
            const box = e => e.getBoundingClientRect();
            const pictures = [...document.querySelectorAll("[id^=given] img, [id^=made] img, [id^=noise] img")];
            const bad = pictures.filter(e => {
                const block = e.closest(".block"), [mine, all] = [box(e), box(block)];
                const label = box(block.querySelector("label"));
                return mine.bottom > all.bottom + 1 || mine.right > all.right + 1 || mine.top < label.bottom - 1;
            });
            const sideways = document.documentElement.scrollWidth > document.documentElement.clientWidth;
            return [...bad.map(e => e.closest(".block").id), ...(sideways ? ["page"] : [])];
        }"""
    )


def choose(page, dropdown, text):
    page.click(f"#{dropdown} input")
    page.locator(f"#{dropdown} [role=option], ul[role=listbox] [role=option]").get_by_text(text).first.click()


def test_what_is_drawn_over_is_made_anew(shown):
    page, hosts = shown
    brush(page, 1)
    stroke(page, (1, 2), (6, 2))
    stroke(page, (3, 5))
    said = run(page)
    hidden = np.zeros((8, 8), bool)
    hidden[2, 1:7] = hidden[5, 3] = True
    given, *made = images_of(page, "given0", "made0", "made1", "made2")
    assert cut_off(page) == []
    assert (given[hidden] == 128).all()  # 0 in [-1, 1]
    for picture in made:
        assert (picture[~hidden] == given[~hidden]).all() and (picture[hidden] != given[hidden]).any()
    assert page.locator("#noise0 img").count() == 1 and page.locator("#noise1 img").count() == 0
    assert all(" ms; " in text and "PSNR" in text for text in said)
    assert "4 network evaluations; zero-shot" in said[0] and "20 network evaluations; ddnm" in said[2]
    again = images_of(page, "made0")
    page.locator("#seed input").fill("7")
    run(page)
    other = images_of(page, "made0")
    assert (other[0] != again[0])[hidden].any() and (other[0] == again[0])[~hidden].all()
    assert hosts - {""} == {urlsplit(page.url).netloc}  # data: URIs have no host


def test_strokes_become_an_image_and_edits_another_class(shown):
    page, hosts = shown
    choose(page, "task", "Strokes")
    brush(page, 2)
    page.locator("#canvas .colour").fill("#ffffff")
    stroke(page, (0, 0), (7, 0))
    said = run(page)
    given, made = images_of(page, "given0", "made0")
    assert (given[:2] == 255).all() and (made != given).any() and "strokes, levels" in said[0]
    choose(page, "task", "Edit")
    page.wait_for_selector("#target input")
    choose(page, "target", "3")
    said = run(page)
    assert "generated as 3" in said[0] and "a CTModule cannot do this" in said[1] and "200" in said[2]
    assert hosts - {""} == {urlsplit(page.url).netloc}


def test_nothing_else_is_served_or_called(served, browser):
    """A page of another name that points here gets nothing; the server itself calls nobody but itself."""
    address, calls = served
    context = browser.new_context(extra_http_headers={"Host": "elsewhere.example"})
    try:
        answer = context.request.get(address, headers={"Host": "elsewhere.example"})
        assert answer.status == 400
        policy = context.request.get(address, headers={"Host": urlsplit(address).netloc}).headers
        assert policy["content-security-policy"].startswith("default-src 'self'")
    finally:
        context.close()
    called = [json.loads(line) for line in calls.read_text().splitlines()]
    assert called and all(family == "AF_UNIX" or "127.0.0.1" in where for family, where in called)
