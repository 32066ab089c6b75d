"""Networks as a method of training, on the built-in checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job, TrainState
from lib_ti.core.loop import Loop
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.data.samples import LatentCache, TrainingSet
from lib_ti.formats.embedding import read_embedding, read_embeddings
from lib_ti.formats.safetensors_file import read_tensors
from lib_ti.hosts.base import Economy
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under, start
from lib_ti.methods.kind import Product
from lib_ti.methods.lora import NetworkTraining, initial_word, notices, others_of, preflight, words_of
from lib_ti.methods.network_plan import base_networks, layer_share, plan_sizes, up_ratio
from lib_ti.methods.registry import read_settings
from lib_ti.networks.attach import attach
from lib_ti.networks.files import read_network, write_network
from lib_ti.networks.layers import Layer, find_layers

UNET_LINEAR, UNET_ALL, TEXT = 192, 278, 24  # layers of the built-in model
CAPTIONS = ["a red star, [name]", "a blue heart", "[name] on white", "small, left"]
# All that is left to chance, at once.
CHANCE = {"dropout": 0.1, "rank_dropout": 0.2, "module_dropout": 0.1, "clip": "norm"}


def settings_of(method: str = "lora", **told: Any) -> Any:
    usual = {"name": "zqx-net", "batch_size": 2, "accumulation": 2, "rank": 4, "alpha": 4.0, "steps": 6}
    return read_settings({"method": method, **usual, **told})


@pytest.fixture
def lent(host: StandaloneHost) -> Iterator[StandaloneHost]:
    with host.lend():
        yield host


def make(host: StandaloneHost, settings: Any) -> NetworkTraining:
    generator = torch.Generator().manual_seed(3)
    cache = LatentCache(torch.randn(4, 1, 4, 8, 8, generator=generator), torch.full((4, 1, 4, 8, 8), 0.1))
    samples = TrainingSet(cache, CAPTIONS, ["[filewords]"], settings.trigger, settings)
    return NetworkTraining(host, settings, samples, initial_word(host, settings))


def train(
    host: StandaloneHost, settings: Any, steps: int, state: TrainState | None = None
) -> tuple[NetworkTraining, Loop]:
    method = make(host, settings)
    loop = Loop(
        method,
        parse_learning_rate("0.01"),
        state,
        settings,
        vectors=list(method.vectors),
        shares=method.shares(),
        after_step=method.after_step,
    )
    with method.attached():
        loop.run(steps, due=lambda step: False, on_progress=lambda p: None, stopped=lambda: False)
    return method, loop


@torch.no_grad()
def answer_of(host: StandaloneHost) -> torch.Tensor:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = host.encode_prompts(["a red star", "a blue heart"])
    return host.predict_noise(latents, torch.tensor([100, 700]), condition)


def bytes_of(host: StandaloneHost) -> dict[str, torch.Tensor]:
    return {f"{p}.{k}": v.clone() for p, model in host.parts().items() for k, v in model.state_dict().items()}


class TestPlan:
    @pytest.mark.parametrize(
        ("method", "told", "unet", "text"),
        [
            ("lora", {}, UNET_LINEAR, TEXT),
            ("lora", {"train_parts": "unet"}, UNET_LINEAR, 0),
            ("lora", {"train_parts": "text"}, 0, TEXT),
            ("c3lier", {}, UNET_ALL, TEXT),
            ("dylora", {"conv_rank": 4, "unit": 2}, UNET_ALL, TEXT),
            # The middle block has one transformer of twelve layers.
            ("lora", {"mid_lr_weight": "0"}, UNET_LINEAR - 12, TEXT),
            ("lora", {"down_lr_weight": "zeros", "up_lr_weight": "zeros"}, 12, TEXT),
            ("lora", {"block_dims": ",".join(["0"] * 12 + ["2"] + ["0"] * 12)}, 12, TEXT),
        ],
    )
    def test_layers_that_learn(
        self, host: StandaloneHost, method: str, told: dict[str, Any], unet: int, text: int
    ) -> None:
        layers = find_layers(host.parts(), "sd1")
        plan = plan_sizes(layers, settings_of(method, **told), "sd1")
        in_unet = sum(layers[name].part == "unet" for name in plan)
        assert (in_unet, len(plan) - in_unet) == (unet, text)

    def test_sizes_and_rates_by_block(self, host: StandaloneHost) -> None:
        blocks = [str(block + 1) for block in range(25)]
        told = {
            "block_dims": ",".join(blocks),
            "conv_block_dims": ",".join(blocks[::-1]),
            "conv_block_alphas": ",".join(["3"] * 25),
            "down_lr_weight": "linear",
            "unet_rate": 2.0,
            "text_rate": 0.25,
        }
        settings = settings_of("c3lier", **told)
        layers = find_layers(host.parts(), "sd1")
        plan = plan_sizes(layers, settings, "sd1")
        for name, size in plan.items():
            layer = layers[name]
            if layer.block is None:
                assert (size.rank, size.alpha) == (4, 4) and layer_share(layer, settings, "sd1") == 0.25
            elif layer.kind == "conv":
                assert (size.rank, size.alpha) == (25 - layer.block, 3)
            else:
                assert (size.rank, size.alpha) == (layer.block + 1, 4)
        early = layers["lora_unet_down_blocks_0_resnets_0_conv1"]
        assert early.block == 1 and layer_share(early, settings, "sd1") == pytest.approx(2 / 11)

    def test_each_part_has_a_rate_of_its_own(self) -> None:
        def rates(part: Any, **told: Any) -> tuple[float, float]:
            block = 1 if part == "unet" else None
            layer = Layer("x", part, "linear", "lierla", block, torch.nn.Linear(2, 2))
            return layer_share(layer, settings_of(**told), "sdxl"), up_ratio(layer, settings_of(**told))

        told = {"unet_rate": 2.0, "text_rate": 0.25, "up_rate": 16.0}
        assert [rates(part, **told) for part in ("unet", "te1", "te2")] == [(2, 16), (0.25, 16), (0.25, 16)]
        told |= {"second_text_rate": 0.5, "unet_up_rate": 8.0, "text_up_rate": 4.0}
        assert [rates(part, **told) for part in ("unet", "te1", "te2")] == [(2, 8), (0.25, 4), (0.5, 4)]

    def test_what_a_setting_does_otherwise_than_it_seems_is_said(self) -> None:
        attention = torch.nn.MultiheadAttention(4, 2)
        fused = Layer("x", "te", "linear", "lierla", None, attention, "in_proj_weight", None, attention)
        plain = Layer("y", "te", "linear", "lierla", None, torch.nn.Linear(2, 2))
        (said,) = notices([fused, plain], settings_of(dropout=0.1), "sd2")
        assert said.startswith("dropout does nothing in 1 layers of fused attention")
        assert not notices([plain], settings_of(dropout=0.1), "sd2")
        assert not notices([fused], settings_of(rank_dropout=0.1), "sd2")
        (said,) = notices([], settings_of(up_lr_weight="1,2"), "sd2")
        assert said.startswith("up-lr-weight: 2 of 12 numbers")

    @pytest.mark.parametrize(
        ("method", "told", "why"),
        [
            ("dylora", {"unit": 3}, "unit: got 3"),
            ("dylora", {"conv_rank": 2}, "conv-rank: got 2"),
            ("lora", {"dim_from_weights": True}, "name it with network-weights"),
            ("lora", {"word_vectors": 2}, "give one with trigger-word"),
            ("lora", {"word_vectors": 2, "trigger_word": "zqx.1"}, "trigger-word: got 'zqx.1'"),
        ],
    )
    def test_a_contradiction_is_refused(self, method: str, told: dict[str, Any], why: str) -> None:
        with pytest.raises(BadInput, match=why):
            words_of(settings_of(method, **told))

    def test_what_the_model_tells_is_refused_before_anything_is_written(self, lent: StandaloneHost) -> None:
        for told, why in (
            ({"block_dims": "1,2"}, "block-dims: got"),
            ({"train_parts": "unet", "block_dims": ",".join(["0"] * 25)}, "no layer to train"),
            ({"network_weights": "/nowhere.safetensors"}, "cannot be read"),
            ({"base_weights": "/nowhere.safetensors:0.5"}, "cannot be read"),
        ):
            with pytest.raises(BadInput, match=why):
                preflight(lent, settings_of(**told), ["[filewords]"], CAPTIONS)


@pytest.mark.parametrize("method", ["lora", "c3lier", "dylora"])
def test_an_untrained_network_changes_nothing(lent: StandaloneHost, method: str) -> None:
    before = answer_of(lent)
    with make(lent, settings_of(method)).attached():
        assert torch.equal(answer_of(lent), before)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("lora", {}),
        ("c3lier", {"max_norm": 0.5, "up_rate": 4.0, "trigger_word": "zqx", "word_vectors": 2, **CHANCE}),
        ("dylora", {"unit": 2, "keep_lower": True, "train_parts": "unet", **CHANCE}),
    ],
)
def test_six_steps_equal_three_and_three_and_leave_the_model_as_it_was(
    lent: StandaloneHost, tmp_path: Path, method: str, told: dict[str, Any]
) -> None:
    settings, before, answered = settings_of(method, **told), bytes_of(lent), answer_of(lent)
    whole, _ = train(lent, settings, 6)
    job = Job(tmp_path)
    _, half = train(lent, settings, 3)
    job.save_state(half.snapshot())
    resumed, _ = train(lent, settings, 6, job.load_state())
    for name, value in whole.parameters().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, resumed.parameters()[name]), name
    start = make(lent, settings).parameters()
    assert sum(not torch.equal(value, start[name]) for name, value in whole.parameters().items()) > 100
    assert all(torch.equal(value, before[name]) for name, value in bytes_of(lent).items())
    frozen = [p for model in lent.parts().values() for p in model.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in frozen)
    lent.set_embeddings({})
    assert torch.equal(answer_of(lent), answered)


def test_what_is_computed_again_for_the_backward_pass_leaves_out_the_same(lent: StandaloneHost) -> None:
    gradients = []
    for checkpointing in (False, True):
        method = make(lent, settings_of("c3lier", **CHANCE))
        with torch.no_grad():
            for update in method.updates.values():
                update.up.fill_(0.01)
        lent.economise(Economy(checkpointing=checkpointing))
        with method.attached():
            losses = method.losses(method.draw(1)[0])
            gradients.append(torch.autograd.grad(losses.sum(), list(method.parameters().values())))
    lent.economise(Economy())
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def metadata_after(method: NetworkTraining, step: int, folder: Path, job: str = "") -> dict[str, str]:
    (write,) = method.export(method.parameters(), step, job)
    write(folder / "net.safetensors")
    return read_tensors(folder / "net.safetensors")[1]


class TestFiles:
    def test_a_file_answers_as_the_training_did(self, lent: StandaloneHost, tmp_path: Path) -> None:
        settings = settings_of("c3lier", save_precision="fp32")
        method, loop = train(lent, settings, 3)
        with method.attached():
            expected = answer_of(lent)
        (write,) = method.export(loop.result(), 3, "a-job")
        write(tmp_path / "net.safetensors")
        assert not torch.allclose(answer_of(lent), expected, atol=1e-3)
        with attach(lent, tmp_path / "net.safetensors"):
            torch.testing.assert_close(answer_of(lent), expected, rtol=1e-5, atol=1e-5)
        _, metadata = read_tensors(tmp_path / "net.safetensors")
        assert (metadata["job"], metadata["ss_steps"], metadata["ss_network_dim"]) == ("a-job", "3", "4")
        assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "4"}
        assert metadata["ss_base_model_version"] == "sd_v1" and "sshs_model_hash" in metadata

    def test_its_metadata_say_how_it_was_trained(self, lent: StandaloneHost, tmp_path: Path) -> None:
        told = {"warmup": "3", "learning_rate": "1e-4", "unet_rate": 2.0, "text_rate": 0.5, "steps": 7}
        settings = settings_of(**told, training_comment="for my cat", width=48, height=64, epochs=7)
        method = make(lent, settings)
        said = metadata_after(method, 4, tmp_path)
        rates = [float(said[f"ss_{name}"]) for name in ("learning_rate", "unet_lr", "text_encoder_lr")]
        assert rates == pytest.approx([1e-4, 2e-4, 5e-5])
        expected = {
            "ss_training_comment": "for my cat",
            "ss_resolution": "(48, 64)",
            "ss_num_epochs": "7",
            "ss_epoch": "4",
            "ss_num_batches_per_epoch": "2",
            "ss_batch_size_per_device": "2",
            "ss_total_batch_size": "4",
            "ss_gradient_accumulation_steps": "2",
            "ss_num_train_images": "4",
            "ss_num_reg_images": "0",
        }
        assert {key: said[key] for key in expected} == expected
        assert float(said["ss_training_started_at"]) <= float(said["ss_training_finished_at"])
        assert json.loads(said["ss_tag_frequency"])[""]["a blue heart"] == 1
        quiet = metadata_after(make(lent, settings_of(picture_metadata=False)), 4, tmp_path)
        of_pictures = {f"ss_num_{what}_images" for what in ("train", "reg", "validation")}
        of_pictures |= {"ss_dataset_dirs", "ss_reg_dataset_dirs", "ss_tag_frequency"}
        assert said.keys() - quiet.keys() == of_pictures
        assert not any(caption in text for caption in CAPTIONS for text in quiet.values())

    def test_only_times_and_the_id_differ_between_two_alike(
        self, lent: StandaloneHost, tmp_path: Path
    ) -> None:
        one, two = (metadata_after(make(lent, settings_of()), 1, tmp_path, job) for job in ("a", "b"))
        times = {"modelspec.date", "ss_training_started_at", "ss_training_finished_at", "sshs_legacy_hash"}
        differing = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
        assert differing - times == {"job", "ss_session_id"}

    def test_diffusers_reads_it_as_it_is(self, lent: StandaloneHost, tmp_path: Path) -> None:
        pytest.importorskip("peft")
        from diffusers import StableDiffusionPipeline

        settings = settings_of("c3lier", save_precision="fp32", alpha=2.0)
        method, loop = train(lent, settings, 3)
        with method.attached():
            expected = answer_of(lent)
        (write,) = method.export(loop.result(), 3, "")
        write(tmp_path / "net.safetensors")
        state, alphas = StableDiffusionPipeline.lora_state_dict(tmp_path, weight_name="net.safetensors")
        models = lent.parts()
        try:
            StableDiffusionPipeline.load_lora_into_unet(state, alphas, models["unet"], adapter_name="zqx")
            StableDiffusionPipeline.load_lora_into_text_encoder(
                state, alphas, models["te"], prefix="text_encoder", adapter_name="zqx"
            )
            torch.testing.assert_close(answer_of(lent), expected, rtol=1e-3, atol=1e-3)
        finally:
            from peft.tuners.tuners_utils import BaseTunerLayer

            for model in models.values():
                for name, module in list(model.named_modules()):
                    if isinstance(module, BaseTunerLayer):
                        parent, _, last = name.rpartition(".")
                        setattr(model.get_submodule(parent), last, module.get_base_layer())
                model.__dict__.pop("peft_config", None)

    def test_a_word_and_its_network_lie_apart_and_in_one_bundle(
        self, lent: StandaloneHost, tmp_path: Path
    ) -> None:
        settings = settings_of(trigger_word="zqx", word_vectors=2, init_text="star heart", train_parts="unet")
        method, loop = train(lent, settings, 2)
        files = [tmp_path / name for name in ("zqx.safetensors", "net.safetensors", "bundle.safetensors")]
        for write, file in zip(method.export(loop.result(), 2, ""), files, strict=True):
            write(file)
        word, network, bundle = files
        vectors = read_embedding(word).vectors["clip_l"]
        assert torch.equal(vectors, method.vectors["clip_l"]) and vectors.shape == (2, 64)
        (inside,) = read_embeddings(bundle)
        assert inside.name == "zqx" and torch.equal(inside.vectors["clip_l"], vectors)
        alone, both = read_network(network), read_network(bundle)
        assert alone.updates.keys() == both.updates.keys() and both.embeddings == ("zqx",)
        # As AUTOMATIC1111's WebUI looks for it: the name ends at the first point.
        assert "bundle_emb.zqx.string_to_param.*" in read_tensors(bundle)[0]
        assert others_of(settings) == (Product("zqx-net", "network"), Product("zqx-net-bundle", "bundle"))


class TestGoingOn:
    def saved(self, host: StandaloneHost, file: Path, **told: Any) -> Path:
        method, loop = train(host, settings_of(save_precision="fp32", **told), 2)
        (write,) = method.export(loop.result(), 2, "")
        write(file)
        return file

    def test_it_begins_where_the_file_ends_at_any_alpha(self, lent: StandaloneHost, tmp_path: Path) -> None:
        file = self.saved(lent, tmp_path / "net.safetensors")
        with attach(lent, file):
            expected = answer_of(lent)
        for told in ({"alpha": 1.0}, {"rank": 16, "dim_from_weights": True}):
            method = make(lent, settings_of(network_weights=str(file), **told))
            with method.attached():
                torch.testing.assert_close(answer_of(lent), expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(BadInput, match=r"rank 4 in .*, the settings say 8.*dim-from-weights"):
            make(lent, settings_of(network_weights=str(file), rank=8))

    def test_what_of_the_file_has_no_place_is_said(self, lent: StandaloneHost, tmp_path: Path) -> None:
        def told(file: Path) -> str:
            settings = settings_of(train_parts="unet", network_weights=str(file))
            return " ".join(preflight(lent, settings, ["a [name]"], []))

        both = told(self.saved(lent, tmp_path / "both.safetensors"))
        assert f"{TEXT} of the {UNET_LINEAR + TEXT} layers in network-weights are not trained" in both
        assert "[name] stands for nothing" in both
        with pytest.raises(BadInput, match=f"none of its {TEXT} layers is trained here"):
            told(self.saved(lent, tmp_path / "text.safetensors", train_parts="text"))

    def test_another_familys_file_is_refused(self, lent: StandaloneHost, tmp_path: Path) -> None:
        file = tmp_path / "xl.safetensors"
        tensors = {
            "lora_te2_x.lora_down.weight": torch.ones(1, 3),
            "lora_te2_x.lora_up.weight": torch.ones(3, 1),
        }
        write_network(file, tensors, {})
        for told in ({"network_weights": str(file)}, {"base_weights": str(file)}):
            with pytest.raises(BadInput, match="made for sdxl, this model is sd1"):
                preflight(lent, settings_of(**told), ["[filewords]"], CAPTIONS)

    def test_layers_come_from_the_file_if_asked(self, lent: StandaloneHost, tmp_path: Path) -> None:
        file = self.saved(lent, tmp_path / "net.safetensors", train_parts="text")
        told = {"network_weights": str(file), "dim_from_weights": True}
        assert len(make(lent, settings_of(**told)).updates) == TEXT
        assert len(make(lent, settings_of(network_weights=str(file))).updates) == UNET_LINEAR + TEXT

    def test_a_difference_is_learned_on_top_of_another_network(
        self, lent: StandaloneHost, tmp_path: Path
    ) -> None:
        plain, file = answer_of(lent), self.saved(lent, tmp_path / "base.safetensors")
        with attach(lent, file, 0.5):
            expected = answer_of(lent)
        with make(lent, settings_of(base_weights=str(file), base_multiplier=0.5)).attached():
            torch.testing.assert_close(answer_of(lent), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(answer_of(lent), plain)
        other = self.saved(lent, tmp_path / "other.safetensors", seed=2)
        with attach(lent, file, 0.5), attach(lent, other, -0.25):
            expected = answer_of(lent)
        both = settings_of(base_weights=f"{file} : .5\n\n{other}", base_multiplier=-0.25)
        with make(lent, both).attached():
            torch.testing.assert_close(answer_of(lent), expected, rtol=1e-6, atol=1e-6)

    def test_a_colon_with_a_number_is_a_multiplier(self) -> None:
        lines = "C:\\loras\\a.safetensors\nC:\\b.safetensors:0.5\n c.pt : -1e-2 \nd:1\ne.safetensors:x"
        found = [(str(file), number) for file, number in base_networks(settings_of(base_weights=lines))]
        files = ["C:\\loras\\a.safetensors", "C:\\b.safetensors", "c.pt", "d", "e.safetensors:x"]
        assert found == list(zip(files, (1.0, 0.5, -0.01, 1.0, 1.0), strict=True))


def test_prompts_are_encoded_once_where_only_the_unet_learns(
    lent: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    encode = lent.encode_prompts
    monkeypatch.setattr(lent, "encode_prompts", lambda prompts: asked.extend(prompts) or encode(prompts))
    train(lent, settings_of(train_parts="unet", shuffle_tags=True), 4)
    assert len(asked) == len(set(asked)) <= 6
    asked.clear()
    train(lent, settings_of(), 4)
    assert len(asked) == 16


def test_the_cost_of_remembering_is_no_other_answer(lent: StandaloneHost) -> None:
    method = make(lent, settings_of(train_parts="unet"))
    for prompts in (["a red star", "a blue heart"], ["star", ", ".join(["star"] * 80)]):
        torch.testing.assert_close(
            method._encode(prompts).hidden, lent.encode_prompts(prompts).hidden, rtol=1e-4, atol=1e-5
        )


def test_a_job_puts_its_network_where_prompts_find_it(
    host: StandaloneHost, tmp_path: Path, pictures: str
) -> None:
    told = {"images": pictures, "steps": 4, "copy_every": 2, "preview_every": 2, "preview_count": 1}
    settings = settings_of("dylora", accumulation=1, preview_steps=2, **told)
    events: list[Any] = []
    outcome = start(
        host, settings, folders=folders_under(tmp_path), model="builtin", report=events.append,
        stopped=lambda: False,
    )  # fmt: skip
    file = tmp_path / "loras" / "zqx-net.safetensors"
    assert outcome.files == {Product("zqx-net", "network"): file} and outcome.vectors == []
    assert outcome.as_json()["network"] == str(file) and outcome.as_json()["embedding"] is None
    assert sorted(path.name for path in outcome.job.copies.rglob("*.safetensors")) == [
        "zqx-net-000002.safetensors",
        "zqx-net-000004.safetensors",
    ]
    assert len(outcome.job.previews()) == 2
    assert len(read_network(file).updates) == UNET_LINEAR + TEXT
    with pytest.raises(BadInput, match=r"zqx-net.safetensors exists"):
        start(host, settings, folders=folders_under(tmp_path), model="", report=print, stopped=lambda: True)
