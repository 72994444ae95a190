"""What `benchmarks.accelerator` measures, in order of value: the existing benchmarks, in parts.

`pretend` has every part in small, for a CPU.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence

from benchmarks.accelerator_runner import Part

# Section -> what it shows; the order of the page.
SECTIONS = {
    "tests": "The tests that need an accelerator",
    "kernels": "The β_eff kernels against a gradient, PyTorch, and the device's limits",
    "answer": "Seconds to the answer",
    "ranking": "Does the order found at 40 pixels on a CPU hold at 224?",
    "throughput": "A fine-tuning step",
    "options": "Compile options: seconds to compile against the time of a step",
}
NETWORKS = ("resnet50", "mobilenet", "vit_s16")
THROUGHPUT = ("vgg16", "densenet121", "inceptionresnetv2", "resnet50", "mobilenetv2", "xception")
GRAPHS = ("resnet50", "mobilenetv2", "inceptionv3", "vgg16")
SETS = ("cifar10", "birds525", "fashion_mnist")
SEEDS = (0, 1, 2)
# Options of XLA that are tried one at a time; "" is none.
OPTIONS = (
    "",
    "xla_gpu_autotune_level=0",
    "xla_gpu_autotune_level=2",
    "xla_gpu_experimental_enable_fusion_autotuner=false",
    "xla_gpu_enable_triton_gemm=false",
    "xla_gpu_force_compilation_parallelism=1",
    "xla_gpu_force_compilation_parallelism=16",
)
TRIED = ("densenet121", "mobilenetv2")


@dataclasses.dataclass(frozen=True)
class Setup:
    """Where the parts run.

    Attributes:
        pretend: in small, on a CPU.
        data: folder of data sets and weights.
        work: folder of compiled programs and runs.
        missing_data: data set -> why it is missing.
        torch_python: a Python with torch, torchvision and timm; None: there is none.
    """

    pretend: bool
    data: str
    work: str
    missing_data: dict[str, str] = dataclasses.field(default_factory=dict)
    torch_python: str | None = None

    @property
    def torch_here(self) -> bool:
        """Whether this interpreter has PyTorch beside JAX."""
        return self.torch_python == sys.executable


NO_TORCH = "PyTorch, torchvision and timm are not installed here"
NO_RIVAL = "no Python with PyTorch, torchvision and timm: name one by --torch_python"


def has_torch(python: str) -> bool:
    """Whether an interpreter has what the rivals need."""
    names = ("torch", "torchvision", "timm")
    if python == sys.executable:
        return all(importlib.util.find_spec(name) for name in names)
    code = f"import importlib.util as u; raise SystemExit(not all(map(u.find_spec, {names})))"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def command(module: str, *options: str) -> tuple[str, ...]:
    """A benchmark's command, which writes the part's result."""
    return (sys.executable, "-m", f"benchmarks.{module}", "--output={result}", *options)


def parts(setup: Setup) -> list[Part]:
    """All parts, in order of value."""
    networks = list(network_parts(setup))
    answers = list(answer_parts(setup))
    throughput = list(throughput_parts(setup))
    rankings = list(ranking_parts(setup))
    return [
        *test_parts(setup),
        *kernel_parts(setup),
        *networks,
        *answers[:2],  # ours, cold and warm
        *throughput[:4],
        *rankings[: len(SETS)],  # the first seed
        *answers[2:],
        *throughput[4:],
        *rankings[len(SETS) :],
        *batch_parts(setup),
        *option_parts(setup),
    ]


def test_parts(setup: Setup) -> Iterator[Part]:
    """Correctness against float64 on the CPU."""
    options = ("--on_cpu", "--only=depthwise_convolution") if setup.pretend else ()
    yield Part("tests/pytest", command("gpu_tests", *options), 300, 30, quiet=False)


def kernel_parts(setup: Setup) -> Iterator[Part]:
    """What the device can do, and the probe's kernel."""
    limits = ("--side=64", "--mb=1", "--repeats=1") if setup.pretend else ()
    yield Part("kernels/limits", command("device_limits", *limits), 90)
    small = ("--samples=32", "--repeats=1") if setup.pretend else ("--repeats=100",)
    yield Part("kernels/probe", command("beta_eff", "--sections=probe", *small), 120)
    few = ("--samples=32", "--repeats=1", "--probes=2") if setup.pretend else ("--repeats=30",)
    yield Part("kernels/probes", command("beta_eff", "--sections=probes", *few), 120)


def network_parts(setup: Setup) -> Iterator[Part]:
    """Whole networks against their gradient."""
    names = ("tiny_depthwise",) if setup.pretend else NETWORKS
    size = ("--side=32", "--batch=2", "--repeats=1") if setup.pretend else GPU_NETWORK
    for name in names:
        whole = command("beta_eff", "--sections=network", f"--networks={name}", *size)
        compile_ = (*whole, "--compile_only")
        yield Part(f"kernels/network {name}", whole, 180, 40, compile=compile_)


GPU_NETWORK = ("--side=224", "--batch=32", "--repeats=20")


def batch_parts(setup: Setup) -> Iterator[Part]:
    """Batch sizes to the memory limit."""
    names = ("tiny_depthwise",) if setup.pretend else NETWORKS
    size = ("--side=32", "--batch=1", "--most=2", "--repeats=1")
    if not setup.pretend:
        size = ("--side=224", "--batch=64", "--most=8192", "--repeats=3")
    for name in names:
        series = command("beta_eff", "--sections=batches", f"--networks={name}", *size)
        yield Part(f"kernels/batches {name}", series, 240, 60)


def answer_parts(setup: Setup) -> Iterator[Part]:
    """Seconds to the answer: ours in one process, ours in four, PyTorch's."""
    lack = setup.missing_data.get("cifar10", "")
    dtype = () if setup.pretend else ("--dtype=bfloat16",)
    common = (f"--data={setup.data}", f"--work={setup.work}/answer", "--seconds={seconds}", *dtype)
    workers = 2 if setup.pretend else 4
    if setup.pretend:
        common += ("--set=digits", "--train=64", "--validation=32", "--epochs=1", "--size=32")
        lack = ""
    for where, count in (("one process", 0), (f"{workers} workers", workers)):
        for turn in ("cold", "warm"):
            models = ("--models=tiny_plain,tiny_depthwise",) if setup.pretend else ()
            run = command("native_answer", f"--turn={turn}", f"--workers={count}", *models, *common)
            yield Part(f"answer/{where}, {turn}", run, 900, 240, skip=lack)
    python = setup.torch_python or ""
    for turn in ("torch", "torch_compiled"):
        models = ("--models=mobilenetv2",) if setup.pretend else ()
        run = command(
            "native_answer", f"--turn={turn}", f"--torch_python={python}", *models, *common
        )
        skip = lack or ("" if python else NO_RIVAL)
        yield Part(f"answer/{turn}", run, 900, 240, skip=skip)


def ranking_parts(setup: Setup) -> Iterator[Part]:
    """Published weights at 224 pixels."""
    common = [f"--data={setup.data}", f"--work={setup.work}/ranking"]
    sets: Sequence[str] = SETS
    if setup.pretend:
        sets = ("digits",)
        common += ["--pool=embedded", "--models=tiny_plain,tiny_depthwise", "--size=32"]
        common += ["--epochs=2", "--train=64", "--validation=32"]
    for seed in SEEDS[:1] if setup.pretend else SEEDS:
        for name in sets:
            run = command("native_ranking", f"--set={name}", f"--seed={seed}", *common)
            yield Part(
                f"ranking/{name}, seed {seed}",
                run,
                600,
                120,
                quiet=False,
                compile=() if seed else (*run, "--compile_only"),
                skip=setup.missing_data.get(name, ""),
            )


def throughput_parts(setup: Setup) -> Iterator[Part]:
    """Fine-tuning steps against PyTorch's."""
    if setup.pretend:
        for name, more in (("tiny_plain", ("--slices",)), ("mobilenetv2", ("--rival=torch",))):
            lack = "" if name == "tiny_plain" or setup.torch_here else NO_TORCH
            yield step_part(f"throughput/{name}", name, ("--rival=none", *more), PRETEND_STEP, lack)
        return
    rival = "torch" if setup.torch_here else "none"
    for name in THROUGHPUT[:3]:
        yield step_part(f"throughput/{name}", name, (f"--rival={rival}",), GPU_STEP)
    slices = ("--rival=none", "--slices")
    yield step_part("throughput/vgg16, pools by slices", "vgg16", slices, GPU_STEP)
    for name in GRAPHS:
        graphs, lack = ("--rival=torch_graphs",), "" if setup.torch_here else NO_TORCH
        yield step_part(f"throughput/{name}, CUDA graphs", name, graphs, GPU_STEP, lack)
    for name in THROUGHPUT[3:]:
        yield step_part(f"throughput/{name}", name, (f"--rival={rival}",), GPU_STEP)


PRETEND_STEP = ("--batch=2", "--size=32", "--repeats=1")
GPU_STEP = (
    *("--batch=64", "--size=224", "--dtype=bfloat16", "--steps=20", "--repeats=3"),
    "--profile",
)


def step_part(
    name: str, model: str, options: Sequence[str], size: Sequence[str], skip: str = ""
) -> Part:
    """The throughput of one model."""
    run = command("zoo", "--sections=throughput", f"--models={model}", *size, *options)
    return Part(name, run, 300, 60, compile=(*run, "--compile_only"), skip=skip)


def option_parts(setup: Setup) -> Iterator[Part]:
    """What XLA's options cost and gain; each is compiled anew."""
    size: Sequence[str] = PRETEND_STEP if setup.pretend else GPU_STEP[:-1]
    models = ("tiny_plain",) if setup.pretend else TRIED
    options = OPTIONS[:2] if setup.pretend else OPTIONS
    for model in models:
        for option in options:
            run = command("zoo", "--sections=throughput", f"--models={model}", "--rival=none")
            run += (*size, "--anew", f"--xla={option}")
            yield Part(f"options/{model} {option or 'as it is'}", run, 200, 40)
