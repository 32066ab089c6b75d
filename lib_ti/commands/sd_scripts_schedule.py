"""sd-scripts' lr schedulers, as our decay and warm-up.

Source: kohya-ss/sd-scripts, library/train_util.py, get_scheduler_fix and get_optimizer; the schedulers
themselves are those of transformers and diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lib_ti.commands.sd_scripts_entry import Entry, Ours, number
from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt import nearest

# What becomes of them is settled together, by schedule_of.
SCHEDULE: Mapping[str, Entry] = {
    "lr_scheduler": Entry(),
    "lr_warmup_steps": Entry(),
    "lr_decay_steps": Entry(),
    "lr_scheduler_num_cycles": Entry(),
    "lr_scheduler_power": Entry(),
    "lr_scheduler_timescale": Entry(),
    "lr_scheduler_min_lr_ratio": Entry(),
    "lr_scheduler_type": Entry(),
    "lr_scheduler_args": Entry(several=True),
}
_POLYNOMIAL_END = 1e-7  # a rate
_SHAPES = {"linear": "linear", "cosine": "cosine-waves", "1-sqrt": "one-minus-sqrt"}  # theirs -> our decays
_RISES = {"linear": "linear", "cosine": "cosine", "1-sqrt": "one-minus-sqrt"}


@dataclass(frozen=True)
class _Line:
    """What a line says of its lr scheduler."""

    given: Mapping[str, str]
    rate: str
    args: Mapping[str, str] = field(default_factory=dict)  # lr_scheduler_args

    def text(self, option: str, default: str) -> str:
        return self.given.get(option, default)

    def number(self, option: str, default: float) -> float:
        return number(option, self.given[option]) if option in self.given else default

    @property
    def cycles(self) -> int:
        cycles = self.number("lr_scheduler_num_cycles", 1.0)
        if not cycles.is_integer():
            raise BadInput(f"--lr_scheduler_num_cycles={cycles:g}: expected a whole number.")
        return int(cycles)

    def share_of_rate(self, shown: str, rate: float) -> str:
        """Raises BadInput where ``rate`` is no share of the learning rate."""
        base = number("learning_rate", self.rate)
        if not 0 <= rate < base:
            raise BadInput(f"{shown}: expected a rate below the {base:g} of --learning_rate, as there.")
        return repr(rate / base)

    def steps(self, option: str) -> str:
        """Steps, or a share of them: below 1, or in percent. As there a share is rounded down."""
        text = self.text(option, "0")
        given = number(option, text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if given < 0 or not math.isfinite(given) or (given >= 1 and not text.endswith("%") and given % 1):
            raise BadInput(f"--{option}={text}: expected a number of steps, a share such as 0.1, or 10%.")
        if given >= 1 and not text.endswith("%"):
            return str(int(given))
        if given == 0 or "max_train_epochs" in self.given:
            return str(given) if given else "0"  # how many steps those are is known later
        return str(int(given * number("max_train_steps", self.text("max_train_steps", "1600"))))


def schedule_of(given: Mapping[str, str], rate: str) -> tuple[Ours, list[str]]:
    """Decay and warm-up of a line, and what to say of them. ``rate``: its learning rate, as ours.

    Raises BadInput for what fails there, or is not to be had here.
    """
    named = _name(given)
    if given.get("optimizer_type", "").lower().endswith("schedulefree"):
        said = [f"--{option}: there too, a schedule-free optimizer has no scheduler" for option in SCHEDULE]
        return {}, [sentence for option, sentence in zip(SCHEDULE, said, strict=True) if option in given]
    line = _Line(given, rate, _args(given))
    if relative_step(given):
        return _adafactor(line)
    if "lr_scheduler_type" in given:
        return _by_class(line)
    if not SCHEDULE.keys() & given.keys():
        return {}, []
    if named not in _NAMED:
        raise BadInput(f"--lr_scheduler={named} is no lr scheduler{nearest(named, _NAMED)}.")
    known, make = _NAMED[named]
    if unknown := sorted(line.args.keys() - set(known)):
        takes = f"takes {' and '.join(known)}" if known else "takes none"
        raise BadInput(f"--lr_scheduler_args {unknown[0]}: the scheduler {named} {takes}, there too.")
    said = []
    if named == "constant" and line.steps("lr_warmup_steps") != "0":
        said.append("--lr_warmup_steps: it is warmed up, though there constant refuses that")
    return {**_warmup(line), **make(line)}, said


def relative_step(given: Mapping[str, str]) -> bool:
    """Whether the line's optimizer is an Adafactor that takes its own rate."""
    args = _pairs(given.get("optimizer_args", ""))
    own = args.get("relative_step", "True") == "True" or args.get("warmup_init") == "True"
    return given.get("optimizer_type", "").lower() == "adafactor" and own


def adafactor_args(given: Mapping[str, str]) -> Ours:
    """What Adafactor is told: its rate is our schedule's, what that is multiplied by is its own business."""
    if given.get("optimizer_type", "").lower() != "adafactor":
        return {}
    args = {"scale_parameter": "True", **_pairs(given.get("optimizer_args", ""))}
    told = (f"{key}={value}" for key, value in args.items() if key not in ("relative_step", "warmup_init"))
    return {"--optimizer-args": " ".join(told)}


def _adafactor(line: _Line) -> tuple[Ours, list[str]]:
    if line.steps("lr_warmup_steps") != "0":
        raise BadInput("--lr_warmup_steps beside Adafactor's own rate fails there too; leave it out.")
    rising = _pairs(line.given.get("optimizer_args", "")).get("warmup_init") == "True"
    said = [
        f"--{option}: as there, Adafactor takes its own rate in its place; relative_step=False uses it"
        for option in ("learning_rate", "unet_lr", "text_encoder_lr", *SCHEDULE)
        if option in line.given and line.given[option].partition(":")[0] != "adafactor"
    ]
    return {"--learning-rate": "0.01", "--decay": "adafactor-warmup" if rising else "adafactor"}, said


def _by_class(line: _Line) -> tuple[Ours, list[str]]:
    if line.steps("lr_warmup_steps") != "0":
        raise BadInput("--lr_warmup_steps beside --lr_scheduler_type fails there too; leave it out.")
    said = [
        f"--{option}: as there, --lr_scheduler_type takes its place"
        for option in SCHEDULE
        if option in line.given and not option.endswith(("_type", "_args", "_warmup_steps"))
    ]
    args = " ".join(line.given.get("lr_scheduler_args", "").splitlines())
    if {"unet_lr", "text_encoder_lr"} & line.given.keys() and args:
        said.append("--lr_scheduler_args: rates in it are multiplied for a part as its own rate is")
    return {"--scheduler": line.given["lr_scheduler_type"], "--scheduler-args": args}, said


def _name(given: Mapping[str, str]) -> str:
    return given.get("lr_scheduler", "constant").lower().partition(":")[0]


def _args(given: Mapping[str, str]) -> dict[str, str]:
    return _pairs(given.get("lr_scheduler_args", ""), "lr_scheduler_args")


def _pairs(lines: str, option: str = "optimizer_args") -> dict[str, str]:
    """``key=value`` on each line. Raises BadInput."""
    found = {}
    for line in lines.splitlines():
        key, sign, value = line.partition("=")
        if not sign:
            raise BadInput(f"--{option} {line}: expected name=value.")
        found[key.strip()] = value.strip()
    return found


def _warmup(line: _Line) -> Ours:
    """There the first step of a warm-up has the rate 0."""
    steps = line.steps("lr_warmup_steps")
    return {"--warmup": steps, "--warmup-from": "0"} if steps != "0" else {}


def _decay(name: str) -> Callable[[_Line], Ours]:
    return lambda line: {"--decay": name}


def _cosine(line: _Line) -> Ours:
    """``num_cycles`` counts whole waves: half a one falls."""
    halves = 2 * number("lr_scheduler_args num_cycles", line.args.get("num_cycles", "0.5"))
    if not halves.is_integer() or halves < 1:
        raise BadInput("--lr_scheduler_args num_cycles: expected half waves, such as 0.5 or 1.5.")
    return {"--decay": "cosine"} if halves == 1 else _waves(int(halves))


def _waves(halves: int) -> Ours:
    return {"--decay": "cosine-waves", "--decay-cycles": str(halves)}


def _polynomial(line: _Line) -> Ours:
    end = number("lr_scheduler_args lr_end", line.args.get("lr_end", str(_POLYNOMIAL_END)))
    power = line.args.get("power", line.text("lr_scheduler_power", "1"))
    floor = line.share_of_rate(f"--lr_scheduler=polynomial ends at {end:g}", end)
    return {"--decay": "polynomial", "--decay-power": power, "--decay-floor": floor}


def _with_min(line: _Line) -> Ours:
    ratio = line.given.get("lr_scheduler_min_lr_ratio")
    if (ratio is None) == ("min_lr" not in line.args):
        raise BadInput(
            "--lr_scheduler=cosine_with_min_lr: expected --lr_scheduler_min_lr_ratio, such as 0.1, or "
            "min_lr=1e-6 in --lr_scheduler_args, and not both."
        )
    if ratio is None:
        end = number("lr_scheduler_args min_lr", line.args["min_lr"])
        ratio = line.share_of_rate(f"--lr_scheduler_args min_lr={end:g}", end)
    return {**_waves(line.cycles), "--decay-floor": ratio}


def _stable(line: _Line) -> Ours:
    """Warm-up and decay begin or end at the least rate; without steps of a decay there is none."""
    least, over = line.text("lr_scheduler_min_lr_ratio", "0"), line.steps("lr_decay_steps")
    rise, fall = (
        _known_shape(line, name, shapes, default)
        for name, shapes, default in (("warmup_type", _RISES, "linear"), ("decay_type", _SHAPES, "cosine"))
    )
    ours = {"--warmup-from": least, "--warmup-shape": rise} if "--warmup" in _warmup(line) else {}
    if over == "0":
        return {**ours, "--decay": "constant"}
    cycles = {"--decay-cycles": str(line.cycles)} if fall == "cosine-waves" else {}
    return {**ours, "--decay": fall, **cycles, "--decay-floor": least, "--decay-over": over}


def _known_shape(line: _Line, name: str, shapes: Mapping[str, str], default: str) -> str:
    told = line.args.get(name, default).strip("'\"")
    if told not in shapes:
        raise BadInput(f"--lr_scheduler_args {name}={told}: expected one of {', '.join(shapes)}.")
    return shapes[told]


def _inverse_sqrt(line: _Line) -> Ours:
    timescale = line.given.get("lr_scheduler_timescale")
    return {"--decay": "inverse-sqrt", **({"--decay-timescale": timescale} if timescale else {})}


def _piecewise(line: _Line) -> Ours:
    """Rules such as 1:10,0.1:20,0.01: so many times the rate, up to the step. As there without a warm-up."""
    rules = line.args.get("step_rules", "").strip("'\"")
    base, stages = number("learning_rate", line.rate), []
    for rule in rules.split(","):
        times, colon, until = rule.partition(":")
        stages.append(f"{base * number('lr_scheduler_args step_rules', times):.17g}{colon}{until}")
    return {"--learning-rate": ", ".join(stages), "--decay": "constant", "--warmup": "0"}


def _fails(why: str) -> Callable[[_Line], Ours]:
    def refuse(line: _Line) -> Ours:
        raise BadInput(f"--lr_scheduler={_name(line.given)}: {why}.")

    return refuse


# Name -> what it takes from lr_scheduler_args, and what becomes of it.
_NAMED: Mapping[str, tuple[tuple[str, ...], Callable[[_Line], Ours]]] = {
    "constant": ((), _decay("constant")),
    "constant_with_warmup": ((), _decay("constant")),
    "linear": ((), _decay("linear")),
    "cosine": (("num_cycles",), _cosine),
    "cosine_with_restarts": (
        (),
        lambda line: {"--decay": "cosine-restarts", "--decay-cycles": str(line.cycles)},
    ),
    "polynomial": (("lr_end",), _polynomial),
    "cosine_with_min_lr": (("min_lr",), _with_min),
    "warmup_stable_decay": (("warmup_type", "decay_type"), _stable),
    "inverse_sqrt": ((), _inverse_sqrt),
    "piecewise_constant": (("step_rules",), _piecewise),
    "adafactor": ((), _fails("it goes with --optimizer_type=Adafactor and its relative_step=True")),
    "reduce_lr_on_plateau": (
        (),
        _fails(
            "it fails there too, and waits for losses, where here a step's number settles its rate; take "
            "another one, and ti-studio train --stop-rule plateau to end in time"
        ),
    ),
    "cosine_warmup_with_min_lr": (
        (),
        _fails("it fails there too; use cosine_with_min_lr with --lr_warmup_steps"),
    ),
}
