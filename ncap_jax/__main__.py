"""Rank pretrained models on a data set: which one should be fine-tuned?

    python -m ncap_jax
    python -m ncap_jax --models='tiny_*' --dataset=digits --epochs=5 --output_dir=runs/mine
    python -m ncap_jax --models=mobilenet,resnet50 --dataset=path/to/images --epochs=5

With no flag it ranks the embedded pretrained models on scikit-learn's handwritten digits,
offline. Results go to --output_dir: ranking.json, ranking.csv, report.html, run.json and one
trajectory per model. Exit codes: 0, ranked, and no model failed; 2, bad input, or weights that are
missing; 3, no model could be ranked; 4, one of several processes (--distributed) failed; 5, ranked,
but some models failed; 130, interrupted. After 4 and 130 the same command with the same
--output_dir resumes.

    python -m ncap_jax --rerun=runs/mine/run.json

repeats a run and compares the results. Exit codes: 0, they are the same; 1, they differ.

    python -m ncap_jax finish runs/mine

trains the first models to the end and keeps the best; finish --help tells more.

    python -m ncap_jax predict MODEL IMAGES...

labels images with a model that was saved; predict --help tells more.
"""

from __future__ import annotations

import sys

from ncap_jax import huge_pages, interrupts

if interrupts.is_command(__name__, sys.argv[0]):  # before all imports that take a while
    interrupts.install()
    huge_pages.use()

import dataclasses
import importlib
import pathlib
import shlex
import traceback
from typing import TYPE_CHECKING

from absl import app, flags, logging

from ncap_jax import errors, options, output
from ncap_jax.commands import flagging
from ncap_jax.options import DataConfig, Execution, RankConfig

if TYPE_CHECKING:
    from ncap_jax.types import Ranking

FLAGS = flags.FLAGS
# A first word -> the module whose `main` is given the words after it.
COMMANDS: dict[str, str] = {
    "finish": "ncap_jax.commands.finish",
    "predict": "ncap_jax.commands.predict",
    "export": "ncap_jax.commands.export",
}

flags.DEFINE_list("models", ["tiny_*"], "Names, patterns or lists of models, comma-separated.")
flags.DEFINE_string(
    "dataset", "digits", "A data set's name, an image folder, or a CSV file of path,label."
)
flags.DEFINE_string(
    "output_dir", None, "Where results go (default: runs/<dataset>, with a number if that exists)."
)
flags.DEFINE_bool("tensorboard", False, "Write TensorBoard scalars under --output_dir as well.")
flags.DEFINE_integer(
    "finish",
    None,
    "After the ranking, train this many first models to the end and keep the best; as the command "
    "finish does, which has options for it. A third of --time_budget is kept for it, and as many "
    "epochs are trained as fit.",
    lower_bound=1,
)
flags.DEFINE_string(
    "rerun", None, "Repeat the run that this run.json describes, and compare the results."
)
flags.DEFINE_bool(
    "distributed", False, "Run as one of several processes (jax.distributed); see --mesh."
)
flags.DEFINE_bool(
    "plan", False, "Print what the run would do, and exit without training or writing anything."
)
flags.DEFINE_bool(
    "list_models", False, "Print the known models, and which weights are here, and exit."
)
for each in (*options.options_of(RankConfig), *options.options_of(DataConfig)):
    flagging.define(each, FLAGS)


def free_folder(wanted: pathlib.Path) -> pathlib.Path:
    """The wanted folder, or the first of <folder>-2, <folder>-3, ... that does not exist yet."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def main(argv: list[str]) -> int:
    """Run the main job; returns the exit code."""
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries announce every backend they lack
    try:
        if is_command(argv):
            module = importlib.import_module(COMMANDS[argv[1]])
            return int(module.main(argv[2:]))
        if len(argv) > 1:
            raise errors.ConfigError(
                f"unexpected argument {argv[1]!r}", "Options are written --name=value"
            )
        if FLAGS.list_models:
            return list_models()
        if FLAGS.plan:
            return plan()
        return rank() if FLAGS.rerun is None else rerun()
    except errors.NcapError as error:
        refuse(str(error))
        return 4 if isinstance(error, errors.ProcessError) else 2


def process(argv: list[str]) -> int:
    """`main` as a process of its own, which takes leave of the others if it is one of several."""
    if not FLAGS.distributed:
        return main(argv)
    from ncap_jax import distributed

    try:
        code = main(argv)
    except Exception:
        traceback.print_exc()
        code = 1
    distributed.leave(code)
    return code


def refuse(why: str) -> int:
    """Print what cannot be done, in visible characters; returns the exit code."""
    from ncap_jax.report import text

    lines = map(text.visible, why.splitlines())
    print("error: " + "\n".join(lines), file=sys.stderr)
    return 2


def ranking_config() -> RankConfig:
    """The ranking's options: what a finish needs is kept, and the time that it takes is left."""
    from ncap_jax.commands import finish

    config = flagging.record(RankConfig, FLAGS)
    if FLAGS.finish is None:
        return config
    return dataclasses.replace(
        config,
        keep_states=max(config.keep_states, FLAGS.finish),
        time_budget=finish.ranking_seconds(config.time_budget),
    )


def rank() -> int:
    """Rank as the flags say, print the table and where the files are; returns the exit code."""
    from ncap_jax import api, distributed
    from ncap_jax.commands import finish

    if FLAGS.distributed and FLAGS.finish is not None:
        raise errors.ConfigError(
            "--finish with --distributed", "Rank first, then finish the run in one process"
        )
    if FLAGS.distributed:
        distributed.join()
    config = ranking_config()
    name = pathlib.Path(FLAGS.dataset).name or "data"
    folder = pathlib.Path(FLAGS.output_dir or free_folder(pathlib.Path("runs") / name))
    scalars = folder / "tensorboard" if FLAGS.tensorboard else None

    def hint() -> str:
        resume = f"; with --output_dir={shlex.quote(str(folder))} the same command resumes"
        return resume if folder.exists() else ""

    try:
        with interrupts.job(hint):
            ranking = api.rank_models(
                FLAGS.models,
                FLAGS.dataset,
                config,
                folder,
                data_config=flagging.record(DataConfig, FLAGS),
                tensorboard=scalars,
            )
    except KeyboardInterrupt:
        interrupts.announce(f"interrupted{hint()}")
        return interrupts.EXIT_CODE
    if not distributed.is_primary():
        return 0
    show(ranking, folder, scalars)
    code = exit_code(ranking)
    if FLAGS.finish is None or code == 3:
        return code
    how = finish.within(ranking, FLAGS.finish, FLAGS.time_budget)
    return finish.run(folder, how, ranking) or code


def plan() -> int:
    """Print what the flags would do; returns the exit code."""
    from ncap_jax.report import text

    if FLAGS.rerun is not None:
        raise errors.ConfigError(
            "--plan with --rerun, which repeats a run as it was", "Leave one of them out"
        )

    from ncap_jax.commands import finish

    config, data_config = ranking_config(), flagging.record(DataConfig, FLAGS)
    options.check(config)
    options.check(data_config)
    from ncap_jax.run import planning

    request = planning.Request(FLAGS.models, FLAGS.dataset, config, data_config, FLAGS.output_dir)
    for line in planning.plan(request):
        print(text.visible(line))
    if FLAGS.finish is not None and FLAGS.time_budget is not None:
        kept = text.duration(finish.PART * FLAGS.time_budget)
        print(f"Finish: {kept} of {text.duration(FLAGS.time_budget)} are kept for it.")
    return 0


def exit_code(ranking: Ranking) -> int:
    """3: no model is ranked; 5: some are, and some failed; 0: none failed."""
    from ncap_jax.report import text

    if all(model.rank is None for model in ranking.models):
        return 3
    return 5 if text.some_failed(ranking) else 0


def show(ranking: Ranking, folder: pathlib.Path, scalars: pathlib.Path | None) -> None:
    """Print the table, where the files are, and on standard error what could not be ranked."""
    from ncap_jax.report import text

    print(ranking)
    print(f"\nReport: {text.visible(str(folder / 'report.html'))}")
    if FLAGS.finish is None and (line := how_to_finish(ranking, folder)):
        print(line)
    if scalars is not None:
        print(f"Scalars: {text.shell('tensorboard --logdir=' + shlex.quote(str(scalars)))}")
    failed = [model for model in ranking.models if model.rank is None]
    if failed:
        names = "; ".join(f"{text.visible(m.name)} ({m.status})" for m in failed)
        print(
            f"warning: {len(failed)} of {len(ranking.models)} models could not be ranked: {names}",
            file=sys.stderr,
        )


def how_to_finish(ranking: Ranking, folder: pathlib.Path) -> str:
    """The command that finishes a ranking and what is kept for it; empty if nothing is."""
    from ncap_jax.report import next_step, text
    from ncap_jax.selection import keeping

    kept, command = keeping.kept(ranking), next_step.how_to_finish(ranking, folder)
    if not kept or not command:
        return f"Finish: {command}" if command else ""
    files = (folder / "checkpoints").rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    names = text.visible(", ".join(kept))
    return f"Finish: {command} (kept for it: the states of {names}, {size:.1f} MB)"


def rerun() -> int:
    """Repeat a run and print how the results compare; returns the exit code."""
    from ncap_jax.run import rerun as reruns

    execution = flagging.record(Execution, FLAGS)
    records = (RankConfig, DataConfig)
    fields = {field.name for record in records for field in dataclasses.fields(record)}
    others = {"models", "dataset", "tensorboard", "finish", *fields} - {*reruns.WHERE}
    given = sorted(name for name in others if FLAGS[name].present)
    if given:
        raise errors.ConfigError(
            f"--{given[0]} with --rerun, which repeats a run as it was",
            f"Leave it out; only --output_dir, --{', --'.join(reruns.WHERE)} go with --rerun",
        )
    original = reruns.read_saved_run(FLAGS.rerun).folder.resolve()
    folder = FLAGS.output_dir or free_folder(original.with_name(f"{original.name}-rerun"))
    try:
        with interrupts.job(str):
            comparison = reruns.rerun(FLAGS.rerun, folder, execution=execution)
    except KeyboardInterrupt:
        interrupts.announce("interrupted")
        return interrupts.EXIT_CODE
    print(f"{comparison}\n\nRerun: {folder}")
    return 0 if comparison.equal else 1


def list_models() -> int:
    """Print the known models and where their weights are; returns the exit code."""
    from ncap_jax.report.console import format_models
    from ncap_jax.zoo import MODELS
    from ncap_jax.zoo.weights.places import locate

    folder = FLAGS.weights_dir
    print(format_models(list(MODELS.values()), {n: locate(MODELS[n], folder).kind for n in MODELS}))
    return 0


def is_command(argv: list[str]) -> bool:
    """Whether the first word names another command than the ranking."""
    return len(argv) > 1 and argv[1] in COMMANDS


def parse(arguments: list[str]) -> list[str]:
    """Read the flags; returns the other arguments. A wrong flag exits with code 2.

    Another command than the ranking reads its own: all its words are returned.
    """
    try:
        if is_command(arguments):
            FLAGS(arguments[:1])
            return arguments
        others = FLAGS(arguments)
    except flags.Error as error:
        sys.exit(refuse(f"{error}\n--help lists the flags."))
    if is_command(others):
        sys.exit(refuse(f"flags before {others[1]!r}. Write {others[1]} first, then its flags."))
    return others


def console() -> None:
    """Entry point of the installed command."""
    try:
        with output.protected():
            app.run(process, flags_parser=parse)
    except SystemExit as end:
        if "ncap_jax.run.ahead" in sys.modules and isinstance(end.code, int | None):
            sys.modules["ncap_jax.run.ahead"].leave(end.code or 0)
        raise


if __name__ == "__main__":
    console()
