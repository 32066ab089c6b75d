"""What a model predicts, the noise (eps) or v, and by what it is known: no tensor's shape tells it.

Sources: v1-inference.yaml and v2-inference-v.yaml (LDM), SGM's denoisers, sai_model_spec 1.0.1, and ComfyUI's
mark, an empty tensor ``v_pred``. v: Salimans and Ho, 2022.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.formats.family import FAMILY_NAMES, Family
from lib_ti.formats.ldm import SGM_SCALINGS, Prediction

_SAID: Mapping[str, Prediction] = {
    "eps": "eps",
    "epsilon": "eps",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
}
_METADATA = "modelspec.prediction_type"
_MARK = "v_pred"


@dataclass(frozen=True)
class Evidence:
    """``said``: eps, v, or another word for what is none of the two; ``by``: what says so."""

    said: str
    by: str

    @property
    def prediction(self) -> Prediction | None:
        return _SAID.get(self.said.lower())


@dataclass(frozen=True)
class Settled:
    """``told``: a sentence that says by what it was settled, and what was not followed."""

    prediction: Prediction
    told: str


def evidence_of_config(config: Mapping[str, Any], family: Family) -> Evidence:
    """What a ``.yaml`` says. Raises KeyError and the like where it is of another kind."""
    params = config["model"]["params"]
    if family == "sdxl":
        scaling = params["denoiser_config"]["params"]["scaling_config"]["target"].rpartition(".")[2]
        said = {name: prediction for prediction, name in SGM_SCALINGS.items()}.get(scaling, scaling)
        return Evidence(said, "the .yaml beside it")
    # One that does not name the parameterization means eps, as in LDM.
    return Evidence(str(params.get("parameterization", "eps")), "the .yaml beside it")


def evidence_in_file(names: Collection[str], metadata: Mapping[str, str]) -> list[Evidence]:
    """Of a checkpoint with tensors of these names; the stronger first."""
    found = [Evidence(metadata[_METADATA], f"its metadata ({_METADATA})")] if metadata.get(_METADATA) else []
    return [*found, Evidence("v", f"the key {_MARK} in it")] if _MARK in names else found


def settled(
    name: str, family: Family, evidence: Sequence[Evidence], asked: Prediction | None = None
) -> Settled:
    """``asked`` goes before all ``evidence``, of which the first goes before the others; without any it is
    eps, and v for SD2. Raises BadInput where what decides is neither eps nor v."""
    if asked is not None:
        others = [each for each in evidence if each.prediction != asked]
        return Settled(asked, f"{name} is taken to predict {asked}, as was asked{_not_followed(others)}.")
    if not evidence:
        return _usual(name, family)
    first, *rest = evidence
    if first.prediction is None:
        raise BadInput(
            f"{name} predicts {first.said[:40]!r}, {first.by} says; expected eps or v. If it is one of them, "
            "say so with --prediction."
        )
    others = [each for each in rest if each.prediction != first.prediction]
    return Settled(
        first.prediction, f"{name} predicts {first.prediction}, {first.by} says{_not_followed(others)}."
    )


def _not_followed(others: Sequence[Evidence]) -> str:
    return "".join(f"; {each.by} says {each.said[:40]}, which is not followed" for each in others)


def _usual(name: str, family: Family) -> Settled:
    prediction: Prediction = "v" if family == "sd2" else "eps"
    told = f"{name} does not say whether it predicts eps or v: it is taken for {prediction}, "
    if family == "sd2":
        told += "right for SD 2.1 (768 pixels). For an eps model such as SD 2.1 base say --prediction eps"
    else:
        told += f"as {FAMILY_NAMES[family]} models are. For a v model say --prediction v"
    return Settled(prediction, f"{told}.")
