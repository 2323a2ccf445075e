"""The command line of fewstep: `python main.py COMMAND --help` tells what a command takes."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "fit": "train: --config FILE starts a run, --ckpt_path FILE goes on with one",
    "validate": "the validation loss of a checkpoint",
    "test": "score a checkpoint: a table, and scores.json in the run's directory",
    "compare": "train and score several methods side by side, in one table",
    "predict": "another name of sample",
    "sample": "generate images from a checkpoint, one for each seed",
    "invert": "image -> noise -> image with a bidirectional checkpoint, and the error",
    "truth": "a checkpoint against the exact solution of its data, where one is known",
    "image-to-image": "noise images to a level and generate from there: variations, or another class",
    "restore": "inpaint, colourise, upscale, unblur or repair JPEGs with a checkpoint, and score it",
    "edit": "images of one class made into another, by inversion",
    "interpolate": "the images between two real ones by inversion, or between two generated ones",
    "demo": "a page on this machine where models are tried by drawing (needs Gradio)",
    "reference": "mean and covariance of real images' features, as a file to score against",
    "import": "a checkpoint from weights of openai/consistency_models, BCM, EDM or diffusers",
    "export": "a checkpoint's weights for others: safetensors, diffusers, ONNX, a folder for the Hub",
    "data": "check a data set, or pack it into EDM's zip or a parquet file: data check PATH, data pack PATH",
    "search-schedule": "the best noise levels of few-step sampling, as a file for sample and test",
}
OWN = {
    "compare": "cli.compare:compare",
    "invert": "cli.invert:invert",
    "truth": "cli.truth:truth",
    "image-to-image": "cli.image_to_image:image_to_image",
    "restore": "cli.restore:restore",
    "edit": "cli.edit:edit",
    "interpolate": "cli.interpolate:interpolate",
    "demo": "cli.demo:demo",
    "reference": "cli.reference:reference",
    "import": "cli.import_weights:import_weights",
    "export": "cli.export:export",
    "data": "cli.data_command:data",
    "search-schedule": "cli.search_schedule:search_schedule",
}
"""Where the function of a command is; the others share theirs."""


def help_text() -> str:
    """What `--help` prints."""
    lines = [f"  {name:<17}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python main.py COMMAND [OPTIONS]     (or: fewstep COMMAND [OPTIONS])",
            "",
            "Few-step generative models: training, scores, sampling, inversion.",
            "",
            "commands:",
            *lines,
            "",
            "  python main.py fit --config configs/bcm.yaml          train on the embedded digits",
            "  python main.py COMMAND --help                         the options of a command",
            "  python main.py fit --config FILE --print_config       a config with all its defaults",
            "  python main.py COMMAND ... --debug                    an error's traceback too, before its line",
            "  tensorboard --logdir runs                             the dashboards of all runs",
        ]
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    0 done, 1 failed (the gradient was not finite too often), 2 wrong use; 130, 138 and 143 stopped by SIGINT, SIGUSR1
    and SIGTERM.

    Args:
        args: command and options, those of the process by default.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if args else 2
    if "--debug" in args:
        from cli.errors import with_tracebacks

        with with_tracebacks():
            return main([word for word in args if word != "--debug"])
    command = args[0]
    if command not in COMMANDS:
        from cli.errors import did_you_mean, fail

        return fail(f"there is no command {command}{did_you_mean(command, COMMANDS)}")
    # what a command needs is imported when it is known, so that help is quick
    module, _, function = OWN.get(command, "").partition(":")
    if module:
        return getattr(importlib.import_module(module), function)(args[1:])
    if command in ("sample", "predict"):
        from cli.sample import sample

        return sample(args[1:], command)
    from cli.app import train_or_score

    return train_or_score(command, args[1:])


if __name__ == "__main__":
    sys.exit(main())
