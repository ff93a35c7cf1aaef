"""A pack in one file, and packs that go to the Hub and come back; the Hub is a local folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from prompt_files import learner_state, small_clip, write_prompts
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from headclip_med.base.errors import HeadclipError, ModelError
from headclip_med.base.files import sha256_file
from headclip_med.cli.main import app
from headclip_med.models.catalogue import model_info
from headclip_med.models.convert import convert_prompts, read_prompts
from headclip_med.models.load import load_model
from headclip_med.models.new_pack import write_pack
from headclip_med.models.pack import Pack, builtin_packs, is_pack, load_pack
from headclip_med.models.share import cached_pack, fetch_pack, pack_to_file, parse_hub_name, push_pack

DINO = "dinov2-vits14-synthetic"  # a built-in pack without a tower of its own


@pytest.fixture(scope="module")
def prompt_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack for a CLIP tower that no hub has, without a tower of its own."""
    folder = tmp_path_factory.mktemp("prompt")
    built = small_clip()
    made = convert_prompts(read_prompts(write_prompts(folder / "p.pth", learner_state(built))), built, name="prompts")
    write_pack(folder / "pack", made)
    return folder / "pack"


class FakeHub:
    """A Hub and a cache in two folders; without ``online`` nothing can be reached."""

    def __init__(self, folder: Path) -> None:
        self.remote, self.cache, self.online = folder / "remote", folder / "cache", True
        self.asked: list[str] = []
        self.created: list[tuple[str, bool]] = []
        self.tokens: list[str | None] = []

    def snapshot_download(
        self, repo: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        name = f"{repo}@{revision or 'main'}"
        cached = self.cache / name
        if local_files_only:
            if not cached.is_dir():
                raise LocalEntryNotFoundError("not cached")
            return str(cached)
        self.asked.append(name)
        if not self.online:
            raise OSError("no route to host\nsecond line")
        shutil.rmtree(cached, ignore_errors=True)
        cached.mkdir(parents=True)
        for file in (self.remote / repo).iterdir():
            if file.name in allow_patterns:
                shutil.copyfile(file, cached / file.name)
        return str(cached)

    def api(self, token: str | None = None) -> FakeHub:
        self.tokens.append(token)
        return self

    def create_repo(self, repo: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert (repo_type, exist_ok) == ("model", True)
        if not self.online:
            raise OSError("no route to host\nsecond line")
        self.created.append((repo, private))

    def upload_folder(
        self, *, repo_id: str, repo_type: str, folder_path: Path, allow_patterns: list[str], commit_message: str
    ) -> None:
        assert repo_type == "model"
        assert commit_message
        (self.remote / repo_id).mkdir(parents=True, exist_ok=True)
        for file in folder_path.iterdir():
            assert file.name in allow_patterns
            shutil.copyfile(file, self.remote / repo_id / file.name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    return fake


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def _same(one: Pack, other: Pack) -> bool:
    same = one.tensors.keys() == other.tensors.keys()
    return same and all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)


def test_a_pack_in_one_file_is_the_pack(prompt_pack: Path, tmp_path: Path) -> None:
    file = pack_to_file(prompt_pack, tmp_path / "new" / "mine.safetensors")
    folder = load_pack(prompt_pack)
    for source in (file, file.with_suffix(".json")):
        assert is_pack(source)
        pack = load_pack(source)
        assert pack.record == folder.record
        assert pack.sha256 == sha256_file(file)
        assert _same(pack, folder)
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()["headclip_med.pack"]
    assert header == file.with_suffix(".json").read_text() == (prompt_pack / "pack.json").read_text()
    assert json.loads(header)["name"] == "prompts"
    assert load_pack(prompt_pack / "pack.json").sha256 == folder.sha256


def test_a_pack_in_one_file_runs_like_its_folder(prompt_pack: Path, tmp_path: Path) -> None:
    """The built-in pack for DINOv2, on random weights of that architecture."""
    vit = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=518)
    save_file({key: value.half().contiguous() for key, value in vit.state_dict().items()}, tmp_path / "v.safetensors")
    file = pack_to_file(builtin_packs()[DINO], tmp_path / "dino.safetensors")
    models = [load_model(name, weights=tmp_path / "v.safetensors") for name in (DINO, str(file))]
    classes = [model.pack.class_features(model.built.tower) for model in models if model.pack]
    assert torch.equal(*(one.patch[next(iter(one.patch))] for one in classes if one))
    assert models[1].name == DINO
    assert models[1].provenance()["pack_sha256"] == sha256_file(file)


def test_a_weight_file_is_not_taken_for_a_pack(prompt_pack: Path, tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "weights.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"x")
    for file in ("weights.safetensors", "damaged.safetensors", "gone.safetensors", "gone.json"):
        assert not is_pack(tmp_path / file)
    assert not is_pack(prompt_pack / "pack.safetensors")
    with pytest.raises(ModelError, match=r"must have its record in the header .* given: weights\.safetensors"):
        load_pack(tmp_path / "weights.safetensors")


def test_two_files_that_disagree_are_refused(prompt_pack: Path, tmp_path: Path) -> None:
    file = pack_to_file(prompt_pack, tmp_path / "mine.safetensors")
    beside = file.with_suffix(".json")
    beside.write_text(beside.read_text().replace('"prompts"', '"edited"'))
    with pytest.raises(ModelError, match=r"mine\.json and the header of mine\.safetensors must say the same"):
        load_pack(beside)
    assert load_pack(file).record.name == "prompts", "the header is what counts"
    beside.write_text("{}")
    with pytest.raises(ModelError, match=r"The record of mine\.json must follow the format headclip_med/1"):
        load_pack(beside)
    file.unlink()
    with pytest.raises(ModelError, match=r"must lie beside mine\.json; given: no mine\.safetensors"):
        load_pack(beside)


def test_a_pack_with_its_own_tower_is_no_single_file(tiny_pack: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny-random, with its tower in tower\.safetensors\. Share its folder"):
        pack_to_file(tiny_pack, tmp_path / "x.safetensors")
    text = (tiny_pack / "pack.json").read_text()
    save_file(load_file(tiny_pack / "pack.safetensors"), tmp_path / "x.safetensors", {"headclip_med.pack": text})
    with pytest.raises(ModelError, match="must not carry a tower of its own"):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["x.pt", "pack.safetensors", "x"])
def test_a_single_file_has_a_name_of_its_own(prompt_pack: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(HeadclipError, match=r"NAME\.safetensors of its own"):
        pack_to_file(prompt_pack, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_pack_goes_to_the_hub_and_comes_back(tiny_pack: Path, tmp_path: Path, hub: FakeHub) -> None:
    folder = shutil.copytree(tiny_pack, tmp_path / "own")
    (folder / "README.md").write_text("# A card\n")
    (folder / "checkpoint.pt").write_bytes(b"private")
    assert push_pack(folder, "lab/tiny", "secret", private=True) == "hf-pack:lab/tiny"
    assert (hub.created, hub.tokens) == ([("lab/tiny", True)], ["secret"])
    uploaded = sorted(path.name for path in (hub.remote / "lab" / "tiny").iterdir())
    assert uploaded == ["README.md", "pack.json", "pack.safetensors", "tower.safetensors"]
    model = load_model("hf-pack:lab/tiny")
    assert model.name == "tiny-random"
    assert model.warnings == ()
    assert model.pack is not None
    assert _same(model.pack, load_pack(folder))
    assert model_info("hf-pack:lab/tiny").card == "# A card\n"


def test_a_pack_made_on_a_local_file_asks_for_its_weights(prompt_pack: Path) -> None:
    with pytest.raises(
        ModelError, match=r"weights of the tower of prompts must be given; given: none for small\..*--weights"
    ):
        load_model(prompt_pack)


def test_a_cached_pack_needs_no_hub(prompt_pack: Path, hub: FakeHub) -> None:
    push_pack(prompt_pack, "lab/prompts")
    first = fetch_pack("hf-pack:lab/prompts")
    hub.online = False
    assert fetch_pack("hf-pack:lab/prompts") == first == cached_pack("hf-pack:lab/prompts")
    assert hub.asked == ["lab/prompts@main"]
    with pytest.raises(ModelError, match=r"must be in the cache or on a Hub .*no route to host") as refused:
        fetch_pack("hf-pack:lab/prompts", refresh=True)
    assert "second line" not in str(refused.value)


def test_a_revision_is_fetched_as_named(prompt_pack: Path, hub: FakeHub) -> None:
    push_pack(prompt_pack, "lab/prompts")
    fetch_pack("hf-pack:lab/prompts@v1.0")
    assert hub.asked == ["lab/prompts@v1.0"]


def test_a_half_downloaded_pack_is_fetched_again(prompt_pack: Path, hub: FakeHub) -> None:
    """Without its tensors a pack for a CLIP tower would silently fall back to prompts."""
    push_pack(prompt_pack, "lab/prompts")
    (fetch_pack("hf-pack:lab/prompts") / "pack.safetensors").unlink()
    assert cached_pack("hf-pack:lab/prompts") is None
    fetched, pushed = load_pack(fetch_pack("hf-pack:lab/prompts")).tensors, load_pack(prompt_pack).tensors
    assert pushed.keys() == fetched.keys() != set()
    assert all(torch.equal(fetched[name], tensor) for name, tensor in pushed.items())


def test_a_pack_without_tensors_travels_too(prompt_pack: Path, tmp_path: Path, hub: FakeHub) -> None:
    (tmp_path / "bare").mkdir()
    shutil.copyfile(prompt_pack / "pack.json", tmp_path / "bare" / "pack.json")
    push_pack(tmp_path / "bare", "lab/bare")
    assert load_pack(fetch_pack("hf-pack:lab/bare")).tensors == {}
    assert load_pack(pack_to_file(tmp_path / "bare", tmp_path / "bare.safetensors")).tensors == {}


def test_a_single_file_is_pushed_as_a_folder(prompt_pack: Path, tmp_path: Path, hub: FakeHub) -> None:
    push_pack(pack_to_file(prompt_pack, tmp_path / "one.safetensors"), "lab/one")
    assert sorted(path.name for path in (hub.remote / "lab" / "one").iterdir()) == ["pack.json", "pack.safetensors"]
    assert load_pack(fetch_pack("lab/one")).record == load_pack(prompt_pack).record


def test_a_repository_that_is_no_pack_is_refused(hub: FakeHub) -> None:
    (hub.remote / "lab" / "other").mkdir(parents=True)
    (hub.remote / "lab" / "other" / "README.md").write_text("text")
    with pytest.raises(ModelError, match=r"lab/other must hold pack\.json and pack\.safetensors; given: README\.md"):
        load_model("hf-pack:lab/other")


@pytest.mark.parametrize("name", ["", "lab", "lab/", "/x", "lab/x/y", "../x", "lab/..", "lab/x@", "lab/x y"])
def test_a_wrong_hub_name_is_refused_before_any_request(name: str, hub: FakeHub) -> None:
    with pytest.raises(ModelError, match="must be named ORG/NAME"):
        load_model(f"hf-pack:{name}")
    assert hub.asked == []


def test_names_and_revisions() -> None:
    assert parse_hub_name("hf-pack:lab/a.b-c") == ("lab/a.b-c", None)
    assert parse_hub_name("lab/a@refs/pr/1") == ("lab/a", "refs/pr/1")


def test_export_push_and_pull_from_the_command_line(prompt_pack: Path, tmp_path: Path, hub: FakeHub) -> None:
    file = tmp_path / "one.safetensors"
    exported = _run("export", prompt_pack, file)
    assert exported.exit_code == 0, exported.output
    assert exported.stdout == f"{file}\nsha256 {sha256_file(file)}\n"
    assert json.loads(_run("info", file, "--json").stdout)["sha256"] == {"pack": sha256_file(file)}
    pushed = _run("push", file, "lab/one", "--private")
    assert pushed.stdout == "hf-pack:lab/one: use it with `predict --model hf-pack:lab/one`\n"
    assert hub.created == [("lab/one", True)]
    unknown = _run("info", "hf-pack:lab/one")
    assert unknown.exit_code == 2
    assert "Run `headclip-med models pull hf-pack:lab/one`" in unknown.stderr
    pulled = json.loads(_run("pull", "hf-pack:lab/one", "--json").stdout)
    assert pulled == {
        "name": "prompts",
        "architecture": "small",  # no hub has this tower: the pack alone was pulled
        "source": "hf-pack:lab/one",
        "sha256": load_pack(fetch_pack("lab/one")).sha256,
    }
    assert _run("pull", "hf-pack:lab/one").exit_code == 0
    assert hub.asked == ["lab/one@main"] * 2, "pull asks the Hub each time"


def test_pull_of_a_pack_with_its_own_tower_reports_the_weights(tiny_pack: Path, hub: FakeHub) -> None:
    push_pack(tiny_pack, "lab/tiny")
    pulled = json.loads(_run("pull", "hf-pack:lab/tiny", "--json").stdout)
    assert pulled["name"] == "tiny-random"
    assert pulled["sha256"] == sha256_file(tiny_pack / "tower.safetensors")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("push", "PACK", "lab/x"), 1, "Pack lab/x must be writable on the Hub; given: no route to host"),
        (("push", "PACK", "lab/x@v1"), 2, "Leave the revision out"),
        (("push", "gone", "lab/x"), 2, "A pack must be a folder with a readable pack.json"),
        (("pull", "hf-pack:lab/x"), 1, "must be in the cache or on a Hub that can be reached"),
        (("export", "hf-pack:lab/x", "x.safetensors"), 2, "must be in the cache or on a Hub that can be reached"),
        (("export", "PACK", "x.json"), 2, "NAME.safetensors of its own"),
    ],
)
def test_what_cannot_be_done_is_one_message(
    prompt_pack: Path, hub: FakeHub, arguments: tuple[Any, ...], code: int, words: str
) -> None:
    hub.online = False
    ran = _run(*(prompt_pack if part == "PACK" else part for part in arguments))
    assert ran.exit_code == code
    assert ran.stdout == ""
    assert words in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.output
