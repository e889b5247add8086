"""``bytelm eval`` and the offline tasks: lm-eval itself runs on toy models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bytelm import ByteLM, TableLM
from bytelm.cli import main as cli
from bytelm.cli.eval import completed
from bytelm.errors import BytelmError, ModelError
from tests.support.tiny import default_tokenizer

TASKS = Path(__file__).parents[2] / "evals" / "tasks"
STANDARD = {
    "lambada": "lambada/lambada_openai.yaml",
    "piqa": "piqa/piqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "mmlu": "mmlu/default/_default_template_yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "nq_open": "nq_open/nq_open.yaml",
    "triviaqa": "triviaqa/default.yaml",
}
ROWS = {
    "lambada": 5153,
    "piqa": 1838,
    "boolq": 3270,
    "hellaswag": 10042,
    "mmlu": 14042,
    "gsm8k": 1311,
    "nq_open": 3610,
    "triviaqa": 3000,
}
YAML = """\
task: toy_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
doc_to_text: "Q: {{{{question}}}}\\nA:"
"""
CHOICE = """\
output_type: multiple_choice
doc_to_target: label
doc_to_choice: ["no", "yes"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITE = """\
output_type: generate_until
doc_to_target: "{{question}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 3, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


class Failing(TableLM):
    """A table that fails when so many calls were made."""

    calls = 10**9

    def next_token_logprobs(self, sequences: Any) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise ModelError("the toy engine was told to fail")
        return super().next_token_logprobs(sequences)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """What the command loads, whatever is named."""
    made = Failing(default_tokenizer(), order=2, temperature=2.0)
    monkeypatch.setattr(ByteLM, "from_pretrained", lambda name, **options: ByteLM(made))
    return made


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with two toy tasks and their data; lm-eval knows no others, and does not ask what is installed."""
    from lm_eval.tasks import TaskManager

    real = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", lambda self, **given: real(self, **given, include_defaults=False))
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.jsonl"
    words = ("fox", "dog", "model", "time", "world", "café")
    rows = [json.dumps({"question": f"is the {word} quick", "label": len(word) % 2}) for word in words]
    data.write_text("\n".join(rows) + "\n")
    for kind, body in (("choice", CHOICE), ("write", WRITE)):
        (tmp_path / f"{kind}.yaml").write_text(YAML.format(kind=kind, data=data) + body)
    return tmp_path


def run(*words: str) -> Any:
    """Run the command; its exit code."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["eval", *words])
    return exit_.value.code


def test_what_is_added_to_the_arguments() -> None:
    """The model and the batch, where the user says neither; nothing where a configuration file may say them."""
    assert completed(["--tasks", "a"]) == ["run", "--tasks", "a", "--model", "bytelm", "--batch_size", "auto"]
    assert completed(["run", "-t", "a", "-M", "hf", "-b", "4"]) == ["run", "-t", "a", "-M", "hf", "-b", "4"]
    assert completed(["--model=hf", "--batch_size=2"]) == ["run", "--model=hf", "--batch_size=2"]
    assert completed(["ls", "tasks"]) == ["ls", "tasks"]
    assert completed(["run", "--config", "a.yaml"]) == ["run", "--config", "a.yaml"]


def test_without_lm_eval_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and exit code 1."""
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval" or name == "bytelm.harness.model"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)

    assert run("--tasks", "piqa") == 1
    err = capsys.readouterr().err
    assert 'pip install "lm-eval>=0.4.13"' in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_table_has_lm_evals_own_headings(engine: Failing, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever release of pytablewriter is installed: with old ones lm-eval's columns are A, B, C."""
    code = run("--tasks", "toy_choice", "--include_path", str(here), "--model_args", "pretrained=toy")

    assert code in {0, None}
    heading = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    names = [name.strip() for name in heading.strip("|").split("|")]
    assert names == ["Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"]


def test_no_argument_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and where lm-eval's arguments are listed."""
    assert run() == 2
    assert "run --help" in capsys.readouterr().err


def test_lm_eval_finds_the_model_by_its_entry_point() -> None:
    """The distribution declares it where lm-eval looks."""
    from bytelm.harness.model import HarnessLM

    if not find_spec("bytelm") or not (found := entry_points(group="lm_eval.models", name="bytelm")):
        pytest.skip("bytelm is not installed as a distribution")
    (point,) = found
    assert point.load() is HarnessLM


@pytest.mark.slow
def test_tasks_run_and_results_are_written(engine: Failing, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """lm-eval's own output; then an unknown task, and a run that fails and goes on where it stopped."""
    words = ("--include_path", str(here), "--model_args", "pretrained=toy", "--device", "cpu")
    assert run("--tasks", "toy_choice,toy_write", *words, "--output_path", "out", "--log_samples") == 0
    assert "toy_choice" in capsys.readouterr().out
    (written,) = (here / "out").rglob("samples_toy_write_*.jsonl")
    samples = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(samples) == 6
    assert all(len(sample["resps"][0][0].encode()) <= 12 for sample in samples)

    assert run("--tasks", "toy_nothing", *words) == 1
    assert "toy_nothing" in capsys.readouterr().err

    engine.calls = 4
    resumed = ("--tasks", "toy_choice", *words, "--use_cache", "answers", "--batch_size", "1")
    assert run(*resumed) == 1
    assert "told to fail" in capsys.readouterr().err
    engine.calls = 10**9
    before = engine.usage.calls
    assert run(*resumed) == 0
    assert engine.usage.calls - before <= 4


@pytest.mark.slow
def test_two_processes_share_the_work(here: Path) -> None:
    """By torchrun: each answers half of the requests, and the first prints what one alone would."""
    script = here / "parallel.py"
    script.write_text(
        "import json, sys\n"
        "from lm_eval import simple_evaluate\nfrom lm_eval.tasks import TaskManager\n"
        "from bytelm import ByteLM, TableLM\nfrom bytelm.harness.model import HarnessLM\n"
        "from tests.support.tiny import default_tokenizer\n"
        "import lm_eval.evaluator\nlm_eval.evaluator.add_env_info = lambda storage: None\n"
        "lm = HarnessLM(ByteLM(TableLM(default_tokenizer(), order=2, temperature=2.0)))\n"
        "manager = TaskManager(include_path=sys.argv[1], include_defaults=False)\n"
        "found = simple_evaluate(lm, tasks=['toy_choice'], task_manager=manager, bootstrap_iters=0)\n"
        "if found: print('FOUND', lm.world_size, json.dumps(found['results']['toy_choice']['acc,none']),"
        " len(found['samples']['toy_choice']))\n"
    )
    root = Path(__file__).parents[2]
    told = []
    for launcher in ([sys.executable], [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]):
        done = subprocess.run(
            [*launcher, str(script), str(here)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
        assert len(lines) == 1, done.stderr[-3000:]
        told.append(lines[0].split())

    assert [words[1] for words in told] == ["1", "2"]
    assert told[0][2:] == told[1][2:]


# ---- the offline tasks


@pytest.mark.parametrize("name", list(STANDARD))
def test_prompts_and_metrics_are_those_of_lm_eval(name: str) -> None:
    """Every entry of lm-eval's task is in ours, save where the data come from, what of them is there, and version."""
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    ours: dict[str, Any] = load_yaml(TASKS / f"bytelm_{name}.yaml", resolve_func=False)
    folder = Path(lm_eval.__file__).parent / "tasks"
    theirs: dict[str, Any] = load_yaml(folder / STANDARD[name], resolve_func=False)
    if name == "mmlu":
        theirs |= load_yaml(folder / "mmlu/default/mmlu_abstract_algebra.yaml", resolve_func=False)
        theirs["description"] = theirs["description"].replace("abstract algebra", "{{subject}}")
    places = (
        "task",
        "task_alias",
        "tag",
        "include",
        "dataset_path",
        "dataset_name",
        "metadata",
        "process_docs",
        "repeats",
    )
    splits = ("training_split", "validation_split", "test_split", "fewshot_split", "fewshot_config")
    checks = ("should_decontaminate", "doc_to_decontamination_query")
    own = ("custom_dataset", "num_fewshot")
    kept = {key: value for key, value in theirs.items() if key not in (*places, *splits, *checks)}
    given = {key: value for key, value in ours.items() if key not in (*places, *splits, *own)}
    if name == "boolq":
        kept["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]  # its defaults

    assert given == {key: value for key, value in kept.items() if key not in own}
    assert ours["task"] == f"bytelm_{name}"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STANDARD))
def test_offline_tasks_load(name: str, test_data: Path) -> None:
    """All rows of the published file, and a prompt and a target of each."""
    from lm_eval.tasks import TaskManager

    task = TaskManager(include_path=str(TASKS), include_defaults=False).load([f"bytelm_{name}"])["tasks"][
        f"bytelm_{name}"
    ]
    docs = list(task.eval_docs)
    prompts = [task.fewshot_context(doc, 0) for doc in docs[:20]]
    targets = [task.doc_to_target(doc) for doc in docs[:20]]

    assert len(docs) == ROWS[name]
    assert all(prompt.strip() == prompt for prompt in prompts)
    if name == "mmlu":
        assert prompts[0].startswith(
            "The following are multiple choice questions (with answers) about abstract algebra.\n\nFind"
        )
        assert {doc["subject"] for doc in docs} == {*(doc["subject"] for doc in docs)}
        assert len({doc["subject"] for doc in docs}) == 57
    if name in ("piqa", "boolq", "hellaswag", "mmlu"):
        assert {int(target) for target in targets} <= set(range(len(task.doc_to_choice(docs[0]))))
    if name in ("nq_open", "triviaqa"):
        assert all(isinstance(target, list) and target for target in targets)
        assert not any('""' in doc["question"] for doc in docs)
    if name == "lambada":
        assert all(target.startswith(" ") and len(target.split()) == 1 for target in targets)
    if name == "gsm8k":
        assert "#### " in task.fewshot_context(docs[0], 5)
        assert docs[0]["question"] not in task.fewshot_context(docs[1], 5)


def test_data_that_are_missing_or_altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the data should be, and that a file is not the one that is meant."""
    from evals.tasks import data

    monkeypatch.delenv("BYTELM_TEST_DATA", raising=False)
    with pytest.raises(BytelmError, match="BYTELM_TEST_DATA is not set"):
        data.gsm8k()
    monkeypatch.setenv("BYTELM_TEST_DATA", str(tmp_path))
    with pytest.raises(BytelmError, match=r"cannot read .*test\.jsonl"):
        data.gsm8k()
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text("{}\n")
    with pytest.raises(BytelmError, match="another file than the expected one"):
        data.gsm8k()
    with pytest.raises(BytelmError, match="57 expected ones"):
        data.mmlu()
