"""The command line as a person uses it: output, files and exit codes.

What needs a process of its own has one: a whole run, a refusal, Ctrl-C, help. The rest runs here.
"""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from absl.testing import flagsaver

from ncap_jax import __main__ as command
from ncap_jax import errors, options
from ncap_jax.commands import finish, flagging
from ncap_jax.options import DataConfig, FinishConfig, RankConfig
from tests.support import command_line, fake_training
from tests.support.command_line import environment, here, in_process

MODEL = "--models=tiny_plain_wide"  # of the embedded models the one that compiles fastest
SMALL = ["--max_train=64", "--max_validation=64"]
PROBE = ["--head=trainable_probe", "--probe_widths=8,8,8"]


def test_a_whole_run(tmp_path):
    """With two learning rates, TensorBoard's scalars, and the results where they belong.

    Python says what it imports: TensorFlow is not among it.
    """
    flags = [MODEL, *SMALL, *PROBE, "--epochs=2", "--trial_rates=3e-4", "--tensorboard"]
    result = in_process(*flags, cwd=tmp_path, python=["-X", "importtime"])
    assert result.code == 0, result.err
    assert "tiny_plain_wide" in result.out
    folder = pathlib.Path("runs") / "digits"
    assert f"Report: {folder / 'report.html'}" in result.out
    assert f"Scalars: tensorboard --logdir={folder / 'tensorboard'}" in result.out
    assert "Learning rate, known to suit the model or found by a trial" in result.out
    assert "tiny_plain_wide: epoch 2/2, validation accuracy" in result.err
    said = [line for line in result.err.splitlines() if not line.startswith("import time:")]
    assert said[0].startswith("Plan: 1 model, 2 epochs. ")
    assert said[1].startswith("Compiled programs: ")
    assert said[2].startswith("Time left, compilation included: not known yet")
    content = json.loads((tmp_path / folder / "ranking.json").read_text())
    assert content["config"]["probe_widths"] == [8, 8, 8]
    assert content["config"]["trial_rates"] == [3e-4]
    (model,) = content["models"]
    assert model["status"] == "ok"
    assert model["learning_rate"] in (1e-3, 3e-4)
    run = json.loads((tmp_path / folder / "run.json").read_text())
    assert len(run["models"]["tiny_plain_wide"]["weights_sha256"]) == 64
    assert run["data"]["num_train"] == 64
    scalars = tmp_path / folder / "tensorboard" / "tiny_plain_wide"
    assert any(scalars.glob("events.out.tfevents.*"))
    imported = set(re.findall(r"^import time: .*\| +(\S+)$", result.err, re.MULTILINE))
    assert "jax" in imported
    assert "tensorflow" not in imported


def test_ctrl_c_says_how_to_resume(tmp_path):
    line = [sys.executable, "-m", "ncap_jax", MODEL, *SMALL, *PROBE, "--epochs=999"]
    with subprocess.Popen(
        [*line, "--trial_rates="],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them, and so their children, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        while "epoch 1/999" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.endswith("interrupted; with --output_dir=runs/digits the same command resumes\n")
    assert "Traceback" not in said


FAKE = [sys.executable, "-m", "tests.support.fake_command", MODEL, *SMALL, "--epochs=2"]


def redirected(redirection: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """A whole run without compilation, its streams as a shell is told; ASCII has to do."""
    return subprocess.run(
        ["bash", "-c", f'"$@" --output_dir=mine {redirection}', "bash", *FAKE],
        cwd=cwd,
        env={**environment(), "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("redirection", "lines", "last_error"),
    [
        ("2>/dev/full", 11, ""),
        (">/dev/full", 0, "warning: standard output cannot be written: No space left on device"),
        ("| head -1; exit ${PIPESTATUS[0]}", 1, "tiny_plain_wide: ok after 2 epochs"),
        ("2>&-", 11, ""),
    ],
)
def test_the_streams_do_not_decide_a_run(tmp_path, redirection, lines, last_error):
    result = redirected(redirection, tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == lines
    assert (" ----" in result.stdout) == (lines > 1)  # the table's rule, in ASCII
    assert result.stdout.isascii()
    assert "Traceback" not in result.stderr
    assert (result.stderr.splitlines() or [""])[-1].startswith(last_error)
    content = json.loads((tmp_path / "mine" / "ranking.json").read_text())
    assert [model["status"] for model in content["models"]] == ["ok"]


def test_control_characters_in_an_error_are_written_out(tmp_path):
    said = here("--output_dir=/proc/a\x1b[31m\u202eb", cwd=tmp_path)
    assert said.code == 2
    assert r"error: cannot write to /proc/a\x1b[31m\u202eb: " in said.err


def test_a_refusal_of_a_process(tmp_path):
    result = in_process("--models=tiny_plan", cwd=tmp_path)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: unknown model 'tiny_plan'. Did you mean tiny_plain")
    assert not list(tmp_path.iterdir())


REFUSALS = [
    (["--epochs=0"], "epochs=0", "Give a whole number of at least 1."),
    (["--head=linaer"], "unknown head 'linaer'", "Did you mean linear."),
    (["--time_budget=-1"], "time_budget=-1.0", "Give a positive number of seconds."),
    (["--executor=proceses"], "unknown executor 'proceses'", "Did you mean processes."),
    (
        ["--workers=2"],
        "workers=2 with executor='local', which runs in one process",
        "Use executor='processes' or 'ray'.",
    ),
    (
        ["--probe_widths=a,b,c"],
        "probe_widths=a,b,c is not a list of whole numbers",
        "Write it like 256,128,64.",
    ),
    (
        ["--trial_rates=fast"],
        "trial_rates=fast is not a list of numbers or None",
        "Write it like 0.0003,0.0001.",
    ),
    (["--validation_fraction=2"], "validation_fraction=2.0", "between 0 and 1, such as 0.2."),
    (["stray"], "unexpected argument 'stray'", "Options are written --name=value."),
    (
        ["--weights_dir=/proc/none"],
        "weights_dir=/proc/none is not a folder",
        "Give the folder that holds the weight files, or leave it out.",
    ),
    (
        ["--output_dir=/proc/none"],
        "cannot write to /proc/none: No such file or directory",
        "Choose a folder that you may write to.",
    ),
]


@pytest.mark.parametrize(("arguments", "cause", "remedy"), REFUSALS)
def test_bad_input_exits_with_2(tmp_path, arguments, cause, remedy):
    said = here(*arguments, cwd=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert cause in said.err
    assert said.err.endswith(f"{remedy}\n")
    assert not list(tmp_path.iterdir())


def test_a_misspelt_data_set_is_refused_with_what_is_near(tmp_path):
    said = here("--dataset=digist", cwd=tmp_path)
    assert said.code == 2
    assert said.err.startswith("error: unknown data set 'digist'. Did you mean digits")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [(["--epoch=3"], "Did you mean: epochs"), (["--epochs=many"], "invalid literal for int()")],
)
def test_a_flag_that_cannot_be_read_exits_with_2(tmp_path, arguments, cause):
    said = here(*arguments, cwd=tmp_path)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert cause in said.err
    assert said.err.endswith("\n--help lists the flags.\n")


def test_a_first_word_names_another_command(tmp_path, monkeypatch):
    """It reads its own words; they are none of the ranking's flags."""
    monkeypatch.setitem(command.COMMANDS, "echo", "tests.support.echo_command")
    said = here("echo", "a", "--epochs=many", cwd=tmp_path)
    assert (said.code, said.out, said.err) == (7, "a --epochs=many\n", "")


def test_another_command_is_refused_as_the_ranking_is(tmp_path, monkeypatch):
    monkeypatch.setitem(command.COMMANDS, "echo", "tests.support.echo_command")
    said = here("echo", cwd=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: nothing to echo. Give a word.\n"


def test_a_command_stands_before_its_flags(tmp_path, monkeypatch):
    monkeypatch.setitem(command.COMMANDS, "echo", "tests.support.echo_command")
    said = here("--epochs=1", "echo", "a", cwd=tmp_path)
    assert said.code == 2
    assert said.err == "error: flags before 'echo'. Write echo first, then its flags.\n"


def test_exit_codes_of_models_that_cannot_be_loaded(tmp_path, monkeypatch):
    """Their weights are damaged, for real; those of the embedded model are sound."""
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"damaged")
    real = fake_training.worker.training.start
    fake_training.install(monkeypatch)

    def start(spec, *arguments):
        return (real if spec.name == "alexnet" else fake_training.start)(spec, *arguments)

    monkeypatch.setattr(fake_training.worker.training, "start", start)
    for models, code, of in (("tiny_plain,alexnet", 5, "2 models"), ("alexnet", 3, "1 model")):
        said = here(
            f"--models={models}", *SMALL, "--epochs=1", f"--weights_dir={tmp_path}", cwd=tmp_path
        )
        assert said.code == code, said.err
        assert said.err.splitlines()[-1] == (
            f"warning: 1 of {of[0]} models could not be ranked: alexnet (failed)"
        )
        assert f"1 of {of} failed: alexnet." in said.out


def test_missing_weights_are_refused_before_any_data_are_read(tmp_path, monkeypatch):
    """All at once: the data set does not even exist."""
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NCAP_WEIGHTS_DIR", raising=False)
    said = here("--models=alexnet,tiny_plain,squeezenet", "--dataset=digist", cwd=tmp_path)
    assert (said.code, said.out) == (2, "")
    first, *lines = said.err.splitlines()
    assert first == "error: the weights of 2 of 3 models are missing:"
    assert [line.split(":")[0] for line in lines] == ["  alexnet", "  squeezenet"]
    assert not list(tmp_path.iterdir())


def test_a_pattern_offline_ranks_who_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NCAP_WEIGHTS_DIR", raising=False)
    fake_training.install(monkeypatch)
    with pytest.warns(UserWarning, match=r"weights are not on this machine: vgg16, vgg19\."):
        said = here("--models=vgg*,tiny_plain_wide", *SMALL, "--epochs=1", cwd=tmp_path)
    assert said.code == 0, said.err
    content = json.loads((tmp_path / "runs" / "digits" / "ranking.json").read_text())
    assert [model["name"] for model in content["models"]] == ["tiny_plain_wide"]


def test_runs_are_numbered_and_each_is_told(tmp_path, monkeypatch):
    fake_training.install(monkeypatch)
    for folder in ("digits", "digits-2", "digits-3"):
        said = here(MODEL, *SMALL, "--epochs=1", cwd=tmp_path)
        assert said.code == 0, said.err
        report, finish = said.out.splitlines()[-2:]
        assert report == f"Report: runs/{folder}/report.html"
        assert re.fullmatch(
            rf"Finish: python -m ncap_jax finish runs/{folder} \(kept for it: the states of "
            r"tiny_plain_wide, 0\.\d MB\)",
            finish,
        )
        assert (tmp_path / "runs" / folder / "report.html").is_file()


def test_a_ranking_that_keeps_no_state_says_nothing_of_finish(tmp_path, monkeypatch):
    fake_training.install(monkeypatch)
    said = here(MODEL, *SMALL, "--epochs=1", "--keep_states=0", cwd=tmp_path)
    assert said.out.endswith("\nReport: runs/digits/report.html\n")


def test_a_ranking_that_is_to_be_finished_keeps_as_many_states(tmp_path, monkeypatch):
    fake_training.install(monkeypatch)
    finished = []
    monkeypatch.setattr(
        "ncap_jax.api.finish", lambda *given, **more: finished.append((given, more))
    )
    monkeypatch.setattr("ncap_jax.commands.finish.show", lambda winner, folder: None)
    said = here(MODEL, *SMALL, "--epochs=1", "--finish=3", cwd=tmp_path)
    assert said.code == 0, said.err
    (((ranking,), options_given),) = finished
    assert ranking.config.keep_states == 3
    assert options_given == {"config": FinishConfig(top=3)}
    assert "Finish: " not in said.out


def test_a_time_budget_is_divided_between_ranking_and_finish(tmp_path, monkeypatch):
    fake_training.install(monkeypatch)
    asked = []
    monkeypatch.setattr(
        "ncap_jax.commands.finish.run",
        lambda folder, config, ranking: asked.append((config, ranking)),
    )
    said = here(MODEL, *SMALL, "--epochs=2", "--finish=1", "--time_budget=90", cwd=tmp_path)
    assert said.code == 0, said.err
    ((config, ranking),) = asked
    assert ranking.config.time_budget == pytest.approx(60.0)
    assert config == finish.within(ranking, 1, 90.0)


def test_several_processes_do_not_finish(tmp_path):
    said = here("--finish=2", "--distributed", cwd=tmp_path)
    assert (said.code, said.err) == (
        2,
        "error: --finish with --distributed. Rank first, then finish the run in one process.\n",
    )


def test_the_same_folder_resumes(tmp_path, monkeypatch):
    fake_training.install(monkeypatch)
    line = [MODEL, *SMALL, "--output_dir=mine"]
    assert here(*line, "--epochs_budget=2", cwd=tmp_path).code == 0
    said = here(*line, cwd=tmp_path)
    assert "epoch 3/5" in said.err
    assert "epoch 2/5" not in said.err


def test_help_is_readable(tmp_path):
    result = in_process("--help", cwd=tmp_path)
    for flag in ("--models", "--dataset", "--epochs", "--output_dir", "--head"):
        assert flag in result.out
    assert "python -m ncap_jax --models" in result.out


def test_every_option_has_a_flag_of_its_type_and_default():
    for record in (RankConfig, DataConfig):
        for option in options.options_of(record):
            flag = command.FLAGS[option.name]
            default = option.default
            if isinstance(default, tuple) and default:  # absl keeps a list of words
                default = list(map(str, default))
            assert flag.default == default, option.name
            assert flag.help == option.text
    with command_line.flagsaver.flagsaver():
        command.FLAGS(["ncap_jax"])
        assert flagging.record(RankConfig, command.FLAGS) == RankConfig()
        assert flagging.record(DataConfig, command.FLAGS) == DataConfig()


def test_flags_become_values_of_the_right_type():
    with command_line.flagsaver.flagsaver():
        command.parse(
            [
                "ncap_jax",
                "--probe_widths=8,7,6",
                "--trial_rates=3e-4",
                "--time_budget=60",
                "--epochs_budget=9",
                "--stream",
                "--noskip_broken",
            ]
        )
        config = flagging.record(RankConfig, command.FLAGS)
        assert config == RankConfig(
            probe_widths=(8, 7, 6), trial_rates=(3e-4,), time_budget=60.0, epochs_budget=9
        )
        assert isinstance(config.time_budget, float)
        assert flagging.record(DataConfig, command.FLAGS) == DataConfig(stream=True)


def test_a_plan_trains_and_writes_nothing(tmp_path):
    said = here("--models=tiny_*", "--recall=4", "--plan", cwd=tmp_path)
    assert said.code == 0, said.err
    assert "\nRecall: 4 of 13, by prior, features and diversity.\n" in said.out
    assert said.out.endswith("\nNothing was trained or written.\n")
    assert not list(tmp_path.iterdir())
    assert here("--plan", "--recall=-1", cwd=tmp_path).code == 2
    said = here("--models=tiny_*", "--finish=2", "--time_budget=90", "--plan", cwd=tmp_path)
    assert "\nTime budget: 1 min 00 s in all." in said.out
    assert said.out.endswith("\nFinish: 30.0 s of 1 min 30 s are kept for it.\n")
    refused = here("--plan", "--rerun=run.json", cwd=tmp_path)
    assert "--plan with --rerun" in refused.err


def test_list_models(tmp_path, monkeypatch):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "squeezenet_v1.1.safetensors").write_bytes(b"")
    said = here("--list_models", f"--weights_dir={mine}", cwd=tmp_path)
    assert said.code == 0
    shown = {line.split()[0]: line.split() for line in said.out.splitlines() if " px " in line}
    for name, where in (
        ("tiny_resnet_random", "package"),
        ("squeezenet", "folder"),
        ("vgg16", "missing"),
    ):
        assert shown[name][5] == where
    monkeypatch.setenv("NCAP_OFFLINE", "0")
    said = here("--list_models", cwd=tmp_path)
    assert re.search(r"^ vgg16 .* 512 +[\d,]+ +download ", said.out, re.MULTILINE)


def test_a_process_that_another_one_left_alone_has_an_exit_code_of_its_own(tmp_path, monkeypatch):
    def gone(*arguments, **options):
        raise errors.ProcessError("another process of this run is gone", "Repeat the command")

    monkeypatch.setattr("ncap_jax.api.rank_models", gone)
    said = here(MODEL, cwd=tmp_path)
    assert said.code == 4
    assert said.err == "error: another process of this run is gone. Repeat the command.\n"


@pytest.mark.parametrize(
    ("outcome", "code"), [(lambda argv: 3, 3), (lambda argv: {}["missing"], 1)]
)
def test_one_of_several_processes_takes_leave_of_the_others(monkeypatch, capsys, outcome, code):
    left = []
    monkeypatch.setattr(command, "main", outcome)
    monkeypatch.setattr("ncap_jax.distributed.leave", left.append)
    with flagsaver.flagsaver():
        command.parse(["ncap_jax", "--distributed"])
        assert command.process(["ncap_jax"]) == code
    assert left == [code]
    assert ("KeyError: 'missing'" in capsys.readouterr().err) == (code == 1)
