from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job, TrainState


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job.reserve(tmp_path, "cat")
    job.begin({"settings": {"steps": 3}})
    return job


def test_jobs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    ids = {Job.reserve(tmp_path, "cat").id for _ in range(5)}
    assert len(ids) == 5


def test_a_job_is_found_by_its_id_from_when_it_began_to_ever_after(tmp_path: Path, job: Job) -> None:
    assert Job.open(tmp_path, job.id) == job
    assert job.settings() == {"settings": {"steps": 3}}
    waiting = Job.reserve(tmp_path, "dog")
    assert Job.known(tmp_path) == [job.id]
    waiting.discard()
    job.discard()
    assert not waiting.folder.exists() and Job.known(tmp_path) == [job.id]


@pytest.mark.parametrize("name", ["..", "../jobs", "/", "", "./"])
def test_no_name_leaves_the_folder_of_jobs(tmp_path: Path, job: Job, name: str) -> None:
    inner = tmp_path / "jobs"
    inner.mkdir()
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(BadInput, match="no job"):
        Job.open(inner, name + "/" + job.id if name == ".." else name)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_damaged_settings_are_told_by_their_file(job: Job, content: bytes) -> None:
    (job.folder / "settings.json").write_bytes(content)
    with pytest.raises(BadInput, match="remove the job's folder"):
        job.settings()


def test_an_unknown_job_is_refused_with_those_that_exist(tmp_path: Path, job: Job) -> None:
    with pytest.raises(BadInput, match=job.id):
        Job.open(tmp_path, "nope")


def test_state_comes_back_to_the_bit(job: Job) -> None:
    assert job.load_state() is None
    state = TrainState(
        7,
        {"clip_l": torch.randn(2, 3), "clip_g": torch.randn(2, 5)},
        {"clip_l": {"step": torch.tensor(7.0), "exp_avg": torch.randn(2, 3)}},
    )
    job.save_state(state)
    loaded = job.load_state()
    assert loaded is not None
    assert loaded.step == 7
    assert all(torch.equal(loaded.parameters[name], value) for name, value in state.parameters.items())
    assert torch.equal(loaded.optimizer["clip_l"]["step"], torch.tensor(7.0))
    assert torch.equal(loaded.optimizer["clip_l"]["exp_avg"], state.optimizer["clip_l"]["exp_avg"])


def test_a_damaged_state_is_said(job: Job) -> None:
    (job.folder / "state.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(BadInput, match="not a saved state"):
        job.load_state()


def test_losses_after_the_saved_step_are_dropped_and_a_cut_line_too(job: Job) -> None:
    job.append_losses([(1, 0.5, 0.1), (2, 0.25, 0.1)])
    job.append_losses([(3, 0.125, 0.01)])
    with (job.folder / "loss.csv").open("a") as file:
        file.write("4,0.0")  # a kill in mid-line
    assert [row[0] for row in job.losses()] == [1, 2, 3]
    job.forget_losses_after(2)
    assert job.losses() == [(1, 0.5, 0.1), (2, 0.25, 0.1)]
