"""The report of a comparison: what it says, and how a browser shows it."""

import html
import io
import json
import math
import re
import shutil
import subprocess
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from cli.compare_pictures import Inversion, Pictures
from cli.compare_report import report
from cli.compare_score import Result
from cli.compare_training import Training, read_training
from cli.compare_words import Findings, listed, protocol_in_words, what_is_missing
from cli.compare_words import repaired as all_repaired
from evaluation import page
from evaluation.comparison import Measured, inversion_rows, rows
from evaluation.inversion import InversionScore
from evaluation.protocol import Protocol, Source
from evaluation.restoration_rows import Repaired, restoration_rows

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ODD = '<b>"CT"</b> & co'
PROTOCOL = Protocol(
    images=20,
    reference="train",
    reference_images=20,
    features="digits",
    features_sha256="ab" * 32,
    resize="none",
    quantisation="uint8 = clip(127.5 x + 128)",
    images_alone=2000,
    libraries="torch 2",
    source=Source("real"),
)


def measured(name, steps, value, split):
    """Three ranges of seeds."""
    for i in range(3):
        made = Source(
            name=f"{name}, {steps}",
            steps=steps,
            sampling="80 > 1",
            nfe=float(steps),
            seconds_per_image=0.0003 * steps,
            batch_size=20,
            seeds=f"{20 * i}-{20 * i + 19}",
            ema_rate=0.999,
            images_seen=512,
            device="cpu",
            dtype="float32",
        )
        values = {"fd_digits": value * (1 + 0.1 * i) / steps, "recall_digits": 1 / (1 + value), "share_digits/0": 0.1}
        if name != "EDM":
            values["obeyed_digits"] = 0.5
        yield Measured(name, steps, values, replace(PROTOCOL, reference=split, source=made))


def real(name, split):
    """A set of real images against a split."""
    protocol = replace(PROTOCOL, reference=split, source=Source(name))
    return Measured(name, None, {"fd_digits": 0.2, "recall_digits": 0.9}, protocol)


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)


def repaired(method, way, steps):
    """Two seeds of the noise."""
    values = {"consistency": [60.0, 60.0], "psnr": [18.0, 18.4], "ssim": [0.9, 0.91], "fd_digits": [1.5, 1.7]}
    yield Repaired("holes", method, way, steps, 180, (2.0, 0.3), 4, 0.002, values, images(10))


def repaired_by(method):
    """Of the odd one two ways and a refusal, of others none."""
    if method != ODD:
        return []
    return [*repaired(ODD, "zero-shot", 4), *repaired(ODD, "noise-space", 1), "blurs by ddrm with 20 levels: unequal"]


def findings(methods, **changes):
    """Of synthetic scores: a dictionary of the steps of each method."""
    results, inversion = {}, Inversion((0.07, 80.0), images(16), images(16, 1), images(16, 2))
    way = InversionScore(360, "test", (0.07, 80.0), 1.0, 1.0, 0.0071, 0.0009, 0.07, 1.0)
    inverted = [way, "2 of 16 images are not finite"]
    for i, (name, steps) in enumerate(methods.items()):
        found = [m for n in steps for split in ("train", "test") for m in measured(name, n, 0.3 * 2**i, split)]
        pictures = Pictures(
            "DiffusionModule" if name == "EDM" else "BCMModule",
            name != "EDM",
            {n: images(32, n) for n in steps},
            images(32),
            [inversion] if name == ODD else [],
            {35: "steps=35: this model has plans for [1, 2]"} if name == ODD else {},
        )
        result = Result(found, [], inverted if name == ODD else [], 1000, "cd" * 32, 0, pictures)
        results[name] = replace(result, restored=repaired_by(name), unrestored=[*repaired("", "given", None)])
    floors = [real("real: test", "train"), real("real: half of train", "other half"), real("real: train", "test")]
    values = {
        "title": "out",
        "spread": "3 ranges of seeds",
        "threads": 1,
        "results": results,
        "rows": rows([m for result in results.values() for m in result.measured]),
        "real": rows(floors),
        "inversions": inversion_rows({ODD: [way, replace(way, error=0.0091)]}) if ODD in methods else [],
        "training": {
            name: None if name == "EDM" else Training([100, 200, 512], [3, 1.0, 0.1], 99.0) for name in methods
        },
        "absent": ["CTModule"],
        "failed": {"GAN, seed 2": "it fell over"},
    }
    return Findings(**{"restored": restoration_rows(all_repaired(results))} | values | changes)


@pytest.fixture(scope="module")
def found():
    return findings({ODD: [1, 2], "BCM": [1], "EDM": [5, 35], **{f"method {i}": [1, 4] for i in range(6)}})


def test_everything_is_text(found):
    text = report(found)
    assert "<b>" not in text and text.count(html.escape(ODD)) > 20
    assert "http" not in re.sub(r"http-equiv|base64,[^\"]*", "", text) and "<script" not in text
    assert set(re.findall(r'(?:src|href)="(data:image/png;base64|#part-\d|.)', text)) == {
        "data:image/png;base64", *(f"#part-{i}" for i in range(8))
    }  # fmt: skip
    assert "url(" not in text and page.POLICY in text


def test_tables_say_what_they_are(found):
    text = report(found)
    assert text.count('<th scope="row">method 5</th>') == 3 * 2 + 1  # scores against two splits, protocol; training
    first = text[text.index("<table>") : text.index("</table>")]
    assert re.findall(r'<th scope="col" [^>]*>(.*?)</th>', first) == [
        "method", "NFE", "ms each", "fd<wbr>_digits", "recall<wbr>_digits", "obeyed<wbr>_digits"
    ]  # fmt: skip
    assert "<td >0.33 ± 0.03</td>" in first and "<td >0.6</td>" in first  # of 0.3, 0.33 and 0.36; 2 x 0.3 ms
    inverted = text[text.index("Inversion of 360 test images") :]
    assert re.findall("<td[^>]*>(.*?)</td>", inverted)[:5] == ["0.07 &gt; 80", "1", "1", "0.0081 ± 0.001", "0.0009 ± 0"]
    assert len(re.findall("<h2", text)) == 8 and len(re.findall("<h1", text)) == 1
    assert all(alt for alt in re.findall(r'<img[^>]* alt="([^"]*)"', text))


def test_the_protocol_in_words(found):
    said = " ".join(protocol_in_words(found))
    for part in ("20 generated images and 20 real", "2,000 generated", "0-19, 20-39 and 40-59", "ab" * 32, "cd" * 32,
                 "uint8 = clip(127.5 x + 128)", "rate 0.999", "float32", "batches of 20 on cpu", "1 thread,", "torch 2",
                 "median over the batches after a warm-up batch", "resize of the images: none"):  # fmt: skip
        assert part in said


def test_what_is_missing(found):
    said = what_is_missing(found)
    assert f"{ODD}: no sampler of NFE 35 (steps=35: this model has plans for [1, 2])." in said
    assert f"{ODD}: not scored at NFE 4 or 5, which it has a sampler for: the plan does not ask." in said
    assert "No training curve of EDM: no TensorBoard files with a loss lie beside the checkpoint." in said
    assert "No obeyed_digits of EDM: EDM cannot be told a class." in said
    assert "GAN, seed 2 has no scores: it fell over." in said
    assert f"{ODD}: no blurs by ddrm with 20 levels: unequal." in said
    others = ["BCM", "EDM", *(f"method {i}" for i in range(6))]
    assert f"No restoration by {listed(others)}: no way of the plan is one of theirs." in said
    assert f"{ODD}: an inversion failed (2 of 16 images are not finite)." in said
    assert "Methods of this project that are not compared here: CTModule." in said
    assert "No NFE, time and obeyed_digits of real images, which no model made." in said
    assert not any("single range" in line for line in said)


def test_nothing_is_said_to_be_missing_that_is_not():
    one = findings({"BCM": [1]}, spread="", absent=[], failed={}, restored=[])
    assert [line.partition(" of")[0] for line in what_is_missing(one)] == [
        "No training time", "No inversion pairs", "No NFE, time and obeyed_digits", "No deviations: every number is"
    ]  # fmt: skip


def test_a_number_that_is_none_is_told_and_not_drawn():
    one = findings({"BCM": [1, 2], "EDM": [1]})
    one.rows[0].values["fd_digits"] = replace(one.rows[0].values["fd_digits"], mean=math.nan, std=math.nan)
    assert "fd_digits is not a finite number for BCM with 1 against train." in what_is_missing(one)
    assert "<td >nan ± nan</td>" in report(one)


def test_lists_in_words():
    assert [listed("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def contrast(one, other):
    """WCAG 2's ratio of two colours #rrggbb."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [page.LIGHT, page.DARK], ids=["light", "dark"])
def test_text_can_be_read(theme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert all(
        contrast(theme[text], theme[on]) >= 4.5 for text in ("ink", "soft", "link") for on in ("ground", "panel")
    )


def test_a_mosaic():
    picture = page.mosaic(torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2), 2)
    assert picture.shape == (5, 5, 4)
    assert picture[..., 0].tolist() == [[0, 1, 0, 4, 5], [2, 3, 0, 6, 7], [0] * 5, [8, 9, 0, 0, 0], [10, 11, 0, 0, 0]]
    assert (picture[..., 3] > 0).tolist() == [[1, 1, 0, 1, 1]] * 2 + [[0] * 5] + [[1, 1, 0, 0, 0]] * 2
    text = page.picture(picture, 'a "b"', 3)
    assert 'width="15" height="15" alt="a &quot;b&quot;"' in text
    read = Image.open(io.BytesIO(b64decode(re.search('base64,([^"]*)', text).group(1))))
    assert np.array_equal(np.asarray(read), picture)


def test_a_curve_is_read_and_thinned(tmp_path):
    assert read_training(tmp_path) is None
    with SummaryWriter(str(tmp_path)) as writer:
        for i in range(1, 1001):
            writer.add_scalar("train/loss", 1 / i, 64 * i)
            writer.add_scalar("train/images_per_second", 100.0 if i > 10 else 1.0, 64 * i)
    training = read_training(tmp_path)
    assert len(training.images) == 250 and training.images[-1] == 64_000 and training.images[0] == 256
    assert training.loss[-1] == pytest.approx(1e-3) and training.images_per_second == 100.0


CHECK = """<pre id="result"></pre><script>
addEventListener("load", () => {
  const box = e => e.getBoundingClientRect(), all = s => [...document.querySelectorAll(s)];
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  const plots = all("svg.plot").map(e => ({e, at: box(e), texts: [...e.querySelectorAll("text")].map(box)}));
  const out = p => p.texts.some(t => t.left < p.at.left - 1 || t.right > p.at.right + 1 || t.bottom > p.at.bottom + 1);
  document.getElementById("result").textContent = JSON.stringify({
    images: all("img").length,
    broken: all("img").filter(e => !(e.naturalWidth > 0 && box(e).width > 0)).length,
    svgs: all("svg").length,
    empty: all("svg").filter(e => !(e.getBBox().width > 0 && box(e).width > 0 && box(e).height > 0)).length,
    clipped: plots.filter(out).map(p => p.e.getAttribute("aria-label")),
    overlapping: plots.filter(p => p.texts.some((a, i) => p.texts.slice(i + 1).some(b => !apart(a, b))))
      .map(p => p.e.getAttribute("aria-label")),
    fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: innerWidth,
    ground: getComputedStyle(document.body).backgroundColor,
  });
  if (parent !== window)
    parent.document.getElementById("result").textContent = document.getElementById("result").textContent;
});</script>"""


def browse(tmp_path, text, dark, *options):
    """What the browser prints of a page; it finds no host."""
    (tmp_path / "shown.html").write_text(text)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += [*options, (tmp_path / "shown.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def ground(dark):
    """The page's colour, red, green and blue."""
    return tuple(int((page.DARK if dark else page.LIGHT)["ground"][i : i + 2], 16) for i in (1, 3, 5))


in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")


@in_a_browser
@pytest.mark.parametrize(("dark", "width"), [(False, 1400), (True, 400)], ids=["light", "dark"])
def test_a_browser_shows_all_of_it(found, tmp_path, dark, width):
    """A copy with a script looks at itself, in a frame where it is narrower than a window can be."""
    text = report(found)
    copy = re.sub("<meta http-equiv[^>]*>", "", text).replace("<details>", "<details open>")
    copy = copy.replace("</body>", f"{CHECK}</body>")
    if width < 500:
        frame = f'<iframe srcdoc="{html.escape(copy)}" style="width: {width}px; height: 900px; border: 0"></iframe>'
        copy = f'<!DOCTYPE html><meta name="color-scheme" content="light dark"><pre id="result"></pre>{frame}'
    dump = browse(tmp_path, copy, dark, "--window-size=1400,900", "--dump-dom")
    seen = json.loads(html.unescape(re.search('<pre id="result">({.*?})</pre>', dump).group(1)))
    steps = sum(len(result.pictures.samples) for result in found.results.values())
    plots = 4 + 2 + len(found.results) - 1  # one distance, two other numbers; one method has no curve
    keys = 3 * len(found.results) + 2 + 1 + 2
    assert (seen["images"], seen["svgs"]) == (1 + steps + 1 + 3, plots + keys)  # three rows of restored images
    assert (seen["broken"], seen["empty"], seen["clipped"], seen["overlapping"]) == (0, 0, [], [])
    assert (seen["fetched"], seen["width"], seen["sideways"]) == ([], width, 0)
    assert seen["ground"] == f"rgb{ground(dark)}"


@in_a_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_screenshot(found, tmp_path, dark):
    """Of the page as it is."""
    browse(tmp_path, report(found), dark, "--window-size=1400,3000", f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as shot:
        colours = sorted(shot.convert("RGB").getcolors(1 << 20), reverse=True)
    assert len(colours) > 200 and colours[0][0] < 0.98 * 1400 * 3000
    assert colours[0][1] == ground(dark)
