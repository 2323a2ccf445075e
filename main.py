"""The command line of fewstep: `python main.py COMMAND --help` tells what a command takes."""

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
    "interpolate": "the images between two real ones, by inversion",
    "reference": "mean and covariance of real images' features, as a file to score against",
    "data": "check a data set, or pack it into EDM's zip or a parquet file: data check PATH, data pack PATH",
    "search-schedule": "the best noise levels of few-step sampling, as a file for sample and test",
}


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
            "  tensorboard --logdir runs                             the dashboards of all runs",
        ]
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    0 done, 1 failed (the gradient was not finite too often), 2 wrong use, 130 and 143 stopped by SIGINT and SIGTERM.

    Args:
        args: command and options, those of the process by default.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if args else 2
    command = args[0]
    if command not in COMMANDS:
        from cli.errors import did_you_mean, fail

        return fail(f"there is no command {command}{did_you_mean(command, COMMANDS)}")
    # what a command needs is imported when it is known, so that help is quick
    if command in ("sample", "predict"):
        from cli.sample import sample

        return sample(args[1:], command)
    if command == "invert":
        from cli.invert import invert

        return invert(args[1:])
    if command == "truth":
        from cli.truth import truth

        return truth(args[1:])
    if command == "image-to-image":
        from cli.image_to_image import image_to_image

        return image_to_image(args[1:])
    if command == "restore":
        from cli.restore import restore

        return restore(args[1:])
    if command == "edit":
        from cli.edit import edit

        return edit(args[1:])
    if command == "interpolate":
        from cli.edit import interpolate

        return interpolate(args[1:])
    if command == "reference":
        from cli.reference import reference

        return reference(args[1:])
    if command == "search-schedule":
        from cli.search_schedule import search_schedule

        return search_schedule(args[1:])
    if command == "data":
        from cli.data_command import data

        return data(args[1:])
    if command == "compare":
        from cli.compare import compare

        return compare(args[1:])
    from cli.app import train_or_score

    return train_or_score(command, args[1:])


if __name__ == "__main__":
    sys.exit(main())
