"""Make the built-in checkpoint and its judge from nothing: ``python -m lib_ti.tinyworld.build``.

At most 100 minutes on two cores. Every stage saves every ten minutes and goes on where it was;
two cores are used best by two processes:

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m lib_ti.tinyworld.build --work FOLDER
"""

from __future__ import annotations

import argparse
import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

from lib_ti.core.files import write_atomically, write_text
from lib_ti.formats.ldm import CLIP_HEADS, ldm_config, ldm_yaml, to_ldm
from lib_ti.tinyworld.corpus import CORPUS_SEED, HELD_OUT_SEED, make_corpus, to_pixels
from lib_ti.tinyworld.fit import read_saved
from lib_ti.tinyworld.judge import Judge, JudgeNetwork
from lib_ti.tinyworld.train_autoencoder import new_autoencoder, standardise, train_autoencoder
from lib_ti.tinyworld.train_denoiser import LATENT_SCALE, new_text_encoder, new_unet, prepare, train_denoiser
from lib_ti.tinyworld.train_judge import train_judge
from lib_ti.tinyworld.world import ATTRIBUTES, VALUES

log = logging.getLogger(__name__)

WEIGHTS = Path(__file__).parent / "weights"
JUDGE_GOAL, VAE_GOAL = 0.98, 0.97  # of each attribute, on held-out renders


def held_out_accuracy(judge: Judge, vae: AutoencoderKL | None, count: int = 2000) -> dict[str, float]:
    """How often the judge reads held-out renders right, as they are or after the VAE's round trip."""
    corpus = make_corpus(count, HELD_OUT_SEED, VALUES)
    pictures = corpus.pictures
    if vae is not None:
        with torch.no_grad():
            decoded = [vae(to_pixels(chunk)).sample for chunk in pictures.split(64)]
        pictures = ((torch.cat(decoded).clamp(-1, 1) + 1) * 127.5).round().byte()
    images = [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pictures]
    asked = [{name: getattr(scene, name) for name in ATTRIBUTES} for scene in corpus.scenes]
    return judge.verdict(images, asked).per_attribute


def _require(what: str, accuracy: dict[str, float], goal: float) -> None:
    log.info("%s on held-out renders: %s", what, accuracy)
    low = {name: value for name, value in accuracy.items() if value < goal}
    if low:
        raise SystemExit(f"{what} reads {low} of held-out renders, {goal} of each attribute is needed")


def _save_half(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    half = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(half, temporary, metadata))


def finish_judge(work: Path, weights: Path) -> Judge:
    """The averaged judge in half precision, as it will be used; refused below its goal."""
    network = JudgeNetwork()
    network.load_state_dict(read_saved(work / "judge" / "average.pt"))
    _save_half(network.state_dict(), weights / "judge.safetensors", {})
    judge = Judge(weights / "judge.safetensors")
    _require("the judge", held_out_accuracy(judge, None), JUDGE_GOAL)
    return judge


def finish_autoencoder(work: Path, judge: Judge) -> AutoencoderKL:
    """The averaged VAE with standardised latents; refused below its goal."""
    vae = new_autoencoder()
    vae.load_state_dict(read_saved(work / "autoencoder" / "average.pt"))
    vae.eval().requires_grad_(False)
    pictures = make_corpus(2000, CORPUS_SEED + 4, VALUES).pictures
    standardise(vae, to_pixels(pictures), LATENT_SCALE)
    _require("the VAE's round trip", held_out_accuracy(judge, vae), VAE_GOAL)
    return vae


def assemble(work: Path, vae: AutoencoderKL, weights: Path) -> None:
    """Write checkpoint, ``.yaml`` and the record of the training."""
    text_encoder, unet = new_text_encoder(), new_unet()
    average = read_saved(work / "denoiser" / "average.pt")
    for name, module in (("text_encoder", text_encoder), ("unet", unet)):
        module.load_state_dict(
            {k.removeprefix(name + "."): v for k, v in average.items() if k.startswith(name + ".")}
        )
    state = to_ldm(unet.state_dict(), vae.state_dict(), text_encoder.state_dict())
    heads = text_encoder.config.num_attention_heads
    _save_half(state, weights / "tinyworld.safetensors", {CLIP_HEADS: str(heads)})
    config = ldm_config(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        heads=unet.config.attention_head_dim,
        image_size=unet.config.sample_size,
    )
    write_text(weights / "tinyworld.yaml", ldm_yaml(config))
    write_text(weights / "training.json", json.dumps(_record(work), indent=1) + "\n")


def _record(work: Path) -> dict[str, Any]:
    """Steps, seconds and the loss curve of each stage, from its log."""
    record: dict[str, Any] = {}
    for stage in ("judge", "autoencoder", "denoiser"):
        lines = [json.loads(line) for line in (work / stage / "log.jsonl").read_text().splitlines()]
        curve = [[line["step"], line["loss"]] for line in lines if line["step"] % 500 == 0]
        record[stage] = {"steps": lines[-1]["step"], "seconds": lines[-1]["seconds"], "loss": curve}
    return record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path(".ti-studio") / "tinyworld", help="folder for saved states"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder for the result")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo", timeout=timedelta(hours=3))
    chief = not dist.is_initialized() or dist.get_rank() == 0
    args.weights.mkdir(parents=True, exist_ok=True)

    train_judge(args.work, device=args.device)
    train_autoencoder(args.work, device=args.device)
    if chief:
        vae = finish_autoencoder(args.work, finish_judge(args.work, args.weights))
        prepare(args.work, vae)
    if dist.is_initialized():
        dist.barrier()
    train_denoiser(args.work, device=args.device)
    if chief:
        assemble(args.work, vae, args.weights)


if __name__ == "__main__":
    main()
