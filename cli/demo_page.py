"""The page of the demo, in Gradio: what is asked on the left, what each model makes of it on the right."""

import os
from collections.abc import Sequence
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported

import gradio as gr
import torch
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torch import Tensor

from cli.demo_canvas import CSS, HTML, SCRIPT, canvas_value, read_canvas
from cli.demo_models import EDIT, INTERPOLATE, Answer, Model, Request
from cli.errors import UsageError
from cli.restore_levels import Way
from cli.restore_methods import STROKES
from cli.restore_tasks import DAMAGING, Damage
from datamodules.encoded import Limits, decode_image
from evaluation.grids import GAP, Picture, image_grid

HOST = "127.0.0.1"
SIDE = 224
"""Pixels that an image is shown with at least."""
SHOWN = {
    "inpaint": "Inpaint: draw over what is to be made anew",
    "colourise": "Colourise",
    "upscale": "Upscale",
    "unblur": "Unblur",
    "jpeg": "Repair a JPEG",
    STROKES: "Strokes: draw, and it becomes an image",
    EDIT: "Edit: another class, by inversion",
    INTERPOLATE: "Interpolate between two images, by inversion",
}
POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)
"""Gradio's pages name other hosts; a browser that is told this asks none of them."""
STYLE = """
.gradio-container { max-width: 1280px !important; }
.sharp img { image-rendering: pixelated; object-fit: contain; max-height: 224px; }
.sharp label[data-testid=block-label] { position: static; width: fit-content; border: 0; box-shadow: none; }
.sharp { display: flex; flex-direction: column; padding-bottom: 8px; height: auto !important;
         align-self: stretch; }
.sharp .image-container { height: auto; flex: 1; }
#gallery .grid-container { grid-template-columns: repeat(8, 1fr) !important; grid-auto-rows: min-content; gap: 4px; }
#gallery .grid-container button { min-width: 0; width: 100%; height: auto; aspect-ratio: 1; border: 0; }
footer { display: none !important; }
"""


class OwnHost:
    """Middleware that adds `POLICY` to every answer.

    Args:
        app: what answers.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, sending)


def enlarged(images: Tensor, columns: int = 8, side: int = SIDE) -> Picture:
    """Images (N, C, H, W) uint8 as a picture, every pixel a sharp square; without a margin."""
    return image_grid(images, columns, side)[GAP:-GAP, GAP:-GAP]


def page(models: Sequence[Model], images: Tensor, labels: Tensor | None) -> gr.Blocks:
    """The page.

    Args:
        models: side by side.
        images: (N, C, H, W) uint8 to choose from.
        labels: their classes (N,) or None.
    """
    classes = max(model.module.num_classes for model in models)
    tasks = [task for task in (*DAMAGING, STROKES, EDIT, INTERPOLATE) if any(task in m.tasks for m in models)]
    methods = list(dict.fromkeys(method for model in models for method in model.methods))
    first = None if labels is None or not classes else int(labels[0])

    with gr.Blocks(title="fewstep", analytics_enabled=False) as blocks:
        chosen, second = gr.State(images[0]), gr.State(images[1])
        gr.Markdown("## fewstep: few-step models, tried by drawing")
        with gr.Row():
            with gr.Column(scale=5, min_width=420):
                task = gr.Dropdown([(SHOWN[t], t) for t in tasks], value=tasks[0], label="Task", elem_id="task")
                canvas = gr.HTML(
                    canvas_value(images[0], tasks[0]),
                    html_template=HTML,
                    css_template=CSS,
                    js_on_load=SCRIPT,
                    elem_id="canvas",
                )
                which = gr.Radio(["image", "second image"], value="image", label="Choose below", visible=False)
                gallery = gr.Gallery(
                    [enlarged(image[None], side=64) for image in images],
                    label="Test images",
                    columns=8,
                    height=220,
                    format="png",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="gallery",
                    elem_classes="sharp",
                )
                upload = gr.UploadButton("Upload an image", type="binary", file_types=["image"], size="sm")
                with gr.Row():
                    label = gr.Dropdown(
                        list(range(classes)), value=first, label="Class of the image", visible=classes > 0
                    )
                    target = gr.Dropdown(
                        list(range(classes)), value=None, label="Class to make", visible=False, elem_id="target"
                    )
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
                own = ("each model's own", "")
                method = gr.Dropdown([own, *methods], value="", label="Method", elem_id="method")
                with gr.Row():
                    steps = gr.Number(0, label="Levels (0: default)", precision=0, minimum=0, maximum=1000)
                    level = gr.Number(0, label="First level (0: default)", minimum=0)
                with gr.Row():
                    factor = gr.Number(2, label="Factor", precision=0, minimum=2, visible=False)
                    blur = gr.Number(1, label="Blur, pixels", minimum=0.1, visible=False)
                    quality = gr.Slider(1, 95, 10, step=1, label="JPEG quality", visible=False)
                    frames = gr.Slider(2, 11, 7, step=1, label="Images between", visible=False)
                run = gr.Button("Run", variant="primary", elem_id="run")
            with gr.Column(scale=7, min_width=480):
                ends = gr.Image(
                    label="The two ends", visible=False, interactive=False, buttons=[], height=170, elem_classes="sharp"
                )
                shown = [_results(i, model) for i, model in enumerate(models)]

        def choose(event: gr.SelectData, which: str, now: str) -> list[Any]:
            image, kind = images[event.index], None if labels is None else int(labels[event.index])
            return chosen_as(image, kind, which, now)

        def uploaded(data: bytes, which: str, now: str) -> list[Any]:
            channels, side, _ = images.shape[1:]
            try:
                image = torch.tensor(decode_image(data, "the file", side, channels, Limits()))
            except ValueError as error:
                raise gr.Error(str(error), duration=None) from None
            return chosen_as(image, None, which, now)

        def chosen_as(image: Tensor, kind: int | None, which: str, now: str) -> list[Any]:
            if which == "second image" and now == INTERPOLATE:
                return [gr.skip(), image, gr.skip(), gr.skip()]
            return [image, gr.skip(), canvas_value(image, now), kind if classes else gr.skip()]

        def switched(now: str, image: Tensor, value: dict[str, Any]) -> list[Any]:
            restores = now in DAMAGING
            return [
                canvas_value(image, now, value["drawn"]),
                gr.update(visible=restores),
                gr.update(visible=restores or now == STROKES),
                gr.update(visible=now == EDIT),
                gr.update(visible=now == "upscale"),
                gr.update(visible=now == "unblur"),
                gr.update(visible=now == "jpeg"),
                gr.update(visible=now == INTERPOLATE),
                gr.update(visible=now == INTERPOLATE, value="image"),
                gr.update(visible=now == INTERPOLATE),
            ]

        def both(image: Tensor, other: Tensor) -> Picture:
            return enlarged(torch.stack([image, other]), 2, 100)

        def answered(*given: Any) -> list[Any]:
            (now, image, other, value, kind, wanted, number, name, count, start, *damage, between) = given
            drawing = read_canvas(value, image)
            request = Request(
                task=now,
                image=image,
                drawn=drawing.drawn,
                painted=drawing.painted,
                label=kind,
                second=other,
                target=wanted,
                damage=Damage(now, None, int(damage[0]), float(damage[1]), int(damage[2])),
                way=Way(name or None, int(count) or None, float(start) or None),
                frames=int(between),
                seed=int(number),
            )
            return [part for model in models for part in shown_answer(model, request)]

        picked = [chosen, second, canvas, label]
        gallery.select(choose, [which, task], picked, show_progress="hidden")
        upload.upload(uploaded, [upload, which, task], picked)
        gr.on([chosen.change, second.change], both, [chosen, second], ends, show_progress="hidden")
        switches = [canvas, method, level, target, factor, blur, quality, frames, which, ends]
        task.change(switched, [task, chosen, canvas], switches, show_progress="hidden")
        blocks.load(both, [chosen, second], ends, show_progress="hidden")
        asked = [task, chosen, second, canvas, label, target, seed, method, steps, level, factor, blur, quality, frames]
        run.click(answered, asked, [part for parts in shown for part in parts], show_progress_on=run)
    return blocks


def _results(place: int, model: Model) -> tuple[gr.Markdown, gr.Image, gr.Image, gr.Image]:
    """The words, what was given, the result and the noise of a model."""
    with gr.Group():
        words = gr.Markdown(f"**{model.name}**", elem_id=f"words{place}", padding=True)
        with gr.Row():
            options: dict[str, Any] = {
                "interactive": False,
                "buttons": [],
                "height": 240,
                "min_width": 150,
                "format": "png",
                "elem_classes": "sharp",
            }
            given = gr.Image(label="Given", elem_id=f"given{place}", **options)
            made = gr.Image(label="Made", elem_id=f"made{place}", **options)
            noise = gr.Image(
                label="Noise it inverts to", elem_id=f"noise{place}", visible=model.bidirectional, **options
            )
    return words, given, made, noise


def shown_answer(model: Model, request: Request) -> tuple[str, Picture | None, Picture | None, Picture | None]:
    """What a model made, as `_results` shows it; a refusal in words."""
    try:
        answer = model.run(request)
    except UsageError as error:
        return f"**{model.name}**: {error}", None, None, None
    columns = len(answer.images) if len(answer.images) < 4 else (len(answer.images) + 1) // 2
    noise = None if answer.noise is None else enlarged(answer.noise[None])
    return words(model, answer), enlarged(answer.given[None]), enlarged(answer.images, columns), noise


def words(model: Model, answer: Answer) -> str:
    """What an answer took, in Markdown."""
    time = f"{answer.milliseconds:,.0f}" if answer.milliseconds >= 100 else f"{answer.milliseconds:.3g}"
    parts = [f"{time} ms", f"{answer.nfe:g} network evaluations", answer.how]
    if answer.psnr is not None:
        parts.append(f"PSNR {answer.psnr:.3g} dB")
    if answer.noise_ratio is not None:
        parts.append(f"noise std / level {answer.noise_ratio:.3f}")
    return f"**{model.name}**: {'; '.join(parts)}"


def serve(blocks: gr.Blocks, port: int) -> None:
    """Serve the page on this machine until Ctrl-C.

    Raises:
        UsageError: the port is taken.
    """
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]), Middleware(OwnHost)]
    try:
        blocks.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            enable_monitoring=False,
            max_file_size=Limits().file_bytes,
            app_kwargs={"middleware": middleware},
            theme=theme,
            css=STYLE,
        )
    except OSError as error:
        raise UsageError(f"--port {port}: {' '.join(str(error).split())}") from None
    print(f"http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
    blocks.block_thread()
