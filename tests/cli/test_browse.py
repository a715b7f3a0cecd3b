"""``ls``, ``show``, ``data`` and ``doctor``: what they list is what there is."""

import json
import re
import shutil
import tomllib
from dataclasses import fields, replace

import numpy as np
import pytest

from robusteval.cells import plain
from robusteval.cli.cards import markdown_table, plain_cards
from robusteval.config import shipped
from robusteval.corruptions import CBAR, NAMES, TABLES
from robusteval.corruptions.published import DETERMINISTIC
from robusteval.data import DATASETS, load
from robusteval.method import Passes, Published
from robusteval.methods import METHODS
from robusteval.methods.pgd_at import PgdAT
from robusteval.methods.standard import Standard
from robusteval.models import MODELS
from robusteval.options import build
from robusteval.records import Measurement, Reason, Snapshot
from robusteval.runtime import Runtime
from robusteval.store import load_run, write_record
from robusteval.tasks import TASKS
from robusteval.training import Training
from robusteval.wording import as_json, as_row


def first_column(out: str) -> list[str]:
    return [line.split("  ")[0] for line in out.splitlines()[1:]]


@pytest.mark.parametrize(
    ("what", "names"),
    [("models", MODELS), ("datasets", DATASETS), ("suites", shipped()), ("methods", METHODS), ("tasks", TASKS)],
)
def test_ls_names_all_there_are(cli, what, names):
    code, out, err = cli("ls", what)
    assert (code, err) == (0, "")
    assert first_column(out)[: len(names)] == list(names)


def test_ls_corruptions_tells_the_fifteen_from_the_held_out(cli):
    lines = cli("ls", "corruptions").out.splitlines()
    assert sum(line.endswith("one of the 15") for line in lines) == 15
    assert sum(line.endswith("held out") for line in lines) == 4
    assert sum(line.endswith("CIFAR-10-C-bar") for line in lines) == 10
    assert sum(line.startswith("imagecorruptions:") and line.endswith("other") for line in lines) == 19
    assert lines[-1].startswith("note: imagecorruptions:* has the strengths of ImageNet-C")


def test_ls_methods_says_what_training_costs(cli):
    cost = {line.split()[0]: line.split()[1] for line in cli("ls", "methods").out.splitlines()[1:-1]}
    assert (cost["standard"], cost["advprop"], cost["entprop"]) == ("1.00", "5.33", "1.20")


PUBLISHED = Published("cifar10", "resnet18", {"label_smoothing": 0.1}, "clean", 0.9325, 0.0012, "A, Table 1")


def test_ls_methods_tells_the_teachers_cost_apart(cli, monkeypatch):
    class Taught(Standard):
        name = "taught"
        card = replace(Standard.card, authors="Solo", published=(PUBLISHED,))

        def teacher(self):
            return PgdAT()

        def passes(self):
            return Passes(train={"main": 1}, forward={"teacher": 1})

    monkeypatch.setattr("robusteval.methods.METHODS", {"taught": Taught})
    out = cli("ls", "methods").out
    assert out.splitlines()[1].split()[:2] == ["taught", "1.33+5.67"]
    assert "(Solo, CVPR 2016)" in out
    assert "| 1 | 1.33 + 5.67 (teacher) |" in cli("ls", "methods", "--markdown").out
    card = cli("ls", "methods", "--card", "taught").out
    assert re.search(r"^main +1 +0 +0$", card, re.MULTILINE)
    assert re.search(r"^teacher +0 +0 +1$", card, re.MULTILINE)
    published = r"^cifar10 +resnet18 +label_smoothing=0\.1 +clean +93\.25 \(sd 0\.12\) +A, Table 1$"
    assert re.search(published, card, re.MULTILINE)


@pytest.mark.parametrize("name", METHODS)
def test_a_card_tells_all_there_is_to_tell(cli, name):
    code, out, err = cli("ls", "methods", "--card", name)
    assert (code, err) == (0, "")
    method = METHODS[name]()
    card, law, told = method.card, method.passes(), " ".join(out.split())
    for text in (card.title, card.authors, card.venue, str(card.year), card.url, card.summary, *card.deviations):
        assert " ".join(text.split()) in told
    assert f"branches: {' '.join(method.branches)}; deployed: {method.deployed}" in out.splitlines()
    assert f"with the default options: {law.flops:.2f}" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if re.search(r"^\w+( +[\d.]+){3}$", line)}
    assert rows == {
        branch: [f"{part.get(branch, 0):g}" for part in (law.train, law.attack, law.forward)]
        for branch in (*law.train, *law.attack, *law.forward)
    }
    numbers = out.split("published:")[1].splitlines()[2:] if card.published else []
    for line, entry in zip(numbers, card.published, strict=True):
        assert line.startswith(f"{entry.dataset} ")
        assert f" {100 * entry.value:.2f} " in line
        assert line.endswith(entry.source)
    assert cli("show", name).out.startswith(out)


def test_cards_for_the_report_hold_all_options_of_published_numbers(monkeypatch):
    near = PUBLISHED._replace(options={"epsilon": "4/255", "steps": 10})
    card = replace(PgdAT.card, published=(near, near._replace(dataset="imagenet")))
    monkeypatch.setattr(PgdAT, "card", card)
    near, far = plain_cards()["pgd_at"]["published"]
    assert near["options"] == plain(PgdAT(epsilon=4 / 255, steps=10))
    assert (near["train_images"], near["test_images"], near["value"]) == (50_000, 10_000, 0.9325)
    assert (far["train_images"], far["test_images"]) == (None, None)


def test_published_options_are_options_and_values_are_fractions():
    for name, card in plain_cards().items():
        for entry in card["published"]:
            assert build(METHODS[name], entry["options"], name) is not None
            assert 0 < entry["value"] < 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("runs", "--card", "advprop"), "ls runs: --card is of methods"),
        (("tasks", "--markdown"), "ls tasks: --markdown is of methods"),
        (("tasks", "--tag", "x"), "ls tasks: --tag is of runs; allowed: robusteval ls runs --tag"),
        (("methods", "--markdown", "--json"), "--markdown and --json ask for different things"),
        (("methods", "--markdown", "--card", "advprop"), "ask for different things"),
        (("methods", "--card", "advprob"), "--card: unknown method 'advprob'; did you mean 'advprop'?"),
    ],
)
def test_what_is_no_card_is_told_in_a_line(cli, arguments, told):
    code, out, err = cli("ls", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_the_markdown_table_has_what_is_deployed_in_bold():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", markdown_table(), re.MULTILINE))
    assert list(rows) == list(METHODS)
    for name, kind in METHODS.items():
        method = kind()
        bold = re.findall(r"\*\*(\w+)\*\*", rows[name])
        assert bold == ([method.deployed] if len(method.branches) > 1 else [])
        assert rows[name].replace("**", "").split(", ") == list(method.branches)


def test_ls_suites_counts_cells(cli):
    quick = next(line for line in cli("ls", "suites").out.splitlines() if line.startswith("quick"))
    assert quick.split()[1] == "5"


HEAD = ["RUN", "STATUS", "LABEL", "DATA SET", "MODEL", "SEED", "AGE", "CLEAN", "TAGS", "JUDGED BY"]


def test_ls_runs(cli, finished):
    head, *rows = cli("ls", "runs", "--out", finished).out.splitlines()
    assert re.split(" {2,}", head) == HEAD
    for row, label, method in zip(rows, ("entprop [red]", "standard"), ("entprop", "standard"), strict=True):
        name, status, shown, dataset, model, seed, age, clean, judged = re.split(" {2,}", row)
        stored = load_run(finished / "runs" / name)
        (accuracy,) = (
            one.value for one in stored.tasks[0].measurements if one.where == {"branch": stored.run.deployed}
        )
        assert stored.run.method == method
        assert (status, shown, dataset, model, seed) == ("done", label, "cifar10-sample", "resnet8", "0")
        assert re.fullmatch(r"\d+ (s|min)", age)
        assert clean == f"{100 * accuracy:.1f} %"
        assert judged == "clean"
    head, told = cli("ls", "runs", "--out", "nowhere").out.splitlines()
    assert re.split(" {2,}", head) == HEAD
    assert told == "no runs that can be read in nowhere; `robusteval run --out DIR` makes some"
    assert cli("ls", "runs", "--out", "nowhere", "--json").out == "[]\n"


def test_ls_runs_shows_what_is_missing_as_missing(cli, finished, tmp_path):
    (source,) = finished.glob("runs/*standard*")
    folder = tmp_path / "out" / "runs" / source.name
    shutil.copytree(source, folder)
    run = load_run(folder).run
    provenance = run.provenance.model_copy(update={"created": "when?"})
    write_record(folder, "run.json", run.model_copy(update={"provenance": provenance}))
    task = load_run(folder).tasks[0]
    unknown = task.measurements[0].model_copy(update={"value": None, "low": None, "high": None, "note": "lost"})
    write_record(folder, f"tasks/{task.key}.json", task.model_copy(update={"measurements": (unknown,)}))
    row = re.split(" {2,}", cli("ls", "runs", "--out", tmp_path / "out").out.splitlines()[1])
    assert row[6:] == ["-", "-", "clean"]
    (entry,) = json.loads(cli("ls", "runs", "--out", tmp_path / "out", "--json").out)
    assert (entry["age_s"], entry["clean_accuracy"], entry["clean_n"]) == (None, None, 64)


def test_show_a_run_by_the_beginning_of_its_id(cli, finished):
    code, out, _ = cli("show", "cifar10-sample-resnet8-entprop", "--out", finished)
    assert code == 0
    assert "passes:      forward main=64 aux=12; backward main=64 aux=12" in out  # k = 0.2 of 32 images is 6, twice
    assert "status:      done" in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["clean", "clean"]


def test_show_a_run_tells_of_its_teacher_and_of_weights_kept_on_the_way(cli, finished, tmp_path):
    (source,) = finished.glob("runs/*entprop*")
    folder = tmp_path / "out" / "runs" / source.name
    shutil.copytree(source, folder)
    stored = load_run(folder)
    kept = Snapshot(epoch=1, weights_sha256="cd" * 32, cost=stored.run.cost)
    write_record(folder, "run.json", stored.run.model_copy(update={"teacher": "taught-it", "snapshots": (kept,)}))
    early = stored.tasks[0].model_copy(update={"epoch": 1, "key": "clean-early", "weights_sha256": "cd" * 32})
    write_record(folder, "tasks/clean-early.json", early)
    out = cli("show", source.name, "--out", tmp_path / "out").out
    assert "teacher:     taught-it\n" in out
    assert "snapshots:   epoch 1\n" in out
    assert ["epoch=1 branch=" in line for line in out.splitlines()[-4:]] == [False, False, True, True]


def test_show_a_run_says_why_a_number_is_doubted(cli, finished, tmp_path):
    (source,) = finished.glob("runs/*entprop*")
    folder = tmp_path / "out" / "runs" / source.name
    shutil.copytree(source, folder)
    (task,) = load_run(folder).tasks
    reason = Reason(name="black-box", evidence="3 of 9\x1b[31m images", text="The gradient misleads.")
    doubted = task.measurements[0].model_copy(update={"trust": "flagged", "reasons": (reason,)})
    write_record(folder, f"tasks/{task.key}.json", task.model_copy(update={"measurements": (doubted,)}))
    *_, number, why = cli("show", source.name, "--out", tmp_path / "out").out.splitlines()
    assert number == "clean accuracy (branch=main): flagged"
    assert why == "  doubt black-box: 3 of 9\ufffd[31m images. The gradient misleads."


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"value": 0.12345, "low": 0.1, "high": 0.2}, ("12.35 %", "10.00 %", "20.00 %")),
        ({"value": 0.123456, "low": -1.5, "high": 20.0, "unit": "number"}, ("0.1235", "-1.5", "20")),
        ({"value": 2.0, "unit": "number"}, ("2", "", "")),
        ({"value": None}, ("missing", "missing", "missing")),
    ],
)
def test_measurements_are_shown_in_their_unit(fields, shown):
    measurement = Measurement(task="probe", metric="m", n=5, where={"layer": "a"}, **fields)
    assert as_row(measurement) == ("probe", "m", *shown, "5", "layer=a")
    assert json.loads(as_json(measurement))["unit"] == fields.get("unit", "fraction")


def test_show_a_method(cli):
    code, out, _ = cli("show", "entprop")
    assert code == 0
    assert METHODS["entprop"].card.url in out
    k = "k = 0.2\n    allowed: a number above 0 to 1\n    share of the batch that is selected, by entropy of the main"
    assert k in out
    assert 'step_size = "1/255"\n    allowed: a number or a fraction such as "8/255", above 0\n    alpha.' in out
    assert 'mix = "mixup"\n    allowed: "mixup" or "cutmix" or "none"\n' in out


def blocks(out: str) -> dict[str, list[str]]:
    """Option -> its default and its two or more lines."""
    found: dict[str, list[str]] = {}
    for line in out.splitlines():
        if match := re.match(r"(\w+) = (.*)", line):
            block = found.setdefault(match[1], [match[2]])
        elif line.startswith("    "):
            block.append(line.strip())
    return found


@pytest.mark.parametrize("name", ["training", *METHODS, *TASKS])
def test_every_option_is_shown_with_a_default_that_a_suite_may_hold_and_a_meaning(cli, name):
    cls = Training if name == "training" else (METHODS | TASKS)[name]
    code, out, err = cli("show", name)
    assert (code, err) == (0, "")
    shown = blocks(out)
    assert list(shown) == [field.name for field in fields(cls)]
    assert all(block[1].startswith("allowed: ") and block[2] for block in shown.values())
    given = {key: block[0] for key, block in shown.items() if block[0] != "none"}
    table = tomllib.loads("".join(f"{key} = {value}\n" for key, value in given.items()))
    assert build(cls, table, name) == cls()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet8", "paper:       He et al., Deep residual learning"),
        ("cifar100", f"digests:     test {DATASETS['cifar100'].digests['test']}"),
        ("cifar100", "suite:       cifar100"),  # a name that a data set and a suite share shows both
        ("quick", 'description = "Five methods'),
        ("fog", "one of the benchmark's 15"),
        ("spatter", "held out"),
        ("imagecorruptions:fog", "note: imagecorruptions:* has the strengths of ImageNet-C"),
    ],
)
def test_show_tells_of_all_that_ls_lists(cli, name, told):
    code, out, _ = cli("show", name)
    assert code == 0
    assert told in out


@pytest.mark.parametrize("name", NAMES)
def test_show_a_corruption_with_its_strengths_and_whether_its_files_are_the_published_ones(cli, name):
    *facts, _, head, first, second, third, fourth, fifth = cli("show", name).out.splitlines()
    tables = [kind for kind in ("cifar", "imagenet") if name in TABLES[kind]]
    assert head.lower().split() == ["severity", *tables]
    for severity, row in enumerate((first, second, third, fourth, fifth), 1):
        shown = [float(cell) for cell in row.split()]
        expected = [x for kind in tables for x in TABLES[kind][name][severity - 1]]
        assert shown == pytest.approx([severity, *expected], rel=5e-4)
    equal = "byte for byte to the published files of CIFAR-10-C" in facts[-1]
    assert equal == (name in DETERMINISTIC)
    assert ("no files of CIFAR-10-C-bar" in facts[-1]) == (name in CBAR)


def test_the_strengths_of_fog(cli):
    rows = [re.split(" {2,}", line) for line in cli("show", "fog").out.splitlines()[-5:]]
    assert rows[0] == ["1", "0.2 3", "1.5 2"]
    assert rows[4] == ["5", "1.5 1.75", "3 1.4"]


def test_every_corruption_that_ls_lists_can_be_shown(cli):
    listed = [name for name in first_column(cli("ls", "corruptions").out) if not name.startswith("note: ")]
    assert len(listed) == 48
    assert [name for name in listed if f"corruption:  {name}\n" not in cli("show", name).out] == []


def test_a_beginning_that_several_runs_share_names_them(cli, finished):
    ids = sorted(path.name for path in finished.glob("runs/*"))
    code, out, err = cli("show", "cifar10-sample-", "--out", finished)
    assert (code, out) == (2, "")
    assert err == f"error: show (runs in {finished}): several runs begin so: {', '.join(ids)}\n"


def test_data_verify_says_whether_it_is_the_known_content(cli, small_cifar):
    code, out, _ = cli("data", "verify")
    assert code == 0
    assert out.count(" verified ") == 2
    code, out, _ = cli("data", "verify", "cifar10", "--data-dir", small_cifar)
    assert code == 1
    assert out.count(" unverified ") == 2
    assert load("cifar10", "test", data_dir=small_cifar).digest[:16] in out


def test_data_export_writes_what_was_loaded(cli, tmp_path):
    code, out, _ = cli("data", "export", "cifar10-sample", tmp_path / "files", "--limit", "20")
    assert code == 0
    assert "train: 20 images" in out
    with np.load(tmp_path / "files" / "cifar10-sample-test.npz") as arrays:
        expected = load("cifar10-sample", "test").first(20)
        assert arrays["images"].transpose(0, 3, 1, 2).tolist() == expected.images.tolist()
        assert arrays["labels"].tolist() == expected.labels.tolist()


def test_doctor_reports_the_machine_and_the_data(cli, small_cifar):
    code, out, _ = cli("doctor", "--data-dir", small_cifar)
    assert code == 0
    assert "data         cifar10-sample: verified" in out
    assert "data         cifar10: unverified" in out
    assert re.search(r"^data         cifar100: cifar100 train: not found in ", out, re.MULTILINE)
    assert out.splitlines()[-1] == "ready"


def test_doctor_says_so_when_the_embedded_images_are_damaged(cli, monkeypatch):
    from robusteval.data import sample
    from robusteval.errors import UserError

    def read(split):
        raise UserError("sample: damaged")

    monkeypatch.setattr(sample, "read", read)
    code, out, _ = cli("doctor")
    assert code == 1
    assert out.splitlines()[-1].startswith("not ready")


def test_doctor_says_when_the_allocator_is_not_tuned(cli, monkeypatch):
    import torch

    runtime = Runtime(torch.device("cpu"), 1, "system")
    monkeypatch.setattr("robusteval.runtime.prepare", lambda: runtime)
    out = cli("doctor").out
    assert "allocator    system: CPU work may take longer" in out
    assert re.search(r"^processor .*, 1 thread$", out, re.MULTILINE)
