"""The canvas of the demo: an image's own pixels, enlarged, are what is painted, so nothing has to be mapped back.

Its value is a dictionary: `image`, a PNG of the image's own size as a data URI; `width` and `height`;
`veil`, whether what is drawn is shown as a veil (a mask) or in its colour (strokes); `locked`, whether nothing is drawn
or shown; and `drawn`, colours "#rrggbb" by the pixels' numbers, row by row.
"""

import io
from base64 import b64encode
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageColor
from torch import Tensor

HTML = """
<div class="bar">
  <label>brush <input class="brush" type="range" min="1" max="8" value="2" aria-label="width of the brush"></label>
  <label>colour <input class="colour" type="color" value="#ffffff" aria-label="colour of strokes"></label>
  <button class="erase" type="button" aria-pressed="false">erase</button>
  <button class="clear" type="button">clear</button>
</div>
<canvas aria-label="the image, to be drawn on"></canvas>
"""

CSS = """
.bar { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; margin-bottom: 8px; font-size: 14px;
       color: var(--body-text-color); }
.bar label { display: flex; align-items: center; gap: 6px; }
.bar .brush { width: 80px; }
.bar .colour { width: 34px; height: 24px; padding: 0; border: 1px solid var(--border-color-primary); }
.bar button { font: inherit; margin: 0;
              padding: 2px 10px; border: 1px solid var(--border-color-primary); border-radius: 4px; color: inherit;
              background: var(--button-secondary-background-fill); }
.bar button[aria-pressed=true] { outline: 2px solid var(--color-accent); }
&.locked .bar { visibility: hidden; }
&.locked canvas { cursor: default; }
canvas { display: block; width: 100%; max-width: 384px; image-rendering: pixelated; touch-action: none;
         cursor: crosshair; border: 1px solid var(--border-color-primary); }
"""

SCRIPT = """
const SIDE = 384, VEIL = [230, 60, 90];
const canvas = element.querySelector("canvas"), context = canvas.getContext("2d"), picture = new Image();
const brush = element.querySelector(".brush"), colour = element.querySelector(".colour");
const eraser = element.querySelector(".erase");
let drawn = {}, last = null;

function show() {
  const {width, height, veil, locked} = props.value, scale = Math.max(1, Math.floor(SIDE / Math.max(width, height)));
  [canvas.width, canvas.height] = [width * scale, height * scale];
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  element.classList.toggle("locked", locked);
  for (const [pixel, shade] of Object.entries(locked ? {} : drawn)) {
    const [x, y] = [pixel % width * scale, Math.floor(pixel / width) * scale];
    context.fillStyle = veil ? `rgba(${VEIL}, 0.65)` : shade;
    context.fillRect(x, y, scale, scale);
  }
}

function read() {
  drawn = {...props.value.drawn};
  picture.onload = show;
  picture.src = props.value.image;
}

function at(event) {
  const box = canvas.getBoundingClientRect(), {width, height} = props.value;
  return [Math.floor((event.clientX - box.left) / box.width * width),
          Math.floor((event.clientY - box.top) / box.height * height)];
}

function dab([x, y]) {
  const {width, height} = props.value, size = Number(brush.value), low = Math.floor((size - 1) / 2);
  for (let j = y - low; j < y - low + size; j++)
    for (let i = x - low; i < x - low + size; i++)
      if (i >= 0 && i < width && j >= 0 && j < height) {
        if (eraser.ariaPressed === "true") delete drawn[j * width + i];
        else drawn[j * width + i] = colour.value;
      }
}

function line(from, to) {
  const steps = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 1);
  for (let k = 0; k <= steps; k++)
    dab(from.map((start, axis) => Math.round(start + (to[axis] - start) * k / steps)));
  show();
}

canvas.addEventListener("pointerdown", event => {
  if (props.value.locked) return;
  canvas.setPointerCapture(event.pointerId);
  last = at(event);
  line(last, last);
});
canvas.addEventListener("pointermove", event => {
  if (last === null) return;
  const here = at(event);
  line(last, here);
  last = here;
});
canvas.addEventListener("pointerup", () => {
  if (last === null) return;
  last = null;
  props.value = {...props.value, drawn: {...drawn}};
});
eraser.addEventListener("click", () => { eraser.ariaPressed = String(eraser.ariaPressed !== "true"); });
element.querySelector(".clear").addEventListener("click", () => {
  props.value = {...props.value, drawn: {}};
});
watch("value", read);
read();
"""


class Drawing(NamedTuple):
    """What was drawn: which pixels (H, W) bool, and the image with the colours over it (C, H, W) uint8."""

    drawn: Tensor
    painted: Tensor


def png(image: Tensor) -> bytes:
    """An image (C, H, W) uint8 encoded, pixel for pixel."""
    array = image.movedim(0, -1).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(file, "PNG")
    return file.getvalue()


def canvas_value(image: Tensor, task: str, drawn: dict[str, str] | None = None) -> dict[str, Any]:
    """The canvas of an image (C, H, W) uint8 for a task; only "inpaint" and "strokes" are drawn for."""
    height, width = image.shape[1:]
    source = f"data:image/png;base64,{b64encode(png(image)).decode()}"
    shown = {"veil": task == "inpaint", "locked": task not in ("inpaint", "strokes")}
    return {"image": source, "width": width, "height": height, **shown, "drawn": drawn or {}}


def read_canvas(value: dict[str, Any], image: Tensor) -> Drawing:
    """What was drawn over an image (C, H, W) uint8; colours become grey where it is.

    Raises:
        ValueError: a pixel outside the image, or no colour.
    """
    channels, height, width = image.shape
    drawn, painted = torch.zeros(height * width, dtype=torch.bool), image.flatten(1).clone()
    for pixel, text in value["drawn"].items():
        if not 0 <= int(pixel) < height * width:
            raise ValueError(f"pixel {pixel} of an image of {height} x {width}")
        drawn[int(pixel)] = True
        painted[:, int(pixel)] = torch.tensor(ImageColor.getcolor(text, "L" if channels == 1 else "RGB"))
    return Drawing(drawn.reshape(height, width), painted.reshape(image.shape))
