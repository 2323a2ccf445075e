"""How many bad inputs the corpus holds."""

import test_corpus_archives as archives
import test_corpus_arguments as arguments
import test_corpus_checkpoints as checkpoints
import test_corpus_configs as configs
import test_corpus_images as images
import test_corpus_pickles as pickles
import test_corpus_resume as resume


def test_there_are_more_than_200() -> None:
    """Distinct inputs written by hand, each counted once; those that hypothesis makes come on top."""
    counts = {
        "images": len(images.FILES) + len(images.PLACES),
        "archives": len(archives.MEMBERS) + len(archives.BYTES),
        "tables": len(archives.TABLES) + len(archives.SAVED),
        "pickles": len(pickles.PICKLES) + len(pickles.FILES),
        "checkpoints": 2 * checkpoints.PLACES + sum(
            len(cases) for cases in (checkpoints.DIGESTS, checkpoints.ARCHIVES, checkpoints.CONTENTS, resume.CONTENTS)
        ),
        "configs": sum(
            len(cases) for cases in (configs.TEXTS, configs.DATA, configs.RUNS, configs.PLANS, resume.CONFIGS)
        ),
        "arguments": len(arguments.TYPED) + len(arguments.WITH_A_MODEL),
    }  # fmt: skip
    print(counts, sum(counts.values()))
    assert sum(counts.values()) >= 200 and min(counts.values()) >= 20, counts
