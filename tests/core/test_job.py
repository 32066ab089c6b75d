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


def state_of(step: int) -> TrainState:
    return TrainState(step, {"clip_l": torch.full((2, 3), float(step))}, {})


def step_of(job: Job) -> int:
    """The step of the saved state, which must hold what ``state_of`` gave."""
    state = job.load_state()
    assert state is not None and bool((state.parameters["clip_l"] == state.step).all())
    return state.step


def test_a_last_state_that_cannot_be_read_gives_way_to_the_one_before(job: Job) -> None:
    for step in (4, 8):
        job.save_state(state_of(step))
    assert job.clear_up() is None and step_of(job) == 8
    whole = (job.folder / "state.safetensors").read_bytes()
    (job.folder / "state.safetensors").write_bytes(whole[:-4])
    assert "one before it, of step 4" in str(job.clear_up())
    assert step_of(job) == 4
    (job.folder / "state.safetensors").write_bytes(whole[:20])
    with pytest.raises(BadInput, match="start the job anew, with --weights from one of its copies"):
        job.clear_up() or job.load_state()


def test_a_kill_between_the_two_renames_of_a_save_loses_no_state(job: Job) -> None:
    job.save_state(state_of(4))
    (job.folder / "state.safetensors").rename(job.folder / "state.before.safetensors")
    (job.folder / ".state.safetensors.abc.tmp").write_bytes(b"half")
    (job.folder / "copies").mkdir()
    (job.folder / "copies" / ".cat-000004.safetensors.new").touch()
    assert job.clear_up() is None and step_of(job) == 4
    assert not list(job.folder.rglob(".*"))


def test_a_state_that_is_not_finite_is_none(job: Job) -> None:
    job.save_state(state_of(4))
    job.save_state(TrainState(8, {"clip_l": torch.tensor([[float("nan")]])}, {}))
    with pytest.raises(BadInput, match="not finite"):
        job.load_state()
    assert "step 4" in str(job.clear_up())


def test_one_at_a_time_works_on_a_job(job: Job) -> None:
    with job.alone(), pytest.raises(BadInput, match="at work in another process; wait"), job.alone():
        pass
    with job.alone():
        pass


def test_a_result_that_cannot_be_read_is_none(job: Job) -> None:
    job.write_result({"status": "done"})
    assert job.result() == {"status": "done"}
    (job.folder / "result.json").write_bytes(b"\0\0")
    assert job.result() is None


@pytest.mark.parametrize("cut", ["4,0.0", "4,0.05,", "4,0.05,1e-", "4,0.05,0.1", "\0\0\0\0\n", "4,0.05,x\n"])
def test_losses_after_the_saved_step_are_dropped_and_a_cut_line_too(job: Job, cut: str) -> None:
    job.append_losses([(1, 0.5, 0.1), (2, 0.25, 0.1)])
    job.append_losses([(3, 0.125, 0.01)])
    with (job.folder / "loss.csv").open("a") as file:
        file.write(cut)  # what a kill or a power cut leaves
    assert [row[0] for row in job.losses()] == [1, 2, 3]
    job.forget_losses_after(2)
    assert job.losses() == [(1, 0.5, 0.1), (2, 0.25, 0.1)]


def test_every_number_that_is_written_is_read_again(job: Job) -> None:
    rows = [(1, 1e-12, 5e-3), (2, 12345.0, 1e20), (3, float("inf"), -0.5)]
    job.append_losses(rows)
    assert job.losses() == rows
